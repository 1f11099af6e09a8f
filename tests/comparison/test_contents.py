"""A comparison's runs all read the same: what was changed since it began is refused with both values."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import runs
from obverse.comparison import run as comparison_run
from obverse.comparison import run_trial as trial
from obverse.comparison.plan import CONFIG, Plan, make_plan
from obverse.config.compare import CompareConfig
from obverse.config.resolve import read
from obverse.config.sources import Layer
from obverse.errors import ConfigError
from obverse.models.load import EMBEDDED
from obverse.python_files import read_once
from obverse.runtime.callbacks import Silent
from obverse.training.loop import train

METHOD = "from obverse.methods.sft import sft\ndef mine():\n    return sft()\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    runs.write_problems(tmp_path / "d.jsonl", num_problems=8, difficulty=(1, 2))
    (tmp_path / "v.py").write_text("from bonus import BONUS\ndef verify(problem, text):\n    return BONUS\n")
    (tmp_path / "bonus.py").write_text("BONUS = 1.0\n")
    (tmp_path / "m.py").write_text(METHOD)
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    (tmp_path / "u.jinja").write_text("{% for m in messages %}{{ m.content }}!{{ eos_token }}{% endfor %}")
    for name in ("model", "anchor"):
        shutil.copytree(EMBEDDED, tmp_path / name)
    comparison_run.write_plan(planned(tmp_path))
    return tmp_path


def planned(root: Path) -> Plan:
    with_anchor = f"f_sft,anchor_model={root / 'anchor'},chat_template={root / 'u.jinja'}"
    given = {
        "methods": (f"{root / 'm.py'}:mine", "sft", with_anchor),
        "dataset": str(root / "d.jsonl"), "tests": f"t={root / 'd.jsonl'}", "verifier": str(root / "v.py"),
        "model": str(root / "model"), "chat_template": str(root / "t.jinja"), "output_dir": str(root / "c"),
        "budget": "3", "budget_in": "steps", "seeds": 1, "num_validation_problems": 1, "num_test_problems": 2,
        "learning_rates": "1e-4",
    }  # fmt: skip
    return make_plan(read(CompareConfig, [Layer("the test", given)], "see the test"))


def edited(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


def flipped(name: str) -> Callable[[Path], None]:
    def flip(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[-9] ^= 1
        (root / name).write_bytes(data)

    return flip


@pytest.mark.parametrize(
    ("name", "change"),
    {
        "dataset": edited("d.jsonl", "+", "-"),
        "verifier": edited("bonus.py", "1.0", "0.0"),
        "method of mine": edited("m.py", "sft()", "sft( )"),
        "chat_template": edited("t.jinja", "eos_token", "'!' + eos_token"),
        "chat_template of f_sft .*": edited("u.jinja", "!", "?"),
        "model": flipped("model/model.safetensors"),
        "anchor_model": flipped("anchor/model.safetensors"),
    }.items(),
)
def test_a_change_between_two_calls_is_refused(name: str, change: Callable[[Path], None], root: Path) -> None:
    comparison_run.write_plan(planned(root))
    change(root)
    with pytest.raises(ConfigError, match=rf"other contents: {name}: \w+ with sha256 [^;]* then, [^;]* now: restore"):
        comparison_run.write_plan(planned(root))


def test_another_version_of_our_row_verifiers_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obverse.comparison.input_fingerprints.package_fingerprint", lambda: "0" * 64)
    with pytest.raises(ConfigError, match=r"verifiers of obverse"):
        comparison_run.write_plan(planned(root))


def test_a_change_while_it_runs_is_refused_before_the_next_trial(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is what it was when the call began; models and rows are read again for every run."""
    begun: list[str] = []
    monkeypatch.setattr(comparison_run, "measure_base", lambda *_: None)
    monkeypatch.setattr(comparison_run, "run_trial", lambda plan, item, *_: begun.append(item.folder.name) or 0)
    with read_once():
        plan = planned(root)
        edited("bonus.py", "1.0", "0.0")(root)
        comparison_run.run_next(plan, None)
        flipped("model/model.safetensors")(root)
        with pytest.raises(ConfigError, match="other contents: model:"):
            comparison_run.run_next(plan, None)
    assert len(begun) == 1


def test_a_run_is_told_which_rows_to_expect(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(root)
    edited("d.jsonl", "+", "-")(root)
    with pytest.raises(ConfigError, match=r"--dataset"):
        trial.run_trial(plan, plan.trials()[0], 1e-4)
    assert not list((root / "c").rglob("metrics.jsonl"))
    config = runs.config("sft", root / "run", "embedded", root / "d.jsonl", max_steps=1)
    with pytest.raises(ConfigError, match="--dataset"):
        train(config, Silent(), {"dataset": "0" * 64})


def test_a_model_that_does_not_exist_leaves_no_comparison_behind(tmp_path: Path) -> None:
    given = {"methods": "sft", "budget": "1K", "model": str(tmp_path / "none"), "output_dir": str(tmp_path / "series")}
    with pytest.raises(ConfigError, match="no such folder"):
        comparison_run.write_plan(make_plan(read(CompareConfig, [Layer("command line", given)], "see")))
    assert not (tmp_path / "series" / CONFIG).exists()
