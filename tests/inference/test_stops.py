"""Ends: of a completion by tokens and by text, of a call by its caps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest

from obverse.inference import SamplingParams, SamplingRequest
from obverse.inference.hf import HFSampler
from obverse.inference.stops import Stops
from obverse.models.load import load
from obverse.types import ModelInput

ORDERS = [SamplingRequest(ModelInput((5, 6, 7)), range(30)), SamplingRequest(ModelInput((9,)), range(30, 40))]


def letters(ids: Sequence[int]) -> str:
    return "".join(chr(97 + number % 26) for number in ids)


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_a_completion_ends_with_the_token_that_completes_a_stop_string(tiny_dir: Path) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    free = HFSampler(model).sample(ORDERS, SamplingParams((), 40))
    found = HFSampler(model, decode=letters).sample(ORDERS, SamplingParams((), 40, stop_strings=("ab", "q")))
    stopped = 0
    for before, after in zip(chain(*free), chain(*found), strict=True):
        text = letters(before.ids)
        ends = [text.find(each) + len(each) for each in ("ab", "q") if each in text]
        assert after.ids == before.ids[: min(ends, default=40)]
        assert after.finish == ("stop" if ends else "length")
        stopped += bool(ends)
    assert 5 < stopped < 40


def test_a_stop_string_is_found_in_the_middle_of_a_token_and_across_many() -> None:
    texts = ["x", "a###b", "#", "", "<sto", "p", ">!"]
    stops = Stops(
        SamplingParams((3,), 9, stop_strings=("###", "<stop>")), lambda ids: "".join(texts[number] for number in ids)
    )
    assert stops.stop([0, 1])
    assert not stops.stop([0] * 50 + [2, 0, 2, 2])
    assert stops.stop([0] * 50 + [2, 2, 2])
    assert stops.stop([0] * 50 + [4, 5, 6])
    assert stops.stop([0, 3])


def test_stop_strings_need_a_decoder() -> None:
    with pytest.raises(ValueError, match="can decode"):
        Stops(SamplingParams((), 9, stop_strings=("a",)), None)


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_a_cap_ends_the_call_with_what_there_is(tiny_dir: Path) -> None:
    model = load(str(tiny_dir), dtype="float32", device="cpu")[0].model
    whole = HFSampler(model).sample(ORDERS, SamplingParams((), 12))
    done: list[int] = []
    found = HFSampler(model, max_rows=20).sample(ORDERS, SamplingParams((), 12, max_call_tokens=95), done.append)
    drawn = list(chain(*found))
    assert sum(len(each.ids) for each in drawn) == 100  # five tokens each for the first twenty
    assert {each.finish for each in drawn} == {"length"} and [] in [each.ids for each in drawn]
    for before, after in zip(chain(*whole), drawn, strict=True):
        assert after.ids == before.ids[: len(after.ids)]
    assert done[-1] == 40
    (timed, _) = HFSampler(model).sample(ORDERS, SamplingParams((), 12, max_seconds=1e-9))
    assert [len(each.ids) for each in timed] == [1] * 30
