"""Groups become tables: counts, places, sources, and the split into micro batches."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from exam.batches import groups, sample

from obverse.models.batch import pack
from obverse.types import Kind, ModelInput, Sample, Source

BOTH = frozenset({Source.ROLLOUT, Source.DEMONSTRATION})


def made() -> list[list[Sample]]:
    return [group.samples for group in groups(0)]


def test_counts_and_groups_are_those_of_the_samples() -> None:
    kept = [made()[0], [], made()[1]]
    update = pack(kept, BOTH)
    assert update is not None
    assert update.samples.group.tolist() == [0] * 5 + [1] * 5  # a group that keeps nothing leaves no gap
    for row, one in enumerate([*kept[0], *kept[2]]):
        assert update.samples.counts[row].sum() == len(one.ids)
        assert update.samples.reward[row] == one.reward
    assert update.num_tokens == sum(len(one.ids) for group in kept for one in group)


def test_nothing_kept_is_no_update() -> None:
    assert pack([[], []], BOTH) is None


def test_only_the_methods_sources_are_trained_and_counted() -> None:
    hinted = sample(random.Random(0), "hinted", 1.0, num_tokens=3, num_hint=2)
    update = pack([[hinted]], frozenset({Source.ROLLOUT}))
    assert update is not None
    (micro,) = update.micros(99)
    assert update.num_tokens == 3
    assert micro.tokens.position.tolist() == [2, 3, 4]
    assert micro.target.tolist() == hinted.ids[2:]


def test_the_place_of_a_prediction_is_one_before_its_token() -> None:
    one = Sample("rollout", ModelInput((10, 11, 12)), [20, 21, 2], [Source.ROLLOUT] * 3, [-0.1, -0.2, -0.3], "")
    two = Sample("demonstration", ModelInput((10,)), [30], [Source.DEMONSTRATION], [0.0], "")
    update = pack([[one, two]], BOTH, temperature=0.5)
    assert update is not None
    (micro,) = update.micros(99)
    assert micro.input_ids.tolist() == [[10, 0, 0, 0, 0], [10, 11, 12, 20, 21]]  # the last token predicts nothing
    assert list(zip(micro.row.tolist(), micro.position.tolist(), micro.target.tolist(), strict=True)) == [
        (0, 0, 30), (1, 2, 20), (1, 3, 21), (1, 4, 2),
    ]  # fmt: skip
    assert micro.temperature.tolist() == [1.0, 0.5, 0.5, 0.5]  # what others wrote has no sampling temperature
    assert micro.tokens.behavior.tolist() == pytest.approx([0.0, -0.1, -0.2, -0.3])


@pytest.mark.parametrize("budget", [1, 20, 64, 10**6])
def test_micro_batches_hold_every_sample_once_within_the_budget(budget: int) -> None:
    update = pack(made(), BOTH)
    assert update is not None
    micros = list(update.micros(budget))
    seen = torch.cat([micro.tokens.sample.unique() for micro in micros])
    assert sorted(seen.tolist()) == list(range(20))
    assert sum(len(micro.tokens) for micro in micros) == update.num_tokens
    for micro in micros:
        rows, width = micro.input_ids.shape
        assert rows == 1 or rows * (width + 1) <= budget


def test_greedy_rollouts_are_trained_at_temperature_one() -> None:
    update = pack(made(), BOTH, temperature=0.0)
    assert update is not None and update.temperature == 1.0


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("reads_last", [False, True])
def test_a_batch_is_what_a_loop_over_its_tokens_writes(shared: bool, reads_last: bool) -> None:
    rng = random.Random(3)
    kinds: tuple[Kind, ...] = ("rollout", "hinted", "demonstration")
    problems = [[sample(rng, rng.choice(kinds), 1.0, rng.randint(1, 9), 2) for _ in range(3)] for _ in range(9)]
    groups = [[replace(one, prompt=samples[0].prompt) for one in samples] for samples in problems]
    update = pack(groups, BOTH, temperature=0.7, reads_last=reads_last, dtype=torch.float64)
    assert update is not None
    for micro in update.micros(60, shared=shared):
        tokens, texts, expected = micro.tokens, [], []
        for row in range(len(micro.lengths)):
            member = int(tokens.sample[micro.row == row][0])
            one = update.rows[member]
            text = one.ids if shared else [*one.prompt.token_ids, *one.ids]
            texts.append(text if reads_last else text[:-1])
            start = len(text) - len(one.ids) - 1
            for index, source in enumerate(one.sources):
                if source in BOTH:
                    warm = 0.7 if source is Source.ROLLOUT else 1.0
                    columns = (row, start + index, one.ids[index], member, source, index, one.behavior[index])
                    expected.append((*columns, pytest.approx(warm)))
        columns = (micro.row, micro.position, micro.target, tokens.sample, tokens.source, tokens.position)
        floats = (tokens.behavior, micro.temperature)
        assert list(zip(*(column.tolist() for column in (*columns, *floats)), strict=True)) == expected
        width = max(map(len, texts))
        assert micro.input_ids.tolist() == [text + [0] * (width - len(text)) for text in texts]
