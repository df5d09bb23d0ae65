"""Projects in files: YAML or CSV in, a project out; what does not fit is named by file and line, with the cure.

Both forms have the same four fields for each task: id, name, predecessors and duration.
"""

from __future__ import annotations

__all__ = ["example", "read_project"]

import csv
import dataclasses
import difflib
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import yaml

from ..utils import LogpxError
from ..yaml_loader import BoundedLoader
from .durations import Duration, parse_duration
from .network import Project, Task, TaskError

EXAMPLE = Path(__file__).with_name("example.yaml")
PROJECT_KEYS = ("name", "unit", "deadline", "tasks")
LONGEST_MESSAGE = 1000
TASK_KEYS = ("id", "name", "predecessors", "duration")


def read_project(path: str | Path) -> Project:
    """Reads a project from a .yaml, .yml or .csv file.

    In YAML, `tasks` is a list of mappings with the keys id, duration and, if wanted, predecessors and name; beside it
    `name`, `unit` and `deadline` may stand. In CSV, a header names columns id, predecessors, duration and, if wanted,
    name, in any order, and each row is a task. Predecessors are a YAML list, or ids between which there are spaces,
    commas or semicolons. For durations see :func:`parse_duration`.

    Ids are compared as they are written, except that spreadsheets like to write 1 as 1.0: a predecessor for which there
    is no task under its own name is taken for the task of the same whole number.

    Arguments:
        path: The file.

    Raises:
        LogpxError: If the file is not there or something in it does not fit.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".yaml", ".yml", ".csv"):
        raise LogpxError(f"{path}: a project must be a .yaml, .yml or .csv file, but ends in {suffix!r}: rename it.")
    file = _File(path, _text(path))
    return file.project(*(_read_csv(file) if suffix == ".csv" else _read_yaml(file)))


def example() -> Project:
    """Returns the example network of ten tasks, with exponential durations in days.

    References:
        Monte Carlo theory, methods and examples (Owen, 2013).

    Example:
        >>> example().critical_path(), example().mean_completion
        (('1', '2', '4', '10'), 15.0)
    """
    return read_project(EXAMPLE)


@dataclasses.dataclass(frozen=True)
class _Row:
    """A task as it stands in a file, from some line on; duration and predecessors have lines of their own."""

    line: int
    id: str
    name: str
    predecessors: tuple[str, ...]
    predecessors_line: int
    duration: Duration


@dataclasses.dataclass(frozen=True)
class _File:
    """A file, and how its errors begin."""

    path: Path
    text: str

    def fail(self, line: int, message: str) -> NoReturn:
        """Raises the error of a line, whose message starts in lower case; of a long text the middle is left out."""
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"
        raise LogpxError(f"{self.path}, line {line}: {message[0].lower()}{message[1:]}") from None

    def duration(self, line: int, task: str, text: str) -> Duration:
        """Returns the duration of a task."""
        if not text:
            self.fail(line, f"task {task!r} must have a duration, but has none: give one such as exponential(4).")
        try:
            return parse_duration(text)
        except ValueError as error:
            self.fail(line, f"task {task!r}: {str(error)[0].lower()}{str(error)[1:]}")

    def require_known(self, line: int, what: str, keys: Sequence[str], known: Sequence[str], hint: str = "") -> None:
        """Fails unless keys are known and each is there once."""
        for key in keys:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                mean = f" (did you mean {close[0]!r}?)" if close else ""
                self.fail(line, f"unknown {what} {key!r}{mean}: allowed are {', '.join(known)}{hint}.")
            if keys.count(key) > 1:
                self.fail(line, f"{what} {key!r} must be there once, but is there {keys.count(key)} times: drop one.")

    def project(
        self, rows: Sequence[_Row], line: int, name: str = "", unit: str = "days", deadline: float | None = None
    ) -> Project:
        """Returns the project of the tasks, which begin after some line."""
        if not rows:
            self.fail(line, "a project must have at least one task, but has none: add one.")
        lines: dict[str, int] = {}
        for row in rows:
            if row.id in lines:
                what = f"task {row.id!r} must have an id of its own, but line {lines[row.id]} has it too"
                self.fail(row.line, f"{what}: rename one.")
            lines[row.id] = row.line
        try:
            tasks = [Task(row.id, row.duration, _resolved(row.predecessors, lines), row.name) for row in rows]
            return Project(tuple(tasks), name, unit, deadline)
        except TaskError as error:
            self.fail(rows[error.index].predecessors_line, str(error))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise LogpxError(f"{path}: a project must be a file, but there is none: correct the path.") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise LogpxError(f"{path}, line {line}: text must be UTF-8, but is not: save it as UTF-8.") from None
    except OSError as error:
        raise LogpxError(f"{path}: a project must be readable, but is not ({error.strerror}): mend this.") from None


def _resolved(predecessors: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Returns predecessors under the names of their tasks, where 1 and 1.0 differ only if both are there."""
    ids = set(known)
    whole = {_whole(each): each for each in ids}
    return tuple(each if each in ids else whole.get(_whole(each), each) for each in predecessors)


def _whole(text: str) -> str:
    return re.sub(r"^(\d+)\.0*$", r"\1", text)


def _split(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"[\s,;]+", text.strip(" \t\r\n,;"))) if text.strip(" \t\r\n,;") else ()


def _read_csv(file: _File) -> tuple[list[_Row], int]:
    records = _records(file)
    if not records:
        file.fail(1, f"a table must begin with a header, but the file is empty: write {', '.join(TASK_KEYS)}.")
    header_line, header = records[0][0], [cell.lower() for cell in records[0][1]]
    hint = " (put commas between them)" if len(header) == 1 else ""
    file.require_known(header_line, "column", header, TASK_KEYS, hint)
    for column in ("id", "predecessors", "duration"):
        if column not in header:
            file.fail(header_line, f"column {column!r} must be there, but the header has {', '.join(header)}: add it.")
    return [_csv_row(file, line, header, cells) for line, cells in records[1:]], header_line


def _records(file: _File) -> list[tuple[int, list[str]]]:
    """Returns the rows that are not blank, with the lines on which they begin."""
    reader, records, line = csv.reader(io.StringIO(file.text, newline=""), strict=True), [], 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        file.fail(line, f"a row must be cells with commas between them, but is not ({error}): mend its quotes.")
    return records


def _csv_row(file: _File, line: int, header: list[str], cells: list[str]) -> _Row:
    if len(cells) != len(header):
        count = f"{len(header)} cells as the header has, but has {len(cells)}"
        file.fail(line, f"a row must have {count}: put quotes around a cell with commas.")
    row = dict(zip(header, cells, strict=True))
    if not row["id"]:
        file.fail(line, "a task must have an id, but has none: give it one.")
    duration = file.duration(line, row["id"], row["duration"])
    return _Row(line, row["id"], row.get("name", ""), _split(row["predecessors"]), line, duration)


def _read_yaml(file: _File) -> tuple[list[_Row], int, str, str, float | None]:
    keys = _mapping(file, _composed(file), "the file", PROJECT_KEYS)
    if "tasks" not in keys:
        file.fail(1, f"key 'tasks' must be there, but the file has only {', '.join(keys)}: list the tasks in it.")
    tasks = keys["tasks"]
    if not isinstance(tasks, yaml.SequenceNode) and not _is_null(tasks):
        file.fail(_line(tasks), "tasks must be a list, but are not: begin each with '- id: ...'.")
    rows = [] if _is_null(tasks) else [_yaml_row(file, node) for node in tasks.value]
    name = _scalar(file, keys["name"], "name") if "name" in keys else ""
    unit = (_scalar(file, keys["unit"], "unit") if "unit" in keys else "") or "days"
    return rows, _line(tasks), name, unit, _deadline(file, keys["deadline"]) if "deadline" in keys else None


def _deadline(file: _File, node: yaml.Node) -> float | None:
    text = _scalar(file, node, "deadline")
    try:
        deadline = float(text) if text else None
    except ValueError:
        deadline = -1.0
    if deadline is not None and not 0 < deadline < math.inf:
        file.fail(_line(node), f"the deadline must be a positive number, but is {text!r}: write one such as 70.")
    return deadline


def _composed(file: _File) -> yaml.Node:
    try:
        # the nodes know their lines, and building no objects of them, they can do no harm
        node = yaml.compose(file.text, Loader=BoundedLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        file.fail(mark.line + 1 if mark else 1, f"the file must be YAML, but is not ({error.problem}): mend this line.")
    except yaml.YAMLError as error:
        line = file.text[: getattr(error, "position", 0)].count("\n") + 1
        file.fail(line, f"the file must be YAML, but is not ({str(error).splitlines()[0]}): mend this line.")
    if node is None:
        file.fail(1, "a project must have at least one task, but the file is empty: list them under 'tasks:'.")
    return node


def _yaml_row(file: _File, node: yaml.Node) -> _Row:
    keys = _mapping(file, node, "a task", TASK_KEYS)
    identity = _scalar(file, keys["id"], "id") if "id" in keys else ""
    if not identity:
        file.fail(_line(node), "a task must have an id, but has none: give it one.")
    timed = keys.get("duration", node)
    text = _scalar(file, timed, "duration") if "duration" in keys else ""
    waits = keys.get("predecessors", node)
    predecessors = _predecessors(file, waits) if "predecessors" in keys else ()
    name = _scalar(file, keys["name"], "name") if "name" in keys else ""
    return _Row(_line(node), identity, name, predecessors, _line(waits), file.duration(_line(timed), identity, text))


def _predecessors(file: _File, node: yaml.Node) -> tuple[str, ...]:
    if isinstance(node, yaml.SequenceNode):
        return tuple(_scalar(file, each, "a predecessor") for each in node.value)
    return _split(_scalar(file, node, "predecessors"))


def _mapping(file: _File, node: yaml.Node, what: str, known: Sequence[str]) -> dict[str, yaml.Node]:
    """Returns the nodes under the keys of a mapping, all of them known."""
    if not isinstance(node, yaml.MappingNode):
        file.fail(_line(node), f"{what} must have keys among {', '.join(known)}, but has none: write 'key: value'.")
    hint = " (within braces, put quotes around a value with commas)" if node.flow_style else ""
    keys = [_scalar(file, key, "a key") for key, _ in node.value]
    for key, (key_node, _) in zip(keys, node.value, strict=True):
        file.require_known(_line(key_node), "key", [key], known, hint)
    file.require_known(_line(node), "key", keys, known)
    return dict(zip(keys, (value for _, value in node.value), strict=True))


def _scalar(file: _File, node: yaml.Node, what: str) -> str:
    """Returns the text of a value as it was written; empty for null."""
    if not isinstance(node, yaml.ScalarNode):
        file.fail(_line(node), f"{what} must be one value, but is a list or a mapping: write it as text.")
    return "" if _is_null(node) else node.value.strip()


def _is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1
