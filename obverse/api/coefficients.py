"""`obverse.coefficients`: the number per token that a method's update is, as a table and over the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from obverse.analysis.step_file import read_step
from obverse.api.method_source import AnyMethod, schedule_of
from obverse.api.run import Run, load_run
from obverse.api.table import Table
from obverse.errors import ConfigError, DataError
from obverse.lazy_import import load
from obverse.notebook_html import block, paragraph, text
from obverse.redact import flat

Step = str | Path | Mapping[str, Any] | Run | tuple[Run | str | Path, int]

DIVERGENCE = "divergence_coefficient"  # the key of a sample with the factors of the divergence
MOST_TOKENS, MOST_SAMPLES = 1200, 40  # that a notebook shows
MOST_PRINTED_TOKENS, MOST_PRINTED_SAMPLES = 40, 8  # that `print` writes: tokens of a sample, and samples
RAISED, LOWERED = "31,158,120", "221,107,51"  # of tokens that become more likely, and less


@dataclass(frozen=True)
class TokenCoefficients:
    """The coefficients of one update: c[t] = -d loss / d logp[t] of every token of every sample.

    A token with a positive coefficient becomes more likely, one with a negative coefficient less.

    Attributes:
        method: The method's name.
        options: The method's options that were given.
        samples: A row per sample: `problem`, `kind`, `reward`, `kept` (whether the update has the sample),
            `coefficient` (a list, [n]), `source` and `tokens` ([n] each; `tokens` is None where they are unknown).
        about: A sentence about the samples and their policy; "" for a step file.
    """

    method: str
    options: Mapping[str, Any]
    samples: Table
    about: str = ""

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with a row per token. Raises ConfigError if pandas is not installed."""
        return self.tokens.to_pandas()

    @property
    def tokens(self) -> Table:
        """A row per token: sample, problem, kind, position, token, source, coefficient.

        Of a method with a divergence over the vocabulary also `divergence_coefficient`.
        """
        rows = []
        for number, sample in enumerate(self.samples):
            for position, (token, source, value) in enumerate(_tokens_of(sample)):
                row = {name: sample.get(name) for name in ("problem", "kind")}
                token_row = {"position": position, "token": token, "source": source, "coefficient": value}
                if DIVERGENCE in sample:
                    token_row[DIVERGENCE] = sample[DIVERGENCE][position]
                rows.append({"sample": number, **row, **token_row})
        return Table(rows, f"coefficients of {self.method}")

    def __str__(self) -> str:
        """The first samples over their text; `samples`, `tokens` and `to_pandas()` have all of them."""
        lines = [flat(self.about)] if self.about else []
        for sample in self.samples[:MOST_PRINTED_SAMPLES]:
            tokens = islice(_tokens_of(sample), MOST_PRINTED_TOKENS)
            pieces = [f"{_one_line(_label(token, source))}({value:+.3g})" for token, source, value in tokens]
            num_hidden = len(sample["coefficient"]) - len(pieces)
            pieces += [f"... and {num_hidden} more tokens"] if num_hidden else []
            lines.append(f"{_one_line(_heading(sample))}: {' '.join(pieces)}")
        num_hidden = len(self.samples) - MOST_PRINTED_SAMPLES
        if num_hidden > 0:
            lines.append(f"... and {num_hidden} more samples: see samples, tokens or to_pandas()")
        lines += [self._streams_note()] if self._streams_note() else []
        return "\n".join(lines)

    def __repr__(self) -> str:
        num_kept = sum(bool(sample["kept"]) for sample in self.samples)
        return f"<coefficients of {self.method}: {len(self.samples)} samples, {num_kept} in the update>"

    def _repr_html_(self) -> str:
        largest = max((abs(value) for sample in self.samples for value in sample["coefficient"]), default=0.0)
        parts = [paragraph(f"<b>{text(self.method)}</b>: {self._legend(largest)}")]
        parts += [paragraph(text(self.about), is_soft=True)] if self.about else []
        num_remaining = MOST_TOKENS
        samples = self.samples[:MOST_SAMPLES]
        for number, sample in enumerate(samples):
            if num_remaining <= 0:
                samples = samples[:number]
                break
            tokens = list(_tokens_of(sample))[:num_remaining]
            num_remaining -= len(tokens)
            gap = "" if sample["tokens"] else " "
            spans = gap.join(_span(_label(token, source), value, largest) for token, source, value in tokens)
            parts += [paragraph(text(_heading(sample)), is_soft=True), f'<div class="tokens">{spans}</div>']
        if len(samples) < len(self.samples):
            parts.append(paragraph(f"the first {len(samples)} of {len(self.samples)} samples", is_soft=True))
        return block(*parts)

    def _legend(self, largest: float) -> str:
        more, less = _span("more likely", largest, largest), _span("less likely", -largest, largest)
        note = f"; {text(self._streams_note())}" if self._streams_note() else ""
        return f"tokens become {more} or {less}; the strongest coefficient is {largest:.3g}{note}"

    def _streams_note(self) -> str:
        """A clause about coefficients that are not those of log-probs; "" if there are none."""
        has_divergence = any(DIVERGENCE in sample for sample in self.samples)
        return "the factors of the divergence over the vocabulary are in tokens and samples" if has_divergence else ""


def coefficients(method: AnyMethod, step: Step, **options: Any) -> TokenCoefficients:
    """Compute the coefficient that a method gives every token of an update.

    Args:
        method: A name, `"file.py:function"`, a function that returns a Method, or a Method.
        step: The path of a step file, or its content (see `obverse weigh`; a sample may have `tokens`, a list of
            texts); or a run or its folder, or (run, step): its stored completions are weighed under the nearest
            checkpoint.
        options: The method's options, in place of the paper's.

    Raises:
        DataError: For a step without samples, naming the sample and the key that is missing or wrong.
        ConfigError: For the method's options.

    Example:
        >>> step = {"samples": [
        ...     {"problem": "2+2", "kind": "rollout", "reward": 1.0, "source": ["rollout"], "logp": [-0.5],
        ...      "behavior": [-0.5], "tokens": ["4"]},
        ...     {"problem": "2+2", "kind": "rollout", "reward": 0.0, "source": ["rollout"], "logp": [-1.5],
        ...      "behavior": [-1.5], "tokens": ["5"]}]}
        >>> print(coefficients("dr_grpo", step, max_completion_length=1))
        2+2, rollout, reward 1: 4(+0.25)
        2+2, rollout, reward 0: 5(-0.25)
    """
    if isinstance(step, str | Path) and Path(step).is_dir():
        step = load_run(step)
    if isinstance(step, Run):
        step = (step, _last_stored_step(step))
    if isinstance(step, tuple):
        run = step[0] if isinstance(step[0], Run) else load_run(step[0])
        number = step[1]
        run.samples(number)  # a step without completions is an error before anything is loaded
        is_default = isinstance(method, str) and not options
        name, schedule = (method, None) if is_default else schedule_of(method, options)
        weighed = load("obverse.analysis.run_coefficients:weigh_step")(run.folder, number, name, schedule)
        return TokenCoefficients(str(name), options, Table(weighed["samples"]), weighed["about"])
    if not isinstance(step, Mapping | str | Path):
        raise ConfigError(f"step: expects a step file, its content, a run or (run, step), not a {type(step).__name__}")
    content = step if isinstance(step, Mapping) else read_step(step)
    name, schedule = schedule_of(method, options)
    samples = load("obverse.analysis.step_coefficients:weigh_samples")(schedule, content)
    rows = [_row(given, sample) for given, sample in zip(content["samples"], samples, strict=True)]
    return TokenCoefficients(name, options, Table(rows))


def _row(given: Mapping[str, Any], sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample of the result: its coefficients, with its kind, reward, sources and tokens from the step file."""
    tokens = given.get("tokens")
    if tokens is not None and len(tokens) != len(given["source"]):
        raise DataError(f"{sample['problem']}: tokens: {len(tokens)} texts for {len(given['source'])} tokens in source")
    about = {"kind": given["kind"], "reward": given.get("reward"), "source": given["source"], "tokens": tokens}
    return {**sample, **about}


def _last_stored_step(run: Run) -> int:
    return int(run.samples().title.rpartition(" ")[2])


def _tokens_of(sample: Mapping[str, Any]) -> Iterator[tuple[str | None, str, float]]:
    """The text (None where it is unknown), the source and the coefficient of every token of a sample."""
    tokens = sample["tokens"] or [None] * len(sample["coefficient"])
    yield from zip(tokens, sample["source"], sample["coefficient"], strict=True)


def _label(token: str | None, source: str) -> str:
    return source if token is None else token


def _one_line(content: str) -> str:
    """A text in one line, without control characters."""
    return flat(content.replace("\n", "\\n"))


def _heading(sample: Mapping[str, Any]) -> str:
    reward = "" if sample["reward"] is None else f", reward {sample['reward']:g}"
    method = f"{sample['method']}: " if "method" in sample else ""
    return f"{method}{sample['problem']}, {sample['kind']}{reward}{'' if sample['kept'] else ', not in the update'}"


def _span(label: str, value: float, largest: float) -> str:
    """A token with its coefficient as background: the stronger, the more color."""
    strength = 0.1 + 0.65 * abs(value) / largest if value else 0.0  # the weakest can still be seen
    color = RAISED if value > 0 else LOWERED
    style = f"background:rgba({color},{strength:.2f});border-radius:3px"
    content = text(label.replace("\n", "\\n"))
    return f'<span style="{style}" title="{value:+.4g}">{content}</span>'
