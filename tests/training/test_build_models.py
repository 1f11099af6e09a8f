"""Which networks a run has: the initial model and its author's hand, mixed inputs, and scalar heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from exam.batches import groups, whole
from tiny_models import save_tiny
from transformers import AutoConfig, GPT2Config, GPT2ForSequenceClassification

import runs
from obverse import methods
from obverse.errors import ConfigError
from obverse.estimator.parts import GreedyMix
from obverse.estimator.schedule import as_schedule
from obverse.models.batch import pack
from obverse.models.load import check_kind, load, load_scalar
from obverse.models.policy import logprobs, mixed_embeddings, scalars
from obverse.runtime.callbacks import Silent
from obverse.runtime.signals import SignalWatcher
from obverse.training.build_models import TrainingModels, load_models
from obverse.training.collector import Collector
from obverse.training.loop import train, train_step
from obverse.training.setup import prepare
from obverse.types import Source

SHOWN = frozenset({Source.DEMONSTRATION})


def networks(method: str, model: Path, tmp_path: Path, start: Path | None = None, **options: Any) -> TrainingModels:
    config = runs.config(method, tmp_path / "run", model, "arithmetic", **options)
    return load_models(config, as_schedule(methods.build(method, config.method_options)), start)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("networks") / "llama")


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("sft", {}, set()),
        ("grpo", {"beta": 0.0}, set()),
        ("grpo", {"beta": 0.1}, {"anchor"}),
        ("dpo", {}, {"anchor"}),
        ("rft", {}, {"anchor"}),
        ("ppo", {}, {"critic"}),
        ("reft", {}, {"anchor", "critic"}),
        ("ift", {}, {"table"}),
        ("ift", {"greedy_share": 0.0}, set()),
        ("reward_model", {}, set()),
    ],
)
def test_only_what_somebody_reads_is_loaded(
    method: str, options: dict[str, object], expected: set[str], tiny: Path, tmp_path: Path
) -> None:
    found = networks(method, tiny, tmp_path, **options)
    assert {name for name in ("anchor", "critic", "table") if getattr(found, name) is not None} == expected
    kind = type(found.policy.model).__name__
    assert kind.endswith("ForSequenceClassification" if method == "reward_model" else "ForCausalLM")


def test_a_resumed_run_compares_with_what_it_began_with(tiny: Path, tmp_path: Path) -> None:
    moved, tokenizer = load(str(tiny))
    with torch.no_grad():
        for parameter in moved.model.parameters():
            parameter.add_(0.01)
    for each in (moved.model, tokenizer):
        each.save_pretrained(tmp_path / "moved")
    first = load(str(tiny))[0].model.state_dict()
    options: dict[str, object] = {"beta": 0.1}
    for other, expected in (({}, first), ({"anchor_model": str(tmp_path / "moved")}, moved.model.state_dict())):
        for start in (None, tmp_path / "moved"):
            found = networks("grpo", tiny, tmp_path, start, **options, **other)
            assert found.anchor is not None
            state = found.anchor.model.state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in state.items())
    resumed = networks("ift", tiny, tmp_path, tmp_path / "moved")
    assert resumed.table is not None
    assert torch.equal(resumed.table.weight, first["model.embed_tokens.weight"])  # type: ignore[arg-type]


def test_an_initial_model_with_other_words_is_refused(tiny: Path, tmp_path: Path) -> None:
    other = save_tiny("qwen2", tmp_path / "other")
    with pytest.raises(ConfigError, match="--anchor_model: .* vocabulary"):
        networks("dpo", tiny, tmp_path, anchor_model=str(other))


def test_the_initial_author_writes_as_the_untouched_model_whatever_the_policy_has_become(
    tiny: Path, tmp_path: Path
) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")

    def own(collector: Collector, run_problems: Sequence[object]) -> list[list[int]]:
        found = collector.collect(run_problems, method, 0, 0.0)  # type: ignore[arg-type]
        return [sample.ids for group in found for sample in group.of("rollout")]

    options = {"learning_rate": 3e-2, "max_steps": 9, "warmup_steps": 0}
    run = prepare(runs.config("discriminative", tmp_path / "run", tiny, problems, **options), SignalWatcher(Silent()))
    method, four = run.method, run.problems[:4]
    before = own(run.collector, four)
    for _ in range(2):
        train_step(run)
    assert own(run.collector, four) == before
    plain = prepare(runs.config("grpo", tmp_path / "plain", tiny, problems, num_generations=3), SignalWatcher(Silent()))
    method = plain.method
    assert own(plain.collector, four) == before  # the same places and seeds, and a policy that nobody has trained
    assert own(run.collector, four) != before  # the policy itself has moved


def test_the_policy_reads_a_mixture_of_what_was_written_and_what_it_would_have_written(tiny: Path) -> None:
    policy, _ = load(str(tiny), dtype="float32")
    table = load(str(tiny), dtype="float32")[0].model.get_input_embeddings()
    with torch.no_grad():
        table.weight.mul_(1.5)  # the frozen table has another origin than the policy's own
    update = pack([group.of("demonstration") for group in groups(3)], SHOWN)
    assert update is not None
    micro, share = whole(update), 0.3
    own = policy.model.get_input_embeddings()
    expected = own(micro.input_ids).detach().clone()
    lengths = {}
    for sample in update.rows:
        text = list(sample.model_input.token_ids)
        guesses = policy.model(input_ids=torch.tensor([text])).logits[0].argmax(-1)
        row = next(r for r in range(len(micro.input_ids)) if micro.input_ids[r, : len(text) - 1].tolist() == text[:-1])
        lengths[row] = len(text) - 1  # the last token is not read
        for place in range(len(sample.prompt), len(text) - 1):
            guess = int(guesses[place - 1])
            expected[row, place] = (1 - share) * table.weight[text[place]] + share * table.weight[guess]
    found = mixed_embeddings(policy, micro, GreedyMix(share), table)
    for row, length in lengths.items():
        torch.testing.assert_close(found[row, :length], expected[row, :length].detach())
    assert not found.requires_grad


def test_a_mixture_without_guesses_is_plain_sft(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, _ = load(str(tiny), dtype="float32")
    update = pack([group.of("demonstration") for group in groups(3)], SHOWN)
    assert update is not None
    micro, table = whole(update), policy.model.get_input_embeddings()
    plain = logprobs(policy, micro)[0]
    found = logprobs(policy, micro, embeddings=mixed_embeddings(policy, micro, GreedyMix(0.0), table))[0]
    torch.testing.assert_close(found, plain)
    half = mixed_embeddings(policy, micro, GreedyMix(0.5), table)
    assert (logprobs(policy, micro, embeddings=half)[0] - plain).abs().max() > 1e-4
    monkeypatch.setattr("obverse.models.fused_logprobs.CHUNK_ELEMENTS", 3000)
    torch.testing.assert_close(mixed_embeddings(policy, micro, GreedyMix(0.5), table), half)


def test_a_scalar_head_is_read_before_or_after_a_token(tiny_dir: Path) -> None:
    model, _, _ = load_scalar(str(tiny_dir), dtype="float32")
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    update = pack([group.of("rollout") for group in groups(2)], frozenset({Source.ROLLOUT}), reads_last=True)
    assert update is not None
    micro = whole(update)
    with torch.no_grad():
        before, after = (scalars(model, micro, after=each) for each in (False, True))
        for row, sample in enumerate(update.rows):
            text = torch.tensor([sample.model_input.token_ids])
            alone = model.score(model.base_model(input_ids=text).last_hidden_state)[0, :, 0]
            mine, start = micro.tokens.sample == row, len(sample.prompt)
            torch.testing.assert_close(before[mine], alone[start - 1 : -1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(after[mine], alone[start:], atol=1e-5, rtol=1e-5)
            score = model(input_ids=text).logits[0, 0]  # as transformers reads it: at the last token
            torch.testing.assert_close(after[mine][-1], score, atol=1e-5, rtol=1e-5)


def test_an_untrained_head_says_nothing_and_is_no_reward_model(tiny: Path, tmp_path: Path) -> None:
    model, _, _ = load_scalar(str(tiny))
    assert model.score.weight.abs().max() == 0
    with pytest.raises(ConfigError, match="it has no trained head"):
        load_scalar(str(tiny), trained=True)


def test_a_model_whose_head_has_another_name_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(vocab_size=600, num_labels=1, **size)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="`score`"):
        load_scalar(str(tmp_path))


def test_weights_that_cannot_be_read_are_one_sentence(tiny: Path, tmp_path: Path) -> None:
    policy, tokenizer = load(str(tiny))
    for each in (policy.model, tokenizer):
        each.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678901234567890")
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_reward_model_is_told_from_a_policy_by_its_configuration(tiny: Path, tmp_path: Path) -> None:
    config = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=99, num_labels=1)
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "gpt2")
    check_kind(str(tmp_path / "gpt2"), scores=True)
    check_kind(str(tiny), scores=False)
    assert AutoConfig.from_pretrained(tmp_path / "gpt2").architectures == ["GPT2ForSequenceClassification"]
    with pytest.raises(ConfigError, match="cannot write one"):
        check_kind(str(tmp_path / "gpt2"), scores=False)


def test_a_reward_models_run_goes_on_where_it_was(tiny: Path, tmp_path: Path) -> None:
    problems = runs.write_problems(tmp_path / "chains.jsonl")
    options = {"max_steps": 4, "save_steps": 2}
    train(runs.config("reward_model", tmp_path / "whole", tiny, problems, **options))
    train(runs.config("reward_model", tmp_path / "half", tiny, problems, **(options | {"max_steps": 2})))
    train(runs.config("reward_model", tmp_path / "half", tiny, problems, resume_from_checkpoint="auto", **options))
    ours, theirs = (runs.fingerprint(tmp_path / name, 4)["model.safetensors"] for name in ("half", "whole"))
    assert ours == theirs
    check_kind(str(tmp_path / "half" / "checkpoint-4"), scores=True)
