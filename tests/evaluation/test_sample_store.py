"""Stored samples: whole after a kill, found again, and never taken for those of another model, law or problem."""

from __future__ import annotations

import errno
import gzip
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny

from obverse.errors import ConfigError, DamageError, InUseError, StorageError
from obverse.evaluation.eval_sets import folder_name
from obverse.evaluation.sample_store import (
    PROBLEMS,
    REQUEST,
    SAMPLES,
    GradedSample,
    SampleStore,
    differences,
    digest,
    identity,
    sample_row,
)
from obverse.types import GradeResult, ModelInput, Problem

ASK: dict[str, Any] = {"law": {"temperature": 1.0, "stop_ids": (3, 4)}, "model": {"identity": "a"}}
PROBLEM = Problem("p", [{"role": "user", "content": "2+2?"}], answer={"target": 4}, verifier="exact", meta={"level": 2})


def row(seed: int, text: str = "4") -> dict[str, Any]:
    graded = GradedSample.of(seed, seed, "stop", 2, GradeResult.passed(), text)
    return sample_row(PROBLEM, "d", 42, graded, text)


def test_rows_are_read_as_they_were_written_whatever_stands_in_them(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "x")
    store.begin(ASK)
    odd = row(1, "caf\u00e9 \u2028 \ud800 \0 \n")
    store.append([row(0), odd])
    store.append([row(2)])
    assert list(store.rows()) == [row(0), odd, row(2)]
    with gzip.open(tmp_path / "x" / SAMPLES, "rt", encoding="utf-8", errors="surrogatepass") as file:
        assert [json.loads(line) for line in file] == [row(0), odd, row(2)]
    assert store.stored()["d"][1].answer == odd["answer"] and len(store.stored()["d"]) == 3
    store.write_problems({"d": PROBLEM})
    assert store.problems() == {"d": PROBLEM}


@pytest.mark.parametrize("cut", [1, 7, 30, 60])
def test_what_a_kill_left_unfinished_is_cut_off(tmp_path: Path, cut: int) -> None:
    store = SampleStore(tmp_path)
    store.begin(ASK)
    store.append([row(0), row(1)])
    whole = (tmp_path / SAMPLES).read_bytes()
    store.append([row(2), row(3)])
    both = (tmp_path / SAMPLES).read_bytes()
    (tmp_path / SAMPLES).write_bytes(both[:-cut])
    assert len(list(store.rows())) == 2
    (note,) = store.begin(ASK)
    assert "unfinished write" in note and (tmp_path / SAMPLES).read_bytes() == whole
    store.append([row(2)])
    assert [each["seed"] for each in store.rows()] == [0, 1, 2]


def older(folder: Path, seeds: range, ask: dict[str, Any] = ASK) -> None:
    """A folder as version 1 of the layout wrote it: no seals, gzip's own members."""
    folder.mkdir(exist_ok=True)
    (folder / REQUEST).write_text(json.dumps({"schema": 1, **ask}))
    with (folder / SAMPLES).open("ab") as file:
        for seed in seeds:
            file.write(gzip.compress((json.dumps(row(seed)) + "\n").encode(), mtime=0))


def test_samples_of_an_earlier_version_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older(tmp_path, range(5))
    store = SampleStore(tmp_path)
    for size in (1, 7, 64, len((tmp_path / SAMPLES).read_bytes())):
        monkeypatch.setattr("obverse.runtime.integrity.BLOCK", size)
        assert [each["seed"] for each in store.rows()] == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="--output"):
        store.begin({**ASK, "model": {"identity": "b"}})
    store.begin(ASK)
    store.append([row(5)])
    store.append([row(6)])
    assert [each["seed"] for each in store.rows()] == [*range(7)]
    with gzip.open(tmp_path / SAMPLES, "rt", encoding="utf-8") as file:
        assert len(file.readlines()) == 7
    content = bytearray((tmp_path / SAMPLES).read_bytes())
    content[60] ^= 255  # within the first member
    (tmp_path / SAMPLES).write_bytes(content)
    with pytest.raises(DamageError, match=SAMPLES):
        list(store.rows())


def test_every_changed_byte_is_noticed_and_every_end_is_a_kill(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    store.begin(ASK)
    ends = []
    for seed in range(3):
        store.append([row(seed)])
        ends.append(store.size)
    path, content = tmp_path / SAMPLES, (tmp_path / SAMPLES).read_bytes()
    for place in range(len(content)):
        for bits in (1, 0x80, 0xFF):
            path.write_bytes(content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :])
            with pytest.raises(DamageError, match=rf"{SAMPLES} is damaged at byte") as refusal:
                store.truncate_unfinished()
            assert refusal.value.exit_code == 4 and path.stat().st_size == len(content)
        path.write_bytes(content[:place])
        assert [each["seed"] for each in store.rows()] == [*range(sum(end <= place for end in ends))]


def test_rows_that_were_moved_or_taken_out_are_noticed(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    store.begin(ASK)
    ends = [0]
    for seed in range(3):
        store.append([row(seed)])
        ends.append(store.size)
    path, content = tmp_path / SAMPLES, (tmp_path / SAMPLES).read_bytes()
    first, second, third = (content[a:b] for a, b in itertools.pairwise(ends))
    for odd in (second + third, first + third, first + third + second, first + second + second + third, b"x" + content):
        path.write_bytes(odd)
        with pytest.raises(DamageError):
            store.begin(ASK)
        assert path.read_bytes() == odd


@pytest.mark.parametrize("name", [REQUEST, PROBLEMS])
def test_a_changed_description_is_noticed_and_kept(name: str, tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    store.begin(ASK)
    store.write_problems({"d": PROBLEM})
    store.append([row(0)])
    path, content = tmp_path / name, (tmp_path / name).read_bytes()
    for place in range(len(content)):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        path.write_bytes(changed)
        try:
            kept = store.stored_request() if name == REQUEST else store.problems()
        except DamageError as error:
            assert str(path) in str(error)
        else:  # white space
            assert kept == (json.loads(json.dumps(ASK)) if name == REQUEST else {"d": PROBLEM})
        assert path.read_bytes() == changed
    path.unlink()
    with pytest.raises(DamageError, match=name):
        store.begin(ASK) if name == REQUEST else store.problems()


def test_one_program_at_a_time_writes_and_the_other_is_told_which(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "x").writing():
        with pytest.raises(InUseError, match=rf"in use by process {os.getpid()} on .*give another --output") as refusal:
            SampleStore(tmp_path / "x").writing().__enter__()
        assert refusal.value.exit_code == 7
    with SampleStore(tmp_path / "x").writing():
        pass


@pytest.mark.parametrize("num_before", [0, 2])
def test_a_full_disk_leaves_the_samples_that_were_there(
    num_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SampleStore(tmp_path)
    store.begin(ASK)
    for seed in range(num_before):
        store.append([row(seed)])
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=r"No space left") as refusal:
        store.append([row(9)])
    assert refusal.value.exit_code == 6
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there
    store.append([row(num_before)])
    assert [each["seed"] for each in store.rows()] == [*range(num_before + 1)]


def test_results_of_another_data_set_of_the_same_name_are_not_written_over(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    store.belongs_to("a/d.jsonl")
    store.write_json("result.json", {"schema": 2, "dataset": "a/d.jsonl"})
    store.belongs_to("./a/d.jsonl")
    with pytest.raises(ConfigError, match=r"a/d.jsonl.*b/d.jsonl"):
        store.belongs_to("b/d.jsonl")


def test_samples_that_were_asked_for_in_another_way_are_refused_by_name(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    store.begin(ASK)
    store.begin({**ASK, "model": {"identity": "b"}})  # nothing was sampled yet
    store.begin(ASK)
    store.append([row(0)])
    store.begin(ASK)
    with pytest.raises(ConfigError, match="law.temperature 1.0 there, 0.6 now.*give another --output"):
        store.begin({**ASK, "law": {"temperature": 0.6, "stop_ids": (3, 4)}})
    assert json.loads((tmp_path / REQUEST).read_text())["law"]["temperature"] == 1.0
    assert differences({"a": 1}, {"a": 1, "b": None}) == []


def test_a_digest_names_what_is_sent_and_what_is_right() -> None:
    base = digest(PROBLEM, ModelInput((1, 2)))
    assert base == digest(Problem("p", "other words", {"target": 4}, verifier="exact"), ModelInput((1, 2)))
    changed = [
        digest(PROBLEM, ModelInput((1, 3))),
        digest(Problem("q", "?", {"target": 4}, verifier="exact"), ModelInput((1, 2))),
        digest(Problem("p", "?", {"target": 5}, verifier="exact"), ModelInput((1, 2))),
        digest(Problem("p", "?", {"target": 4}, verifier="math"), ModelInput((1, 2))),
    ]
    assert len({base, *changed}) == 5


def test_weights_are_told_apart_and_a_copy_is_the_same(tmp_path: Path) -> None:
    first, other = save_tiny("qwen2", tmp_path / "a"), save_tiny("qwen2", tmp_path / "b", seed=1)
    copy = save_tiny("qwen2", tmp_path / "c")
    assert identity(str(first)) == identity(str(copy)) != identity(str(other))
    assert identity("owner/name", "abc") == "owner/name@abc" and identity("owner/name") == "owner/name"


def test_models_of_one_name_have_a_folder_each_and_a_copy_has_the_same(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    places = [save_tiny("qwen2", tmp_path / name / "merged-1.5B", seed=seed) for name, seed in (("a", 0), ("b", 1))]
    names = [folder_name(str(place)) for place in places]
    assert len(set(names)) == 2 and all(name.startswith("merged-1") for name in names)
    assert folder_name(str(places[0].rename(tmp_path / "x" / "merged-1.5B"))) == names[0]
    assert folder_name("one/qwen") != folder_name("two/qwen") and folder_name("embedded") == "embedded"
