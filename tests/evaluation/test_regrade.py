"""Stored samples graded again, offline."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path

import pytest
from conftest import Count
from report.test_damage import damage
from tiny_models import save_tiny

import runs
from obverse.config.eval import EvalConfig, RegradeConfig
from obverse.errors import ConfigError, DamageError, DataError, UserError
from obverse.evaluation.evaluate import evaluate
from obverse.evaluation.regrade import regrade
from obverse.evaluation.sample_store import SAMPLES, SampleStore

RULES = "def {}(problem, text):\n    return {}\n"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results: 4 problems, 3 samples each of 2 seeds, graded by whether the text's length is odd."""
    root = tmp_path_factory.mktemp("regrade")
    model = save_tiny("qwen2", root / "model")
    chains = runs.write_problems(root / "chains.jsonl", num_problems=4)
    (root / "odd.py").write_text(RULES.format("odd", "len(text) % 2"))
    (root / "even.py").write_text(RULES.format("even", "1 - len(text) % 2"))
    evaluate(
        EvalConfig(
            model=str(model),
            dataset=str(chains),
            output=root / "out",
            k=(1, 3),
            max_completion_length=8,
            num_seeds=2,
            verifier=f"{root / 'odd.py'}:odd",
        )
    )
    model.rename(root / "gone")  # no model is needed from here on
    return root


def test_the_same_verifier_says_the_same(evaluated: Path) -> None:
    (report,) = regrade(RegradeConfig(regrade=evaluated / "out" / "chains"))
    first = json.loads((evaluated / "out" / "chains" / "result.json").read_text())
    assert report.path == evaluated / "out" / "chains" / "regraded.json"
    again = json.loads(report.path.read_text())
    assert again["summary"] == first["summary"] and again["problems"] == first["problems"]
    assert again["changed"] == {} and report.notes == ("of 24 verdicts 0 changed",)


def test_another_verifier_says_otherwise_and_what_was_there_stays(evaluated: Path) -> None:
    folder = evaluated / "out" / "chains"
    before = {name: (folder / name).read_bytes() for name in ("result.json", SAMPLES)}
    (report,) = regrade(RegradeConfig(regrade=evaluated / "out", verifier=f"{evaluated / 'even.py'}:even", k=(1, 2)))
    assert before == {name: (folder / name).read_bytes() for name in before}
    first = json.loads(before["result.json"])["summary"]["all"]
    row = report.summary()["all"]
    assert row["avg@3"] == pytest.approx(1 - first["avg@3"]) and {"pass@2", "maj@2"} <= row.keys()
    assert report.path is not None
    stored = json.loads(report.path.read_text())
    assert sum(stored["changed"].values()) == 24 and stored["grader"]["verifiers"][0].endswith("even.py:even")
    assert all(row["correct"] == (len(row["text"]) % 2 == 1) for row in SampleStore(folder).rows())


def test_what_cannot_be_graded_again_is_one_sentence(evaluated: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        regrade(RegradeConfig(regrade=tmp_path))
    with pytest.raises(ConfigError, match="unknown verifier 'mat'"):
        regrade(RegradeConfig(regrade=evaluated / "out", verifier="mat"))
    with pytest.raises(ConfigError, match="3 samples .*k = 4"):
        regrade(RegradeConfig(regrade=evaluated / "out", k=(4,)))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "asked.json").write_text("{}")
    with pytest.raises(DataError, match="is unfinished"):
        regrade(RegradeConfig(regrade=tmp_path))


def test_problems_that_were_taken_out_are_missed(evaluated: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(evaluated / "out" / "chains", tmp_path / "chains"))
    lines = (folder / "problems.jsonl").read_bytes().split(b"\n")
    (folder / "problems.jsonl").write_bytes(b"\n".join(lines[1:]))
    with pytest.raises(DamageError, match=r"problems\.jsonl.*result\.json"):
        regrade(RegradeConfig(regrade=folder))


def unsealed(folder: Path) -> None:
    """Make a folder what a version without seals has written."""
    rows = list(SampleStore(folder).rows())
    (folder / SAMPLES).write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0))
    for name in ("asked.json", "result.json"):
        value = json.loads((folder / name).read_text())
        del value["seal"]
        (folder / name).write_text(json.dumps({**value, "schema": 1}))
    problems = [json.loads(line) for line in (folder / "problems.jsonl").read_text().split("\n") if line]
    text = "".join(json.dumps({name: each for name, each in row.items() if name != "seal"}) + "\n" for row in problems)
    (folder / "problems.jsonl").write_text(text)


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "of an earlier version"])
def test_damaged_folders_are_one_sentence(is_sealed: bool, evaluated: Path, tmp_path: Path, count: Count) -> None:
    folder = Path(shutil.copytree(evaluated / "out" / "chains", tmp_path / "chains"))
    for path in folder.glob("regraded*"):
        path.unlink()
    if not is_sealed:
        unsealed(folder)
    config, dice = RegradeConfig(regrade=folder, verifier="exact"), random.Random(3)
    (whole,) = regrade(config)
    for _ in range(40):
        path = folder / dice.choice(("result.json", "problems.jsonl", SAMPLES))
        content = path.read_bytes()
        damage(path, dice)
        try:
            (report,) = regrade(config)
            assert not is_sealed or report.scores == whole.scores
            count("regraded folders that were damaged: results")
        except UserError as error:
            count("regraded folders that were damaged: sentences")
            assert "\n" not in str(error) and str(folder) in str(error), (path, error)
        shutil.rmtree(path, ignore_errors=True)
        path.write_bytes(content)
