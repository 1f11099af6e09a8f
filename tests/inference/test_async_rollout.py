"""Completions drawn one update ahead: which are used, which are drawn anew, what a checkpoint keeps of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence

import pytest
from scripted_sampler import ScriptedSampler

from obverse.inference import Completion, SamplingParams, SamplingRequest
from obverse.inference.async_rollout import AsyncSampler
from obverse.types import ModelInput

LAW = SamplingParams((2,), 6)
GREEDY = SamplingParams((2,), 6, temperature=0.0)
ORDERS = [SamplingRequest(ModelInput((5, 6)), [1, 2]), SamplingRequest(ModelInput((7,)), [3])]


def scripted() -> ScriptedSampler:
    return ScriptedSampler(lambda prompt, seed: [seed, 2])


@pytest.mark.parametrize("threaded", [True, False])
def test_what_was_drawn_ahead_is_used_and_is_of_the_weights_before(threaded: bool) -> None:
    inner = scripted()
    ahead = AsyncSampler(inner, threaded)
    ahead.sync_weights(0)
    first = ahead.sample(ORDERS, LAW)
    assert [each.weights for group in first for each in group] == [0, 0, 0]  # nothing was drawn ahead yet
    ahead.prefetch([(ORDERS, LAW)], 1)
    ahead.sync_weights(1)
    num_asked = len(inner.requests)
    assert ahead.sample(ORDERS, LAW) == first and len(inner.requests) == num_asked
    ahead.sync_weights(2)
    assert [each.weights for group in ahead.sample(ORDERS, LAW) for each in group] == [2, 2, 2]  # it is used up


def test_what_could_not_be_foreseen_is_drawn_when_it_is_asked_for() -> None:
    ahead = AsyncSampler(scripted(), threaded=False)
    ahead.prefetch([([SamplingRequest(ModelInput((5, 6)), [1]), SamplingRequest(ModelInput((7,)), [3])], LAW)], 1)
    ahead.sync_weights(1)
    found = ahead.sample(
        [
            SamplingRequest(ModelInput((5, 6)), [1, 2]),
            SamplingRequest(ModelInput((7, 7)), [3]),
            SamplingRequest(ModelInput((7,)), [3]),
        ],
        LAW,
    )
    assert [[each.weights for each in group] for group in found] == [[0, 1], [1], [0]]  # another prompt is another
    assert ahead.sample([SamplingRequest(ModelInput((5, 6)), [1])], GREEDY)[0][0].weights == 1  # and so is another law
    assert ahead.sample([SamplingRequest(ModelInput((5, 6)), [1])], SamplingParams((2,), 3))[0][0].weights == 1


def test_a_checkpoint_keeps_them_to_the_last_bit() -> None:
    ahead = AsyncSampler(ScriptedSampler(lambda prompt, seed: [seed] * 3), threaded=True)
    ahead.sync_weights(4)
    ahead.prefetch([(ORDERS, LAW), ([SamplingRequest(ModelInput((9,)), [8])], GREEDY)], 5)
    rows = json.loads(json.dumps(ahead.state(5)))
    assert len(rows) == 4 and ahead.state(4) == []
    again = AsyncSampler(scripted(), threaded=True)
    again.load_state(5, rows)
    for each in (ahead, again):
        each.sync_weights(5)
    for requests, params in ((ORDERS, LAW), ([SamplingRequest(ModelInput((9,)), [8])], GREEDY)):
        assert again.sample(requests, params) == ahead.sample(requests, params)
    assert again.sample(ORDERS, LAW)[0][0].weights == 4


class Gated:
    """Draws once it may, from the weights as they are then."""

    def __init__(self) -> None:
        self.gate, self.step, self.error = threading.Event(), 0, None

    def sync_weights(self, step: int) -> None:
        self.step = step

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return [[Completion([seed], [-1.0], "stop", self.step) for seed in request.seeds] for request in requests]


def test_new_weights_wait_for_what_is_being_drawn_from_the_old_ones() -> None:
    inner = Gated()
    ahead = AsyncSampler(inner, threaded=True)
    ahead.prefetch([(ORDERS, LAW)], 1)
    threading.Timer(0.2, inner.gate.set).start()
    ahead.sync_weights(1)
    assert inner.step == 1 and {each.weights for group in ahead.sample(ORDERS, LAW) for each in group} == {0}


def test_what_goes_wrong_beside_is_raised_where_it_is_waited_for() -> None:
    inner = Gated()
    inner.error = ValueError("gone")  # type: ignore[assignment]
    inner.gate.set()
    ahead = AsyncSampler(inner, threaded=True)
    ahead.prefetch([(ORDERS, LAW)], 1)
    with pytest.raises(ValueError, match="gone"):
        ahead.sync_weights(1)


def test_who_waits_may_be_stopped() -> None:
    class Stop(Exception):
        pass

    def check() -> None:
        raise Stop

    inner = Gated()
    ahead = AsyncSampler(inner, threaded=True, check=check)
    ahead.prefetch([(ORDERS, LAW)], 1)
    with pytest.raises(Stop):
        ahead.sync_weights(1)
    inner.gate.set()
    assert len(ahead.state(1)) == 3  # nothing is lost
