"""The model card of an exported folder: its README.md, made of recorded facts only."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from obverse.evaluation.card_options import KEY, SAMPLING
from obverse.hub.evaluation_figures import EvaluationFigures
from obverse.hub.loading_examples import loading_sections
from obverse.hub.training_record import TrainingRecord
from obverse.redact import flat
from obverse.types import Problem

Kind = Literal["model", "adapter", "reward model"]
PIPELINES: dict[Kind, str] = {
    "model": "text-generation",
    "adapter": "text-generation",
    "reward model": "text-classification",
}
FORMULA = """\
c_t  = weight * normalizer_t * mask_t * (pi_theta / pi_ref)_t * A_t      summed over the rows
loss = -(c.detach() * logp).sum()"""
_SEAL = re.compile(r"<!-- obverse: sha256 of this card without this line ([0-9a-f]{64}) -->\n?\Z")


@dataclass(frozen=True)
class SourceModel:
    """The base model: its name for readers, its name on the hub if it is known to be there, fingerprint and commit."""

    name: str
    hub_name: str | None = None
    sha256: str = ""  # of its weights
    commit: str = ""  # on the hub


@dataclass(frozen=True)
class PromptFormat:
    """How a prompt is written: an example, the stop token, and whether the saved chat template writes it.

    `record` is a renderer's record, which `obverse eval` uses where the saved chat template does not.
    """

    name: str
    example: str
    stop_token: str
    in_tokenizer: bool
    record: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class MethodFacts:
    """A method's first sentence, the link of its paper, and its terms in the formula."""

    summary: str = ""
    link: str = ""
    terms: Sequence[tuple[str, ...]] = ()  # per term: tokens, weight, mask, pi_ref, advantage, normalizer


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card states; what is not known is left out."""

    kind: Kind
    base: SourceModel | None
    record: TrainingRecord | None
    method: MethodFacts
    evaluations: Sequence[EvaluationFigures]
    prompt: PromptFormat | None
    license: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[str] = ()  # hub names
    lora_rank: int = 0  # of an adapter that vLLM can load
    version: str = ""  # of obverse, when it was exported


def model_card(facts: CardFacts, name: str) -> str:
    """The text of README.md for a model called `name` on the hub or as a folder; secrets are masked.

    The last line is the sha256 of the others, by which `is_unchanged` recognizes the card.
    """
    sections = [f"---\n{header(facts)}---", *body(facts, name)]
    text = flat("\n\n".join(sections)) + "\n\n"
    return f"{text}<!-- obverse: sha256 of this card without this line {_sha256(text)} -->\n"


def is_unchanged(text: str) -> bool:
    """Whether a README.md is a card of obverse that was not edited."""
    match = _SEAL.search(text)
    return match is not None and match[1] == _sha256(text[: match.start()])


def header(facts: CardFacts) -> str:
    """The YAML at the start of a card: the hub's metadata, and the options that `obverse eval` reads."""
    record, prompt = facts.record, facts.prompt
    values: dict[str, Any] = {
        "library_name": "peft" if facts.kind == "adapter" else "transformers",
        "pipeline_tag": PIPELINES[facts.kind],
        "tags": ["obverse", *([record.method.rpartition(":")[2]] if record else [])],
        **facts.license,
    }
    if facts.base and facts.base.hub_name:
        values["base_model"] = facts.base.hub_name
        values["base_model_relation"] = "adapter" if facts.kind == "adapter" else "finetune"
    if facts.datasets:
        values["datasets"] = list(facts.datasets)
    options: dict[str, Any] = {"version": facts.version}
    if record:
        options |= {"method": record.method.rpartition("/")[2], "step": record.step}
        options["eval"] = {option: record.options[option] for option in SAMPLING if option in record.options}
    if prompt and prompt.record and not prompt.in_tokenizer:
        options["template"] = dict(prompt.record)
    return yaml.safe_dump({**values, KEY: options}, allow_unicode=True, width=float("inf"))


def body(facts: CardFacts, name: str) -> Iterator[str]:
    """The sections of a card in Markdown."""
    yield f"# {name.rpartition('/')[2]}"
    yield introduction(facts)
    if facts.record:
        yield from _method(facts, facts.record)
        yield from _data(facts.record)
        yield f"## Command\n\n{fenced(facts.record.command(), 'sh')}"
        yield "Every other option has its default. Paths are without the folders that they were in."
    yield from _evaluations(facts.evaluations)
    if facts.prompt:
        yield from _prompt(facts.prompt)
    yield from loading_sections(facts.kind, name, facts.base.hub_name if facts.base else None, facts.lora_rank)
    if facts.record:
        versions = "\n".join(f"| {package} | {version} |" for package, version in facts.record.versions.items())
        yield f"## Versions\n\n| of the training run | version |\n|---|---|\n{versions}"


def introduction(facts: CardFacts) -> str:
    """The sentence with the kind of the model, its base, method and step."""
    kinds = {"model": "A language model", "adapter": "A low-rank adapter (LoRA)", "reward model": "A reward model"}
    base = facts.base
    base_text = ""
    if base:
        link = f"[{base.hub_name}](https://huggingface.co/{base.hub_name})" if base.hub_name else f"`{base.name}`"
        base_text = f" of {link}" if facts.kind == "adapter" else f" with the base model {link}"
        base_text += f" at commit `{base.commit}`" if base.commit else ""
        base_text += f" (sha256 of its files `{base.sha256}`)" if base.sha256 else ""
    if not facts.record:
        return f"{kinds[facts.kind]}{base_text}, exported by obverse {facts.version}. Its training is not recorded."
    run = f" of run `{facts.record.run}`" if facts.record.run else ""
    method = facts.record.text("method")
    return (
        f"{kinds[facts.kind]}{base_text}, trained with obverse by the method `{method}`: step {facts.record.step}{run}."
    )


def _method(facts: CardFacts, record: TrainingRecord) -> Iterator[str]:
    yield f"## Method: `{record.text('method')}`"
    if record.is_from_file:
        code = record.inputs.get("method", "").rpartition("@")[2]
        yield "It is a function in a file of the author's" + (f". sha256 of its code: `{code}`." if code else ".")
        return
    yield facts.method.summary + (f" Paper: {facts.method.link}." if facts.method.link else "")
    yield fenced(FORMULA, "text")
    rows = "\n".join(f"| {' | '.join(row)} |" for row in dict.fromkeys(facts.method.terms))
    yield f"| tokens | weight | mask | pi_ref | advantage A | normalizer |\n|---|---|---|---|---|---|\n{rows}"


def _data(record: TrainingRecord) -> Iterator[str]:
    yield "## Data"
    lines = ["| | name | sha256 |", "|---|---|---|"]
    split = f", split {record.text('dataset_split')}" if record.options.get("dataset_split") else ""
    lines.append(f"| training | `{record.text('dataset')}`{split} | `{record.inputs.get('dataset', 'not recorded')}` |")
    for option, label in (("eval_dataset", "evaluation during training"), ("reward_model", "reward model")):
        if record.options.get(option) is not None:
            sha256 = record.inputs.get(option, "not recorded")
            lines.append(f"| {label} | `{record.text(option)}` | `{sha256}` |")
    yield "\n".join(lines)
    yield (
        "The sha256 of a data set is of its rows in order, as `obverse.runtime.fingerprint` computes it. Verifier: "
        f"{record.verifier()}."
    )


def _evaluations(evaluations: Sequence[EvaluationFigures]) -> Iterator[str]:
    yield "## Evaluation"
    if not evaluations:
        yield "Not evaluated."
        return
    lines = ["| data | problems | metric | value | 95 % interval |", "|---|--:|---|--:|--:|"]
    for evaluation in evaluations:
        for figure in evaluation.figures:
            span = f"{figure.low:.1%} .. {figure.high:.1%}"
            lines.append(
                f"| `{evaluation.data}` | {evaluation.num_problems} | {figure.metric} | {figure.value:.1%} | {span} |"
            )
    yield "\n".join(lines)
    protocols = (
        f"- `{evaluation.data}`: {evaluation.protocol}"
        + (f"; rows with sha256 `{evaluation.sha256}`" if evaluation.sha256 else "")
        for evaluation in evaluations
    )
    yield "\n".join(protocols)


def _prompt(prompt: PromptFormat) -> Iterator[str]:
    yield "## Prompt format"
    source = (
        "The chat template of the tokenizer writes it."
        if prompt.in_tokenizer
        else "The tokenizer has no chat template that writes it: write the text as shown."
    )
    yield f"Template: {prompt.name}. A completion ends with `{prompt.stop_token}`. {source} With the prompt QUESTION:"
    yield fenced(prompt.example, "text")


def fenced(text: str, language: str) -> str:
    """A block of code in Markdown, with a fence that is longer than any in the text."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def prompt_format(renderer: Any, is_recorded: bool) -> PromptFormat:
    """The prompt format of a Renderer; with `is_recorded` it is that of a training run."""
    stop_token = str(renderer.tokenizer.convert_ids_to_tokens(renderer.stop_id))
    return PromptFormat(
        name=renderer.template_name,
        example=renderer.prompt_text(Problem("card", "QUESTION")),
        stop_token=stop_token,
        in_tokenizer=renderer.portable() is not None,
        record=renderer.record() if is_recorded else None,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
