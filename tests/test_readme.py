import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EM = README.parent / "docs" / "em.md"


@pytest.mark.parametrize("number", [0, 1], ids=["five steps", "your own model"])
def test_the_code_of_the_readme_runs(number, tmp_path):
    code = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)[number]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "bits per dimension" in done.stdout
    assert len(list(tmp_path.glob("runs/*/report.html"))) == 1


def test_the_readme_shows_the_three_methods_without_a_class_of_ours():
    code = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)[1]
    model = code[code.index("class MyVAE") : code.index("run = logpx.fit")]
    assert "logpx" not in model and all(f"def {name}(" in model for name in ("prior", "encoder", "decoder"))


def test_the_monte_carlo_of_the_readme_runs_and_is_right():
    code = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)[2]
    code += "\nassert abs(result.estimate - 3.167e-5) < 4 * result.standard_error\n"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "trust the interval alone" in done.stdout


def test_the_code_of_the_guide_to_em_runs():
    (code,) = re.findall(r"```python\n(.*?)```", EM.read_text(), flags=re.DOTALL)
    code += "\nassert log_p.shape == (500,) and not online.converged\n"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "BernoulliMixture after 19 iterations" in done.stdout


def test_the_project_of_the_readme_is_simulated(tmp_path):
    text = re.findall(r"```yaml\n(.*?)```", README.read_text(), flags=re.DOTALL)[0]
    (tmp_path / "shed.yaml").write_text(text)
    words = [sys.executable, "-m", "logpx", "simulate", "shed.yaml", "--html", "page.html"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "P(completion >= 12 days)" in done.stdout
    assert (tmp_path / "page.html").exists()
