"""The public names of `obverse`: loaded when they are used, and the same as the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import obverse
from obverse.cli.main import main
from obverse.errors import ConfigError, DataError
from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.methods import name_of, sft
from obverse.runtime.callbacks import Silent

OPTIONS = {"dataset": "arithmetic:1-2", "max_steps": 2, "prompts_per_step": 4, "num_problems": 16, "report": False}
SPEED = ("time/", "step_time", "tokens_per_second", "memory")  # metrics that differ from run to run
METHOD_FILE = """
import obverse
from obverse.methods.sft import sft

def imitate(strength: float = 1.0) -> obverse.Method:
    method = sft()
    assert isinstance(method.terms[0], obverse.Term) and 0 < strength <= 1
    return method
"""


def figures(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics without those of speed and memory."""
    rows = obverse.load_run(folder).metrics
    assert rows
    return [{name: value for name, value in row.items() if not name.startswith(SPEED)} for row in rows]


def test_importing_obverse_imports_no_torch() -> None:
    code = (
        "import sys, obverse; names = dir(obverse); assert set(obverse.__all__) <= set(names);"
        "print([name for name in ('torch', 'transformers', 'pydantic', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "[]\n", result.stderr


def test_every_public_name_is_there_and_others_are_not() -> None:
    assert obverse.Method is Method and obverse.Term is Term and obverse.find("sft") is not None
    assert all(callable(getattr(obverse, name)) for name in obverse.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="trane"):
        obverse.trane  # noqa: B018 - it is the lookup that raises


def test_train_gives_the_metrics_of_the_command(tmp_path: Path) -> None:
    words = [word for name, value in OPTIONS.items() if name != "report" for word in (f"--{name}", str(value))]
    assert main(["train", "hpt", *words, "--no-report", "--output_dir", str(tmp_path / "command")]) == 0
    outcome = obverse.train("hpt", output_dir=tmp_path / "call", **OPTIONS)
    assert outcome.folder == tmp_path / "call" and outcome.step == 2 and not outcome.stopped
    assert figures(outcome.folder) == figures(tmp_path / "command")
    run = obverse.load_run(outcome.folder)
    assert run.config["method"] == "hpt" and [path.name for path in run.checkpoints] == ["checkpoint-2"]


def test_evaluate_and_load_run(tmp_path: Path) -> None:
    options = {"num_problems": 3, "num_generations": 2, "k": [1, 2], "output": tmp_path}
    (report,) = obverse.evaluate("embedded", dataset="arithmetic:1", **options)
    assert 0 <= report.pass_at(1) <= report.pass_at(2) <= 1
    with pytest.raises(DataError, match="no run"):
        obverse.load_run(tmp_path)
    (tmp_path / "config.yaml").write_text("method: hpt\n")
    run = obverse.load_run(tmp_path)
    assert (run.config, list(run.metrics), run.checkpoints) == ({"method": "hpt"}, [], [])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: obverse.train("hpt", learning_rat=1), "^unknown option learning_rat: did you mean learning_rate"),
        (lambda: obverse.train("hpt", learning_rate="x"), "^learning_rate: expects a number, not 'x'$"),
        (lambda: obverse.train("htp"), "did you mean 'hpt'"),
        (lambda: obverse.train(lambda: None), "top level"),
        (lambda: obverse.evaluate("embedded", benchmarks=["aime2"]), "did you mean 'aime2"),
        (lambda: obverse.evaluate("embedded", num_generation=2), "did you mean num_generations"),
        (lambda: obverse.compare(["sft", "htp"], budget="1M"), "did you mean 'hpt'"),
        (lambda: obverse.compare(["sft"]), "budget: is required"),
    ],
)
def test_a_mistake_is_a_config_error(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_a_method_is_a_name_or_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_of("dir/a.py:f") == "dir/a.py:f"
    assert name_of(sft.sft) == name_of(obverse.find("sft")) == "sft"
    file = tmp_path / "own_methods.py"
    file.write_text(METHOD_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    import own_methods  # type: ignore[import-not-found]  # here: the test writes it

    assert name_of(own_methods.imitate) == f"{file}:imitate"
    watcher = Silent()
    steps: list[int] = []
    monkeypatch.setattr(watcher, "step", lambda step, total, metrics: steps.append(step))
    outcome = obverse.train(own_methods.imitate, watcher=watcher, output_dir=tmp_path / "run", strength=0.5, **OPTIONS)
    assert steps == [1, 2]
    assert obverse.load_run(outcome.folder).config["strength"] == 0.5
    with pytest.raises(ConfigError, match="did you mean strength"):
        obverse.train(own_methods.imitate, strenght=0.5)


def test_a_script_that_trains_while_it_is_read_is_refused(tmp_path: Path) -> None:
    options = ", ".join(f"{name}={value!r}" for name, value in OPTIONS.items())
    script = tmp_path / "script.py"
    script.write_text(f"{METHOD_FILE}\nobverse.train(imitate, output_dir='run', {options})\n")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert result.returncode == 1 and "__main__" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
