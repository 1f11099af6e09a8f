"""The estimator as a drawing: the coefficient of every token of the same samples under several methods.

The samples are real: those of a step of a stored run. Their behavior log-probs are those of the checkpoint that sampled
them, the policy's those of the next checkpoint, as in a second optimizer step on the same samples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import escape

from obverse.analysis.step_coefficients import keep, tables
from obverse.analysis.step_file import parse
from obverse.estimator.formula import coefficient
from obverse.estimator.method import Method
from obverse.estimator.schedule import only
from obverse.estimator.tables import PartInputs
from obverse.methods import build
from recipes.site.drawing import as_file

METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "grpo": {"beta": 0.0},
    "hpt": {"entropy_coef": 0.0, "max_completion_length": 96, "rl_coef": 20.0},
}
TITLES = {"sft": "SFT", "grpo": "GRPO", "hpt": "HPT"}
WIDTH, CELL, LINE, LEFT = 860, 14.6, 25, 236
MOST_TOKENS = 40  # of a text in the drawing; longer samples are not chosen


@dataclass(frozen=True)
class Shown:
    """A sample in the drawing: its tokens, and by method the coefficient of each (zeros if the sample is dropped)."""

    label: str
    tokens: list[str]
    coefficients: Mapping[str, list[float]]


@dataclass(frozen=True)
class Factors:
    """The factors of one token's coefficient."""

    token: str
    weight: float
    normalizer: float
    mask: float
    ratio: float
    advantage: float

    @property
    def value(self) -> float:
        return self.weight * self.normalizer * self.mask * self.ratio * self.advantage


def log_probs(folder: Path, samples: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """The log-prob of every token of the samples under a checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for sample in samples:
            prompt = tokenizer(sample["prompt"], add_special_tokens=False)["input_ids"]
            logits = model(torch.tensor([[*prompt, *sample["ids"]]])).logits[0, len(prompt) - 1 : -1]
            taken = torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(sample["ids"])[:, None])
            rows.append(taken[:, 0].tolist())
    return rows


def stored_step(run: Path, step: int) -> list[dict[str, Any]]:
    """The samples of a step with their tokens, log-probs of the policy after it and of the policy before it."""
    from transformers import AutoTokenizer

    lines = (run / "samples" / f"step-{step:06}.jsonl").read_text(encoding="utf-8").split("\n")
    samples = [json.loads(line) for line in lines if line]
    before, after = run / f"checkpoint-{step - 1}", run / f"checkpoint-{step}"
    tokenizer = AutoTokenizer.from_pretrained(after)
    columns = zip(samples, log_probs(after, samples), log_probs(before, samples), strict=True)
    return [
        {
            "problem": sample["problem"],
            "kind": sample["kind"],
            "reward": sample["reward"],
            "correct": sample["correct"],
            "truncated": sample["finish"] == "length",
            "source": [sample["kind"]] * len(sample["ids"]),
            "logp": logp,
            "behavior": behavior,
            "tokens": [tokenizer.decode([token]).replace("<|endoftext|>", "end") for token in sample["ids"]],
        }
        for sample, logp, behavior in columns
    ]


def chosen_problems(samples: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """A problem that some rollouts solve and one that none solves, both with short texts and different attempts."""
    by_problem: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_problem.setdefault(sample["problem"], []).append(sample)
    fits = {
        name: sum(bool(sample["correct"]) for sample in group if sample["kind"] == "rollout")
        for name, group in by_problem.items()
        if max(len(sample["tokens"]) for sample in group) <= MOST_TOKENS
    }
    mixed = [name for name, solved in fits.items() if 2 <= solved <= 6]
    failed = [name for name, solved in fits.items() if solved == 0]
    size = {name: max(len(sample["tokens"]) for sample in by_problem[name]) for name in fits}
    return max(mixed, key=size.__getitem__), max(failed, key=size.__getitem__)


def weighed(step: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, list[float]]]:
    """By method, the coefficients of every sample that it trains, by the sample's index."""
    return {name: coefficients_of(only(build(name, options)), step) for name, options in METHODS.items()}


def coefficients_of(method: Method, step: Sequence[Mapping[str, Any]]) -> dict[int, list[float]]:
    inputs, owners = part_inputs(method, step)
    values = coefficient(inputs, method.terms)
    rows: dict[int, list[float]] = {index: [] for index in owners}
    for sample, value in zip(inputs.tokens.sample.tolist(), values.tolist(), strict=True):
        rows[owners[sample]].append(value)
    return rows


def part_inputs(method: Method, step: Sequence[Mapping[str, Any]]) -> tuple[PartInputs, list[int]]:
    """The inputs of a method's parts for the samples that it trains, and the indices of these samples."""
    given = [{name: value for name, value in sample.items() if name != "tokens"} for sample in step]
    _, rows = parse({"progress": 0.0, "samples": given})
    selected = keep(method, rows)
    owners = [index for index, row in enumerate(rows) if id(row.sample) in selected]
    tokens, samples, outputs = tables(method, [rows[index] for index in owners], selected)
    return PartInputs(tokens, samples, outputs, 0.0), owners


def factors(method: Method, step: Sequence[Mapping[str, Any]], index: int, position: int) -> Factors:
    """The factors of the token at `position` of the sample `index`."""
    inputs, owners = part_inputs(method, step)
    at = sum(len(step[owner]["logp"]) for owner in owners[: owners.index(index)]) + position
    source = int(inputs.tokens.source[at])
    (term,) = [term for term in method.terms if int(term.source) == source and term.on == "logp"]
    mask, ratio, advantage = term.mask_ratio_advantage(inputs)
    normalizer = term.normalizer(inputs.visible_to(term.normalizer), term.source)
    columns = [float(column[at]) for column in (normalizer, mask, ratio, advantage)]
    return Factors(step[index]["tokens"][position], term.weight_at(0.0), *columns)


def estimator_picture(run: Path, step_number: int) -> str:
    """The SVG file for a step of a run that has the checkpoints before and after this step."""
    step = stored_step(run, step_number)
    mixed, failed = chosen_problems(step)
    by_method = weighed(step)
    indices = [*picked(step, mixed, "solved"), *picked(step, failed, "failed")]
    shown = [
        Shown(label, step[index]["tokens"], {name: by_method[name].get(index, []) for name in METHODS})
        for label, index in indices
    ]
    lines = []
    for name, options in METHODS.items():
        method = only(build(name, options))
        trained = [index for _, index in indices if any(by_method[name].get(index, []))]
        index = next((index for index in trained if step[index]["kind"] == "rollout"), trained[0])
        values = by_method[name][index]
        position = max(range(len(values)), key=lambda at: abs(step[index]["logp"][at] - step[index]["behavior"][at])
                       * (values[at] != 0))  # fmt: skip
        lines.append((name, factors(method, step, index, position), label_of(indices, index)))
    return drawn(shown, lines)


def picked(step: Sequence[Mapping[str, Any]], problem: str, word: str) -> Iterator[tuple[str, int]]:
    """The samples of a problem that are drawn: its demonstration, a correct rollout and a wrong one."""
    members = [(index, sample) for index, sample in enumerate(step) if sample["problem"] == problem]
    rollouts = [(index, sample) for index, sample in members if sample["kind"] == "rollout"]
    num_solved = sum(bool(sample["correct"]) for _, sample in rollouts)
    yield (
        f"{word} problem, {num_solved} of {len(rollouts)} right|demonstration",
        next(index for index, sample in members if sample["kind"] == "demonstration"),
    )
    for is_right, label in ((True, "rollout, reward 1"), (False, "rollout, reward 0")):
        texts = [(len(sample["tokens"]), index) for index, sample in rollouts if bool(sample["correct"]) == is_right]
        if texts:
            yield f"|{label}", max(texts)[1]


def label_of(indices: Sequence[tuple[str, int]], index: int) -> str:
    return next(label.partition("|")[2] for label, other_index in indices if other_index == index)


def drawn(shown: Sequence[Shown], lines: Sequence[tuple[str, Factors, str]]) -> str:
    """The drawing: a block per method with the factors of one token and the texts shaded by their coefficients."""
    loss = "summed over the terms of a method; loss = -(c.detach() * logp).sum()"
    parts = [
        '<text class="strong mono" x="12" y="26">c_t = weight x normalizer x mask x ratio x A</text>',
        f'<text class="soft" x="372" y="26">{loss}</text>',
    ]
    y = 62.0
    for name, token, label in lines:
        strongest = max((abs(value) for row in shown for value in row.coefficients[name]), default=0.0)
        parts.append(f'<text class="strong" x="12" y="{y:.0f}">{TITLES[name]}</text>')
        parts.append(f'<text class="mono" x="70" y="{y:.0f}">{escape(equation(token))}</text>')
        note = f"token '{token.token}', {label}"
        parts.append(f'<text class="soft" x="{WIDTH - 12}" y="{y:.0f}" text-anchor="end">{escape(note)}</text>')
        y += 10
        for row in shown:
            group, _, kind = row.label.partition("|")
            if group:
                y += 16
                parts.append(f'<text class="soft" x="12" y="{y:.0f}">{escape(group)}</text>')
            parts.append(f'<text x="{LEFT - 10}" y="{y:.0f}" text-anchor="end">{escape(kind.replace("rollout, ", ""))}'
                         "</text>" if not group else "")  # fmt: skip
            if group:
                y += LINE - 5
                parts.append(f'<text x="{LEFT - 10}" y="{y:.0f}" text-anchor="end">{escape(kind)}</text>')
            parts += cells(row.tokens, row.coefficients[name], strongest, y)
            y += LINE
        y += 14
    parts.append(legend(y))
    return as_file(WIDTH, round(y + 16), "".join(parts), "The coefficient of every token under SFT, GRPO and HPT")


def equation(token: Factors) -> str:
    """The product of a token with its numbers."""
    numbers = (token.weight, token.normalizer, token.mask, token.ratio, token.advantage)
    return f"{' x '.join(f'{number:.3g}' for number in numbers)} = {token.value:+.2g}"


def cells(tokens: Sequence[str], values: Sequence[float], strongest: float, y: float) -> Iterator[str]:
    """A text token by token; the shade of a token is its coefficient relative to the method's largest."""
    x = float(LEFT)
    for number, token in enumerate(tokens):
        width = CELL * max(len(token), 1) * (0.62 if len(token) > 1 else 1)
        value = values[number] if values else 0.0
        strength = math.sqrt(abs(value) / strongest) if strongest else 0.0
        if strength > 0.02:
            kind = "up" if value > 0 else "down"
            yield (f'<rect class="{kind}" x="{x:.1f}" y="{y - 14:.0f}" width="{width - 1:.1f}" height="19" rx="2" '
                   f'opacity="{0.12 + 0.6 * strength:.2f}"><title>{value:+.3g}</title></rect>')  # fmt: skip
        middle = x + width / 2 - 0.5
        yield f'<text class="mono" x="{middle:.1f}" y="{y:.0f}" text-anchor="middle">{escape(token)}</text>'
        x += width


def legend(y: float) -> str:
    """What the shades mean."""
    items = (("up", "becomes more likely"), ("down", "becomes less likely"))
    boxes = "".join(
        f'<rect class="{kind}" x="{12 + 190 * number}" y="{y - 11:.0f}" width="18" height="14" rx="2" opacity="0.6"/>'
        f'<text class="soft" x="{36 + 190 * number}" y="{y:.0f}">{text}</text>'
        for number, (kind, text) in enumerate(items)
    )
    about = "no shade: no gradient (dropped, A = 0, or outside GRPO's clip)"
    return f'{boxes}<text class="soft" x="392" y="{y:.0f}">{escape(about)}</text>'
