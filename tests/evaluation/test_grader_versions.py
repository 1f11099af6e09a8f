"""Stored verdicts and samples: used again only where verifier, rows, template and weights are still the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from evaluation.eval_runs import Notes, config, stored_rows

from obverse.errors import ConfigError
from obverse.evaluation.evaluate import evaluate
from obverse.evaluation.paired import compare, over_seeds, write_pair
from obverse.runtime.callbacks import Silent


def graded(tiny: Path, rows: Path, folder: Path, watch: Silent | None = None, **options: object) -> list[bool]:
    given = {"output": folder / "out", "verifier": f"{folder / 'v.py'}:verify"}
    evaluate(config(tiny, dataset=str(rows), **(given | options)), watch)
    return [row["correct"] for row in stored_rows(folder / "out" / rows.stem)]


def test_an_edited_verifier_grades_the_stored_samples_again(
    tiny: Path, chains: Path, tmp_path: Path, drawn: list[int]
) -> None:
    """Also where it is a module that it imports; samples that come later are graded by the same version."""
    (tmp_path / "v.py").write_text("from bonus import BONUS\ndef verify(problem, text):\n    return BONUS\n")
    (tmp_path / "bonus.py").write_text("BONUS = 1.0\n")
    assert graded(tiny, chains, tmp_path, num_problems=2) == [True] * 6
    (tmp_path / "bonus.py").write_text("BONUS = 0.0\n")
    watch = Notes()
    assert graded(tiny, chains, tmp_path, watch, num_problems=1) == [False] * 3 + [True] * 3
    assert any("3 stored samples" in note for note in watch.notes)
    assert any("3 verdicts changed (3 right -> wrong)" in note for note in watch.notes)
    assert graded(tiny, chains, tmp_path, num_problems=3) == [False] * 9 and len(drawn) == 9
    (tmp_path / "v.py").write_text("def verify(problem, text):\n    return 1.0\n")
    assert graded(tiny, chains, tmp_path, num_problems=3) == [True] * 9 and len(drawn) == 9
    assert json.loads((tmp_path / "out" / "chains" / "result.json").read_text())["summary"]["all"]["avg@3"] == 1.0


def test_a_kill_while_verdicts_are_renewed_leaves_the_old_ones(
    tiny: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "v.py").write_text("def verify(problem, text):\n    return 1.0\n")
    graded(tiny, chains, tmp_path)
    samples = tmp_path / "out" / "chains" / "samples.jsonl.gz"
    before = samples.read_bytes()
    (tmp_path / "v.py").write_text("def verify(problem, text):\n    return 0.0\n")
    with monkeypatch.context() as patch:
        patch.setattr(
            "obverse.evaluation.sample_store.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt())
        )
        with pytest.raises(KeyboardInterrupt):
            graded(tiny, chains, tmp_path)
    assert samples.read_bytes() == before and not list(samples.parent.glob(".samples*"))
    assert graded(tiny, chains, tmp_path) == [False] * 12


@pytest.mark.parametrize(("field", "now"), [("tolerance", 2.0), ("demonstration", ["other"]), ("level", 3)])
def test_a_field_that_a_verifier_may_read_is_part_of_the_verdict(
    field: str, now: object, tiny: Path, chains: Path, tmp_path: Path, drawn: list[int]
) -> None:
    verify = f"def verify(problem, text, *, f={field!r}):\n    row = {{'demonstration': [*problem.demonstration]}}\n"
    (tmp_path / "v.py").write_text(verify + f"    return (row | dict(problem.meta)).get(f) == {now!r}\n")
    assert graded(tiny, chains, tmp_path) == [False] * 12
    rows = [json.loads(line) | {field: now} for line in chains.read_text().splitlines()]
    chains.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert graded(tiny, chains, tmp_path) == [True] * 12 and len(drawn) == 12


def test_what_ships_with_the_library_has_versions_too(
    tiny: Path, chains: Path, tmp_path: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Notes()
    graded(tiny, chains, tmp_path, verifier="math")
    monkeypatch.setattr("obverse.rewards.versions.package_fingerprint", lambda: "another")
    graded(tiny, chains, tmp_path, watch, verifier="math")
    assert any("12 stored samples" in note for note in watch.notes)
    assert len(drawn) == 12


def test_equal_files_at_another_place_are_the_same(tiny: Path, chains: Path, tmp_path: Path, drawn: list[int]) -> None:
    (tmp_path / "v.py").write_text("def verify(problem, text):\n    return 1.0\n")
    graded(tiny, chains, tmp_path)
    there = tmp_path / "there"
    shutil.copytree(tiny, there / "tiny")
    for path in (chains, tmp_path / "v.py"):
        shutil.copy(path, there)
    rows = there / chains.name
    rows.write_text("".join(reversed(rows.read_text().splitlines(keepends=True)[:4])))
    graded(there / "tiny", rows, tmp_path, verifier=f"{there / 'v.py'}:verify")
    assert len(drawn) == 12


def test_a_model_that_was_saved_again_is_another_one(tiny: Path, chains: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    evaluate(config(model, dataset=str(chains), output=tmp_path / "out"))
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"model\.identity \w+ there, \w+ now"):
        evaluate(config(model, dataset=str(chains), output=tmp_path / "out"))


def test_results_of_other_rows_or_verifiers_are_no_pair(tiny: Path, chains: Path, tmp_path: Path) -> None:
    (tmp_path / "v.py").write_text("def verify(problem, text):\n    return 1.0\n")
    one, same, edited, other = (
        config(tiny, dataset=str(chains), output=tmp_path / name, verifier=str(tmp_path / "v.py"))
        for name in ("one", "same", "edited", "other")
    )
    first, second = evaluate(one), evaluate(same)
    write_pair(compare(first, second), first, second)
    (tmp_path / "v.py").write_text("def verify(problem, text):\n    return 0.0\n")
    third = evaluate(edited)
    with pytest.raises(ConfigError, match=r"not of one verifier: sha256 verify@\w{12}\*1.0 and verify@\w{12}\*1.0"):
        write_pair(compare(first, third), first, third)
    chains.write_text(chains.read_text().replace('"answer": "', '"answer": "1'))
    fourth = evaluate(other)
    with pytest.raises(ConfigError, match=r"not of one rows: sha256 \w{12} and \w{12}"):
        write_pair(compare(third, fourth), third, fourth)
    with pytest.raises(ConfigError, match="not of one rows"):
        over_seeds([third, fourth])
