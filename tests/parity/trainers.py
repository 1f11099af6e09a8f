"""The gradients of TRL's trainers and of obverse's update, on one tiny model and the same numbers.

What is compared is d loss / d log-prob of every trained token, and d loss / d parameters. TRL's code computes all of
its part: advantages, old and reference log-probs, corrections, loss. Between sampling and the loss both models move by
the same noise, so that ratios are not 1. Everything is float32: TRL's kernel and obverse's log-probs are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from exam.batches import groups
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from obverse.estimator.formula import loss
from obverse.estimator.method import Method
from obverse.estimator.parts import Everything, Standardized
from obverse.models.batch import Micro, pack
from obverse.models.policy import as_policy, logprobs
from obverse.models.shared_prefix import SharedPrefix
from obverse.training.learners import Learner
from obverse.training.mismatched_kl import with_mismatched_kl
from obverse.training.prepared_update import prepare_update
from obverse.training.streams import forward
from obverse.types import Group, Sample

disable_progress_bars()

NUM_GENERATIONS = 4
SOME = ((1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.5, 0.0), (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 1.0))
REWARDS = SOME * 6  # enough samples on both sides of every bound
PLAIN: dict[str, Any] = {
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "gradient_accumulation_steps": 1,
    "save_strategy": "no",
}


@dataclass(frozen=True)
class Gradients:
    """The gradients of one program."""

    tokens: Tensor  # d loss / d log-prob of every trained token, sample by sample
    parameters: dict[str, Tensor]


@dataclass(frozen=True)
class Start:
    """The initial model's folder, and the size of the weight changes."""

    folder: Path
    noise: float = 1.0

    def model(self, times: int = 0) -> Any:
        """The initial model after `times` moves; every call returns the same weights."""
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        for number in range(times):
            self.move(model, number)
        return model

    def move(self, model: Any, number: int) -> None:
        """Add the move's noise to every weight: seeds are by move and name, so that copies move alike."""
        with torch.no_grad():
            for index, (_, weight) in enumerate(sorted(model.named_parameters())):
                rng = torch.Generator().manual_seed(1000 * number + index)
                weight += self.noise * weight.std(correction=0) * torch.randn(weight.shape, generator=rng)

    @property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder)


class Recorder:
    """A model that keeps its last log-probs with their gradient."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, **inputs: Any) -> Any:
        self.outputs = self.model(**inputs)
        if torch.is_grad_enabled():
            self.outputs.log_probs.retain_grad()
        return self.outputs

    def gradients(self, total: Tensor) -> Gradients:
        """The gradients of a loss; tokens in the row order of the trainer."""
        self.model.zero_grad()
        total.backward()
        return Gradients(self.outputs.log_probs.grad[self.outputs.label_mask], named(self.model))


def named(model: Any) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def own_samples(start: Start) -> list[Group]:
    """Groups of random samples with their log-probs under the policy after its first move."""
    generated = groups(1, rewards=REWARDS, demonstrations=False)
    policy = as_policy(start.model(times=1))
    for sample in [sample for group in generated for sample in group.samples]:
        update = pack([[sample]], frozenset(sample.sources))
        assert update is not None
        (micro,) = update.micros(10**9)
        sample.behavior = logprobs(policy, micro)[0].tolist()
    return generated


def with_sampler(generated: Sequence[Group], seed: int = 0, spread: float = 0.5) -> list[Group]:
    """The groups with log-probs that differ slightly, as of another program that sampled them."""
    rng = random.Random(seed)
    off: Callable[[Sample], list[float]] = lambda sample: [value + rng.gauss(0, spread) for value in sample.behavior]  # noqa: E731
    return [
        Group(group.problem, [replace(sample, behavior=off(sample)) for sample in group.samples]) for group in generated
    ]


def as_trl(method: Method) -> Method:
    """The method with TRL's differences: 1e-4 in place of 1e-6 beside the std, and no group is dropped."""
    terms = tuple(
        replace(term, advantage=Standardized(1e-4)) if isinstance(term.advantage, Standardized) else term
        for term in method.terms
    )
    return replace(method, terms=terms, keep=Everything())


def ours(
    start: Start, method: Method, generated: Sequence[Group], order: Callable[[Sample], int] | None = None
) -> Gradients:
    """obverse's gradients: its update up to the optimizer step. `order` sorts the samples as in TRL."""
    update = pack([method.select(group) for group in generated], method.sources)
    assert update is not None
    moving = start.model(times=1)
    anchor = as_policy(start.model()) if method.needs("anchor") else None
    learner = Learner(as_policy(moving), anchor, method, None, 10**9)  # type: ignore[arg-type]
    prepared = prepare_update(learner, update, is_repeated=True)
    start.move(moving, 1)
    prepared, _ = with_mismatched_kl(learner, prepared)
    (micro_of_all,) = update.micros(10**9)
    # samples with a zero gradient are not in the prepared update
    gradient_at = dict.fromkeys(positions_of(micro_of_all), 0.0)
    reader = SharedPrefix(moving)
    for micro in prepared.micros:
        outputs = forward(learner, micro, reader)
        outputs.logp.retain_grad()
        loss(micro.tokens, prepared.samples, outputs.logp, outputs.entropy, method.terms, 0.0, outputs.value).backward()
        assert outputs.logp.grad is not None
        gradient_at |= dict(zip(positions_of(micro), outputs.logp.grad.tolist(), strict=True))
    reader.finish()
    rank = order or (lambda sample: 0)
    ordered = sorted(gradient_at, key=lambda position: (rank(update.rows[position[0]]), *position))
    return Gradients(torch.tensor([gradient_at[position] for position in ordered]), named(moving))


def positions_of(micro: Micro) -> list[tuple[int, int]]:
    """(row in Samples, position in the response) of every trained token."""
    return list(zip(micro.tokens.sample.tolist(), micro.tokens.position.tolist(), strict=True))


def trained_by_samples(
    start: Start, generated: Sequence[Group], options: dict[str, Any], corrects: bool = False
) -> Gradients:
    """GRPOTrainer's gradients; `corrects`: with the correction for another program that sampled."""
    samples = [sample for group in generated for sample in group.samples]
    rollouts = {
        "prompt_ids": [list(sample.prompt.token_ids) for sample in samples],
        "completion_ids": [sample.ids for sample in samples],
        "logprobs": [sample.behavior for sample in samples],
    }
    trainer = GRPOTrainer(
        start.model(times=1),
        reward_funcs=lambda completions, **columns: [sample.reward for sample in samples],
        args=GRPOConfig(**sampling_options(start, len(samples)), num_iterations=2, **options),
        train_dataset=Dataset.from_dict({"prompt": ["p"] * len(samples)}),
        processing_class=start.tokenizer,
        rollout_func=lambda prompts, trainer: deepcopy(rollouts),
    )
    if corrects:  # otherwise the trainer would connect to a vLLM server
        trainer.use_vllm, trainer._last_loaded_step = True, trainer.state.global_step
    return moved(start, trainer, [{"prompt": "p"} for _ in samples])


def trained_by_sequences(start: Start, generated: Sequence[Group], options: dict[str, Any]) -> Gradients:
    """RLOOTrainer's gradients."""
    samples = [sample for group in generated for sample in group.samples]
    trainer = RLOOTrainer(
        start.model(times=1),
        reward_funcs=lambda completions, **columns: [sample.reward for sample in samples],
        args=RLOOConfig(**sampling_options(start, len(samples)), **options),
        train_dataset=Dataset.from_dict({"prompt": ["p"] * len(samples)}),
        processing_class=start.tokenizer,
    )
    texts = ["" for _ in samples]
    trainer._generate = lambda prompts: (
        [list(sample.prompt.token_ids) for sample in samples],
        [sample.ids for sample in samples],
        texts,
    )
    return moved(start, trainer, [{"prompt": "p"} for _ in samples])


def sampling_options(start: Start, num_samples: int) -> dict[str, Any]:
    batch = {"per_device_train_batch_size": num_samples, "num_generations": NUM_GENERATIONS, "temperature": 1.0}
    return {**PLAIN, **batch, "output_dir": str(start.folder / "out")}


def moved(start: Start, trainer: Any, rows: list[dict[str, Any]]) -> Gradients:
    """The gradients of the trainer's loss, after it scored its samples and the weights moved."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._generate_and_score_completions(rows)
    start.move(trainer.model, 1)
    model = Recorder(trainer.model)
    return model.gradients(trainer._compute_loss(model, inputs))


def trained_by_pairs(start: Start, generated: Sequence[Group], options: dict[str, Any]) -> Gradients:
    """DPOTrainer's gradients: all chosen responses, then all rejected ones."""
    examples = []
    for group in generated:
        (chosen,), (rejected,) = group.of("chosen"), group.of("rejected")
        prompt = {"prompt_ids": list(chosen.prompt.token_ids)}
        examples.append({**prompt, "chosen_ids": chosen.ids, "rejected_ids": rejected.ids})
    trainer = DPOTrainer(
        start.model(),
        args=DPOConfig(**PLAIN, output_dir=str(start.folder / "out"), **options),
        train_dataset=Dataset.from_dict({"prompt": ["a"], "chosen": [" b"], "rejected": [" c"]}),
        processing_class=start.tokenizer,
    )
    for number in range(2):
        start.move(trainer.model, number)
    trainer.model.train()
    model = Recorder(trainer.model)
    inputs = DataCollatorForPreference(pad_token_id=start.tokenizer.pad_token_id)(examples)
    return model.gradients(trainer._compute_loss(model, inputs, return_outputs=False))


def trained_by_labels(start: Start, samples: Sequence[Sample], options: dict[str, Any]) -> Gradients:
    """KTOTrainer's gradients: every response is a row of its own, in the order of the samples."""
    examples = [
        {
            "prompt_ids": list(sample.prompt.token_ids),
            "completion_ids": sample.ids,
            "KL_completion_ids": samples[index - 1].ids,
            "label": sample.kind == "chosen",
        }
        for index, sample in enumerate(samples)
    ]
    trainer = KTOTrainer(
        start.model(),
        args=KTOConfig(**PLAIN, per_device_train_batch_size=2, output_dir=str(start.folder / "out"), **options),
        train_dataset=Dataset.from_dict({"prompt": ["a", "a"], "completion": [" b", " c"], "label": [True, False]}),
        processing_class=start.tokenizer,
    )
    for number in range(2):
        start.move(trainer.model, number)
    trainer.model.train()
    model = Recorder(trainer.model)
    if options.get("loss_type") == "apo_zero_unpaired":
        examples = [{key: value for key, value in row.items() if not key.startswith("KL")} for row in examples]
    inputs = DataCollatorForUnpairedPreference(pad_token_id=start.tokenizer.pad_token_id)(examples)
    return model.gradients(trainer._compute_loss(model, inputs, return_outputs=False))


class LogitRecorder:
    """A model that keeps its last logits with their gradient, and the tokens of which gradients are wanted."""

    def __init__(self, model: Any, labels: Tensor) -> None:
        self.model, self.labels = model, labels

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        outputs = self.model(*args, **inputs)
        self.logits = outputs.logits
        self.logits.retain_grad()
        return outputs

    def gradients(self, total: Tensor) -> Gradients:
        """The gradients of a loss by the log-probs of the labels: g, where the logits of a token have g (1 - p)."""
        self.model.zero_grad()
        total.backward()
        logits, slopes, labels = self.logits[:, :-1], self.logits.grad[:, :-1], self.labels[:, 1:]
        is_label = labels != -100
        target = labels.clamp(min=0)[..., None]
        by_logit = slopes.gather(-1, target)[..., 0]
        chance = logits.detach().softmax(-1).gather(-1, target)[..., 0]
        return Gradients((by_logit / (1 - chance))[is_label], named(self.model))


def padded(rows: Sequence[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def trained_without_reference(
    start: Start, generated: Sequence[Group], kind: str, options: dict[str, Any]
) -> Gradients:
    """CPOTrainer's gradients, or those of ORPOTrainer's odds ratio: its NLL covers the prompt, which ours does not."""
    trainer_class, config_class = (CPOTrainer, CPOConfig) if kind == "cpo" else (ORPOTrainer, ORPOConfig)
    trainer = trainer_class(
        start.model(times=2),
        args=config_class(**PLAIN, output_dir=str(start.folder / "out"), **options),
        train_dataset=Dataset.from_dict({"prompt": ["a"], "chosen": [" b"], "rejected": [" c"]}),
        processing_class=start.tokenizer,
    )
    rows = {kind: [sample for group in generated for sample in group.of(kind)] for kind in ("chosen", "rejected")}
    width = max(sample.num_tokens for samples in rows.values() for sample in samples)
    batch: dict[str, Tensor] = {}
    for side, samples in rows.items():
        texts = [list(sample.model_input.token_ids) for sample in samples]
        labels = [[-100] * len(sample.prompt) + sample.ids for sample in samples]
        batch[f"{side}_input_ids"] = padded(texts, width, 0)
        batch[f"{side}_attention_mask"] = padded([[1] * len(text) for text in texts], width, 0)
        batch[f"{side}_labels"] = padded(labels, width, -100)
    trainer.model.train()
    model = LogitRecorder(trainer.model, torch.cat([batch["chosen_labels"], batch["rejected_labels"]]))
    if kind == "cpo":
        return model.gradients(trainer.get_batch_loss_metrics(model, batch)[0])
    chosen, rejected, *_ = trainer.concatenated_forward(model, batch)
    return model.gradients(-trainer.odds_ratio_loss(chosen, rejected)[0].mean())


def trained_by_demonstrations(start: Start, generated: Sequence[Group], options: dict[str, Any]) -> Gradients:
    """SFTTrainer's gradients."""
    samples = [sample for group in generated for sample in group.samples]
    trainer = SFTTrainer(
        start.model(times=2),
        args=SFTConfig(**PLAIN, output_dir=str(start.folder / "out"), **options),
        train_dataset=Dataset.from_dict({"prompt": ["a"], "completion": [" b"]}),
        processing_class=start.tokenizer,
    )
    labels = [[-100] * len(sample.prompt) + sample.ids for sample in samples]
    rows = [
        {"input_ids": list(sample.model_input.token_ids), "labels": row}
        for sample, row in zip(samples, labels, strict=True)
    ]
    trainer.model.train()
    model = Recorder(trainer.model)
    return model.gradients(trainer.compute_loss(model, dict(trainer.data_collator(rows))))
