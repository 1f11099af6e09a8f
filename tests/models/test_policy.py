"""Log-probs and entropies of trained tokens against the plain computation, on every family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exam.batches import groups, whole

from obverse.errors import ConfigError
from obverse.models.batch import pack
from obverse.models.load import load
from obverse.models.policy import Policy, logprobs, set_threads
from obverse.types import Source

SOURCES = frozenset({Source.ROLLOUT, Source.DEMONSTRATION})


def test_log_probs_and_entropies_are_those_of_the_whole_model(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, _ = load(str(tiny_dir), dtype="float32")
    assert policy.head is not None, "the split of this family's head was not found to agree with the model"
    update = pack([group.samples for group in groups(1)], SOURCES, temperature=0.7)
    assert update is not None
    micro = whole(update)
    logits = policy.model(input_ids=micro.input_ids).logits[micro.row, micro.position]
    expected = (logits / micro.temperature[:, None]).log_softmax(-1)
    entropy = -(expected.exp() * expected).sum(-1)
    for chunk in (10**9, 2000):
        monkeypatch.setattr("obverse.models.fused_logprobs.CHUNK_ELEMENTS", chunk)
        found = logprobs(policy, micro)
        torch.testing.assert_close(found[0], expected.gather(-1, micro.target[:, None])[:, 0])
        torch.testing.assert_close(found[1], entropy)
        assert found[0].requires_grad and not found[1].requires_grad
    assert logprobs(policy, micro, entropy_graph=True)[1].requires_grad


@pytest.mark.parametrize("tiny_dir", ["llama"], indirect=True)
def test_a_model_that_scales_its_logits_takes_the_plain_way(tiny_dir: Path) -> None:
    model = load(str(tiny_dir), dtype="float32")[0].model
    plain = model.forward

    def scaled(*args: object, **options: object) -> object:
        out = plain(*args, **options)
        out.logits = out.logits * 0.5
        return out

    model.forward = scaled
    from obverse.models.policy import as_policy

    policy = as_policy(model)
    assert policy.head is None
    update = pack([group.samples for group in groups(1)], SOURCES)
    assert update is not None
    micro = whole(update)
    expected = model(input_ids=micro.input_ids).logits[micro.row, micro.position].log_softmax(-1)
    torch.testing.assert_close(logprobs(policy, micro)[0], expected.gather(-1, micro.target[:, None])[:, 0])


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_what_stands_in_the_padding_changes_nothing(tiny_dir: Path) -> None:
    policy, _ = load(str(tiny_dir), dtype="float32")
    update = pack([group.samples for group in groups(2)], SOURCES)
    assert update is not None
    micro = whole(update)
    lengths = [len(row.prompt) + len(row.ids) - 1 for row in update.rows]
    padded = micro.input_ids.clone()
    for row, length in enumerate(sorted(lengths)):
        padded[row, length:] = 9
    assert not torch.equal(padded, micro.input_ids)
    torch.testing.assert_close(logprobs(policy, replace(micro, input_ids=padded))[0], logprobs(policy, micro)[0])


@pytest.mark.parametrize(("name", "reason"), [("nothing", "there is no such folder"), ("", "has no config.json")])
def test_a_missing_model_is_one_sentence(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        load(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_the_folder_of_a_run_is_refused_with_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(ConfigError, match="checkpoint-2"):
        load(str(tmp_path))


def test_a_broken_model_and_an_unknown_hub_name_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in (str(tmp_path), "owner/name"):
        with pytest.raises(ConfigError, match="cannot be loaded") as caught:
            load(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tiny_dir", ["qwen2"], indirect=True)
def test_small_models_get_one_thread_unless_told_otherwise(tiny_dir: Path) -> None:
    policy: Policy = load(str(tiny_dir))[0]
    assert set_threads(0, policy) == 1
    assert set_threads(2, policy) == torch.get_num_threads() == 2
    set_threads(1, policy)
