"""Projects in files: what is written is read, and what does not fit is one sentence with file, line and cure."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from logpx import LogpxError
from logpx.project import Duration, Project, Task, example, parse_duration, read_project

HEADER = "id,predecessors,duration\n"


def read(tmp_path: Path, suffix: str, content: str | bytes) -> Project:
    path = tmp_path / f"tasks.{suffix}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_project(path)


def listed(*tasks: str) -> str:
    """Returns a YAML file whose tasks, one per line, begin on line 2."""
    return "tasks:\n" + "".join(f"  - {{{task}}}\n" for task in tasks)


# --- what fits


def test_the_example_is_that_of_the_book() -> None:
    project = example()
    assert project.ids == tuple(str(i) for i in range(1, 11))
    waits = ["", "1", "1", "2", "2", "3", "3", "3", "5 6 7", "4 8 9"]
    assert [" ".join(task.predecessors) for task in project.tasks] == waits
    assert project.means.tolist() == [4, 4, 2, 5, 2, 3, 2, 3, 2, 2]
    assert {task.duration.family for task in project.tasks} == {"exponential"}
    assert (project.unit, project.mean_completion, project.deadline) == ("days", 15, 70)


def test_all_that_yaml_may_say_is_read(tmp_path: Path) -> None:
    content = """
name: A house
unit: weeks
deadline: 9.5
tasks:
  - id: 1
    name: survey
    duration: exponential(4)
  - id: dig it
    predecessors: 1
    duration: triangular(2, 3, 7)
  - id: no
    predecessors: [1, dig it]
    duration: 2.5
  - {id: end, predecessors: "1, no", duration: "uniform(1, 2)", name: ~}
  - {id: "7", predecessors: null, duration: 0}
"""
    project = read(tmp_path, "yml", content)
    assert (project.name, project.unit, project.deadline) == ("A house", "weeks", 9.5)
    assert project.tasks == (
        Task("1", parse_duration("exponential(4)"), (), "survey"),
        Task("dig it", parse_duration("triangular(2, 3, 7)"), ("1",)),
        Task("no", parse_duration(2.5), ("1", "dig it")),
        Task("end", parse_duration("uniform(1, 2)"), ("1", "no")),
        Task("7", parse_duration(0)),
    )


def test_all_that_csv_may_say_is_read(tmp_path: Path) -> None:
    lines = ["\ufeffDuration, id ,name,predecessors", "", '4,1,"dig, deep",', ",,,", '"pert(2, 3, 7)",b,,1']
    content = "\r\n".join([*lines, ' 1 ,c,,"1, b"', "2,d,,b;c 1", ""])
    project = read(tmp_path, "CSV", content)
    assert project.tasks == (
        Task("1", parse_duration(4), (), "dig, deep"),
        Task("b", parse_duration("pert(2, 3, 7)"), ("1",)),
        Task("c", parse_duration(1), ("1", "b")),
        Task("d", parse_duration(2), ("b", "c", "1")),
    )
    assert (project.name, project.unit) == ("", "days")


words = st.text("abcdefgh -_.äß0123456789", min_size=1, max_size=6).map(str.strip).filter(bool)
durations = st.sampled_from(
    [Duration("fixed", (2,)), Duration("exponential", (0.1,)), Duration("pert", (2, 3, 7)), Duration("gamma", (4, 2))]
)


@given(
    st.lists(
        st.tuples(words.map(lambda word: word.replace(" ", "_")), durations, words),
        min_size=1,
        unique_by=lambda t: t[0],
    )
)
@settings(max_examples=50, deadline=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, Duration, str]]
) -> None:
    folder, ids = tmp_path_factory.mktemp("files"), [row[0] for row in rows]
    tasks = [Task(i, duration, tuple(ids[max(0, k - 2) : k]), name) for k, (i, duration, name) in enumerate(rows)]
    keyed = [
        {"id": task.id, "name": task.name, "predecessors": list(task.predecessors), "duration": str(task.duration)}
        for task in tasks
    ]
    (folder / "tasks.yaml").write_text(yaml.safe_dump({"tasks": keyed}, allow_unicode=True), encoding="utf-8")
    with (folder / "tasks.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["duration", "predecessors", "id", "name"])
        writer.writeheader()
        writer.writerows({**row, "predecessors": " ".join(row["predecessors"])} for row in keyed)
    for name in ("tasks.yaml", "tasks.csv"):
        assert read_project(folder / name).tasks == tuple(tasks)


@pytest.mark.parametrize("ids, waits", [("1", "1.0"), ("1.0", "1"), ("01", "01."), ("1,1.0", "1.0"), ("1,1.0", "1")])
def test_a_whole_number_may_be_written_with_a_point(tmp_path: Path, ids: str, waits: str) -> None:
    # where both are tasks, each is meant as it is written
    tasks = [f"id: {i}, duration: 1" for i in ids.split(",")]
    project = read(tmp_path, "yaml", listed(*tasks, f"id: b, duration: 2, predecessors: [{waits}]"))
    assert project.ids == (*ids.split(","), "b")
    assert project.tasks[-1].predecessors == (waits if waits in ids.split(",") else ids,)


def test_numbers_of_an_outline_are_not_whole_numbers(tmp_path: Path) -> None:
    project = read(tmp_path, "csv", HEADER + "1.1,,1\n1.10,1.1,2\n")
    assert project.ids == ("1.1", "1.10")
    assert project.tasks[1].predecessors == ("1.1",)


# --- what does not fit


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "line 1: a project must have at least one task, but the file is empty: list them under 'tasks:'."),
        ("name: x\ntasks:\n", "line 2: a project must have at least one task, but has none: add one."),
        ("name: x\n\ntasks: []\n", "line 3: a project must have at least one task, but has none: add one."),
        (
            "- id: 1\n",
            "line 1: the file must have keys among name, unit, deadline, tasks, but has none: write 'key: value'.",
        ),
        ("\nname: x\n", "line 1: key 'tasks' must be there, but the file has only name: list the tasks in it."),
        ("name: x\ntasks: 5\n", "line 2: tasks must be a list, but are not: begin each with '- id: ...'."),
        (
            "name: x\ntask: []\n",
            "line 2: unknown key 'task' (did you mean 'tasks'?): allowed are name, unit, deadline, tasks.",
        ),
        ("name: [x]\ntasks: []", "line 1: name must be one value, but is a list or a mapping: write it as text."),
        ("name: x\nname: y\n", "line 1: key 'name' must be there once, but is there 2 times: drop one."),
        ("a: b: c", "line 1: the file must be YAML, but is not (mapping values are not allowed here): mend this line."),
        (
            "tasks:\n  - id: [1\n",
            "line 3: the file must be YAML, but is not (expected ',' or ']', but got '<stream end>')",
        ),
        ("tasks:\n  - id: \x00", "line 2: the file must be YAML, but is not (unacceptable character"),
        ("tasks: []\n---\na: 1\n", "line 2: the file must be YAML, but is not (but found another document)"),
        ("tasks:\n" + "[" * 500, "line 2: the file must be YAML, but is not (it is nested deeper than 20 levels)"),
        (b"tasks:\n  - id: \xff", "line 2: text must be UTF-8, but is not: save it as UTF-8."),
        (
            listed("id: 1, duration: 1") + "  - 5\n",
            "line 3: a task must have keys among id, name, predecessors, duration,",
        ),
        (listed("duration: 1"), "line 2: a task must have an id, but has none: give it one."),
        (listed("id: ~, duration: 1"), "line 2: a task must have an id, but has none: give it one."),
        (listed("id: 1"), "line 2: task '1' must have a duration, but has none: give one such as exponential(4)."),
        ("tasks:\n  - id: 1\n    duration:\n", "line 3: task '1' must have a duration, but has none"),
        ("tasks:\n  - id: 1\n    duration: [4]\n", "line 3: duration must be one value, but is a list or a mapping"),
        (
            "tasks:\n  - id: 1\n    duration: exponential(-4)\n",
            "line 3: task '1': exponential(mean) needs mean > 0, but got exponential(-4): correct the numbers.",
        ),
        ("tasks:\n  - id: 1\n    duration: -4\n", "line 3: task '1': a fixed duration needs value >= 0, but got -4"),
        (
            "tasks:\n  - id: 1\n    duration: weibull(4)\n",
            "line 3: task '1': the family of a duration must be known, but is 'weibull': write a number, ",
        ),
        (
            "tasks:\n  - id: 1\n    duration: 4\n    predecesors: 3\n",
            "line 4: unknown key 'predecesors' (did you mean 'predecessors'?): allowed are id, name, predecessors, "
            "duration.",
        ),
        (
            listed("id: 1, duration: triangular(2, 3, 7)"),
            "line 2: unknown key '3': allowed are id, name, predecessors, duration (within braces, put quotes around a "
            "value with commas).",
        ),
        (
            listed("id: 1, duration: 1", "id: 2, duration: 1", "id: 1, duration: 3"),
            "line 4: task '1' must have an id of its own, but line 2 has it too: rename one.",
        ),
        (
            "tasks:\n  - id: survey\n    duration: 1\n  - id: dig\n    duration: 1\n    predecessors: [survy]\n",
            "line 6: task 'dig' has unknown predecessor 'survy': add that task, or correct the id "
            "(did you mean 'survey'?).",
        ),
        (
            listed("id: x, duration: 1", "id: a, duration: 1, predecessors: c", "id: b, duration: 1, predecessors: a")
            + "  - id: c\n    duration: 1\n    predecessors:\n      - b\n",
            "line 3: tasks must not wait for each other in a circle, but do: a -> b -> c -> a; drop one of these "
            "predecessors.",
        ),
        (listed("id: 1, duration: 1, predecessors: [[2]]"), "line 2: a predecessor must be one value, but is a list"),
        ("? [1]\n: 2\n", "line 1: a key must be one value, but is a list or a mapping"),
    ],
)
def test_yaml_that_does_not_fit_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(LogpxError) as caught:
        read(tmp_path, "yaml", content)
    assert str(caught.value).startswith(f"{tmp_path / 'tasks.yaml'}, {message}")


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "",
            "line 1: a table must begin with a header, but the file is empty: write id, name, predecessors, duration.",
        ),
        ("\n" + HEADER + "\n,,\n", "line 2: a project must have at least one task, but has none: add one."),
        (
            "id,predecessors\n1,\n",
            "line 1: column 'duration' must be there, but the header has id, predecessors: add it.",
        ),
        ("id,duration\n1,2\n", "line 1: column 'predecessors' must be there, but the header has id, duration: add it."),
        ("id,duration,predecessors,id\n", "line 1: column 'id' must be there once, but is there 2 times: drop one."),
        (
            "id,predecessors,length\n",
            "line 1: unknown column 'length': allowed are id, name, predecessors, duration.",
        ),
        (
            "id;predecessors;duration\n1;;2\n",
            "line 1: unknown column 'id;predecessors;duration' (did you mean 'predecessors'?): allowed are id, name, "
            "predecessors, duration (put commas between them).",
        ),
        (
            HEADER + "1,,triangular(2, 3, 7)\n",
            "line 2: a row must have 3 cells as the header has, but has 5: put quotes around a cell with commas.",
        ),
        (HEADER + "1,,2\n2\n", "line 3: a row must have 3 cells as the header has, but has 1"),
        (HEADER + "1,,2\n,1,3\n", "line 3: a task must have an id, but has none: give it one."),
        (HEADER + "\n1,,\n", "line 3: task '1' must have a duration, but has none: give one such as exponential(4)."),
        (HEADER + "1,,-4\n", "line 2: task '1': a fixed duration needs value >= 0, but got -4: correct the numbers."),
        (HEADER + "1,,weibull(4)\n", "line 2: task '1': the family of a duration must be known, but is 'weibull'"),
        (
            HEADER + '1,,"uniform(5, 2)"\n',
            "line 2: task '1': uniform(low, high) needs 0 <= low < high, but got uniform(5,",
        ),
        (
            HEADER + "1,,1\n\n2,,1\n1,,1\n",
            "line 5: task '1' must have an id of its own, but line 2 has it too: rename one.",
        ),
        (
            'id,predecessors,duration,name\n1,,1,"two\nlines"\n2,3,1,\n',
            "line 4: task '2' has unknown predecessor '3': add that task, or correct the id.",
        ),
        (
            HEADER + "a,b,1\nb,a,2\n",
            "line 2: tasks must not wait for each other in a circle, but do: a -> b -> a; drop one of these ",
        ),
        (
            HEADER + '1,,2\n2,"1,3\n4',
            "line 3: a row must be cells with commas between them, but is not (unexpected end of",
        ),
        (HEADER.encode() + b"1,,2\n\xe4,1,3\n", "line 3: text must be UTF-8, but is not: save it as UTF-8."),
    ],
)
def test_csv_that_does_not_fit_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(LogpxError) as caught:
        read(tmp_path, "csv", content)
    assert str(caught.value).startswith(f"{tmp_path / 'tasks.csv'}, {message}")


def test_a_file_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogpxError, match=r"none\.yaml: a project must be a file, but there is none: correct the path"):
        read_project(tmp_path / "none.yaml")
    with pytest.raises(
        LogpxError, match=r"tasks\.xlsx: a project must be a .yaml, .yml or .csv file, but ends in '.xlsx'"
    ):
        read(tmp_path, "xlsx", "")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(LogpxError, match=r"folder\.csv: a project must be readable, but is not \(Is a directory\)"):
        read_project(tmp_path / "folder.csv")


def test_reading_runs_nothing_that_a_file_asks_for(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    with pytest.raises(LogpxError, match="line 1: tasks must be a list"):
        read(
            tmp_path,
            "yaml",
            f"tasks: !!python/object/apply:os.mkdir ['{trap}']\n".replace("['", "{a: '").replace("']", "'}"),
        )
    read(tmp_path, "yaml", f"tasks:\n  - id: !!python/object/apply:os.mkdir '{trap}'\n    duration: 1\n")
    assert not trap.exists()


@pytest.mark.parametrize("text", ["soon", "-3", "0", ".nan", "inf"])
def test_a_deadline_that_is_no_positive_number_is_an_error(tmp_path: Path, text: str) -> None:
    content = f"deadline: {text}\n" + listed("id: 1, duration: 2")
    with pytest.raises(LogpxError, match=r"tasks.yaml, line 1: the deadline must be a positive number"):
        read(tmp_path, "yaml", content)


def test_a_project_refuses_such_a_deadline_too() -> None:
    with pytest.raises(ValueError, match="A deadline must be positive and finite, but is -1"):
        Project((Task("1", parse_duration(2)),), deadline=-1.0)
