import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import environment

from logpx.cli import main
from logpx.likelihoods import LIKELIHOODS
from logpx.settings import ModelSettings, known_recipes

README = Path(__file__).parents[1] / "README.md"
EM = README.parent / "docs" / "em.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.usefixtures("unpainted")
def test_the_five_steps_of_the_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(blocks("python")[0], {})
    assert "bits per dimension" in capsys.readouterr().out
    assert len(list(tmp_path.glob("runs/*/report.html"))) == 1


def test_your_own_model_of_the_readme_runs_as_a_process(tmp_path):
    words = [sys.executable, "-W", "error", "-c", blocks("python")[1]]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "bits per dimension" in done.stdout
    assert len(list(tmp_path.glob("runs/*/report.html"))) == 1


def test_the_readme_shows_the_three_methods_without_a_class_of_ours():
    code = blocks("python")[1]
    model = code[code.index("class MyVAE") : code.index("run = logpx.fit")]
    assert "logpx" not in model and all(f"def {name}(" in model for name in ("prior", "encoder", "decoder"))


def test_the_monte_carlo_of_the_readme_runs_and_is_right(capsys):
    names = {}
    exec(blocks("python")[2], names)
    result = names["result"]
    assert abs(result.estimate - 3.167e-5) < 4 * result.standard_error
    assert "trust the interval alone" in capsys.readouterr().out


def test_the_code_of_the_guide_to_em_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", EM.read_text(), flags=re.DOTALL)
    names = {}
    exec(code, names)
    assert names["log_p"].shape == (500,) and not names["online"].converged
    assert "BernoulliMixture after 19 iterations" in capsys.readouterr().out


def test_the_project_of_the_readme_is_simulated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("shed.yaml").write_text(blocks("yaml")[0])
    assert main(["simulate", "shed.yaml", "--html", "page.html"]) == 0
    assert "P(completion >= 12 days)" in capsys.readouterr().out
    assert Path("page.html").exists()


def test_the_model_with_levels_of_the_guide_to_likelihoods_runs(tmp_path, monkeypatch, capsys):
    code = re.findall(r"```python\n(.*?)```", (README.parent / "docs" / "likelihoods.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code[0], {})
    text = capsys.readouterr().out
    # a uniform code of 17 levels has 4.09 bits
    assert 1 < float(re.search(r"bits per dimension +([\d.]+)", text)[1]) < 4
    assert "relaxed" not in text


def test_the_code_of_the_guide_to_proposals_runs_and_is_right(capsys):
    text = (README.parent / "docs" / "proposals.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    torch.manual_seed(0)
    names = {}
    exec(code, names)
    assert names["better"].standard_error.mean() < names["plain"].standard_error.mean()
    assert capsys.readouterr().out.count("tensor(") == 3


def test_no_page_waits_for_a_table():
    pages = [README, *sorted((README.parent / "docs").glob("*.md"))]
    assert [page.name for page in pages if re.search(r"^\s*TABLE\s*$", page.read_text(), flags=re.MULTILINE)] == []


def test_every_recipe_and_likelihood_is_named_where_people_look_for_it():
    guide = (README.parent / "docs" / "likelihoods.md").read_text()
    words = next(field.metadata["help"] for field in dataclasses.fields(ModelSettings) if field.name == "likelihood")
    assert [name for name in known_recipes() if f"`{name}`" not in README.read_text()] == []
    assert [name for name in LIKELIHOODS if f"`{name}`" not in guide or name not in words] == []
