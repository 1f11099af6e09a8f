"""Stored samples: whole after a kill, found again, and never taken for those of another model, law or problem."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import save_tiny

from obverse.errors import ConfigError
from obverse.records import Problem, Verdict
from obverse.samples import ASKED, SAMPLES, Graded, Store, differences, digest, identity, sample_row

ASK: dict[str, Any] = {"law": {"temperature": 1.0, "stop_ids": (3, 4)}, "model": {"identity": "a"}}
PROBLEM = Problem("p", [{"role": "user", "content": "2+2?"}], answer={"target": 4}, verifier="exact", meta={"level": 2})


def row(seed: int, text: str = "4") -> dict[str, Any]:
    graded = Graded.of(seed, seed, "stop", 2, Verdict.right(), text)
    return sample_row(PROBLEM, "d", 42, graded, text)


def test_rows_are_read_as_they_were_written_whatever_stands_in_them(tmp_path: Path) -> None:
    store = Store(tmp_path / "x")
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
    store = Store(tmp_path)
    store.begin(ASK)
    store.append([row(0), row(1)])
    whole = (tmp_path / SAMPLES).read_bytes()
    store.append([row(2), row(3)])
    both = (tmp_path / SAMPLES).read_bytes()
    (tmp_path / SAMPLES).write_bytes(both[:-cut])
    assert len(list(store.rows())) == 2
    store.begin(ASK)
    assert (tmp_path / SAMPLES).read_bytes() == whole
    store.append([row(2)])
    assert [each["seed"] for each in store.rows()] == [0, 1, 2]


def test_members_longer_than_a_block_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.begin(ASK)
    for seed in range(5):
        store.append([row(seed)])
    for size in (1, 7, 64, len((tmp_path / SAMPLES).read_bytes())):
        monkeypatch.setattr("obverse.samples.BLOCK", size)
        assert [each["seed"] for each in store.rows()] == [0, 1, 2, 3, 4]


def test_samples_that_were_asked_for_in_another_way_are_refused_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin(ASK)
    store.begin({**ASK, "model": {"identity": "b"}})  # nothing was sampled yet
    store.begin(ASK)
    store.append([row(0)])
    store.begin(ASK)
    with pytest.raises(ConfigError, match="law.temperature 1.0 there, 0.6 now.*give another --output"):
        store.begin({**ASK, "law": {"temperature": 0.6, "stop_ids": (3, 4)}})
    assert json.loads((tmp_path / ASKED).read_text())["law"]["temperature"] == 1.0
    assert differences({"a": 1}, {"a": 1, "b": None}) == []


def test_a_digest_names_what_is_sent_and_what_is_right() -> None:
    base = digest(PROBLEM, [1, 2])
    assert base == digest(Problem("p", "other words, equal tokens", {"target": 4}, verifier="exact"), [1, 2])
    changed = [
        digest(PROBLEM, [1, 3]),
        digest(Problem("q", "?", {"target": 4}, verifier="exact"), [1, 2]),
        digest(Problem("p", "?", {"target": 5}, verifier="exact"), [1, 2]),
        digest(Problem("p", "?", {"target": 4}, verifier="math"), [1, 2]),
    ]
    assert len({base, *changed}) == 5


def test_weights_are_told_apart_and_a_copy_is_the_same(tmp_path: Path) -> None:
    first, other = save_tiny("qwen2", tmp_path / "a"), save_tiny("qwen2", tmp_path / "b", seed=1)
    copy = save_tiny("qwen2", tmp_path / "c")
    assert identity(str(first)) == identity(str(copy)) != identity(str(other))
    assert identity("owner/name", "abc") == "owner/name@abc" and identity("owner/name") == "owner/name"
