"""The completions on a page: of some steps some problems with all their samples, within a number of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from obverse.redact import flat
from obverse.report.advantages import advantages, stages
from obverse.report.load_runs import Row, RunData
from obverse.report.schemas import COMPLETION, check
from obverse.report.teacher import GapSums, gaps_of, shaded, tokenizer_of
from obverse.runtime.json_lines import read_objects

GIVEN, CORRECT, WRONG = "demonstrations", "correct rollouts", "wrong rollouts"
MOST_STEPS = 60
MOST_GROUPS = 12  # of a step
MOST_CHARACTERS = 6000  # of a text: its beginning and its end


@dataclass
class Picked:
    """The completions that a page shows, and how many there are."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    num_steps: int = 0
    total_steps: int = 0
    read_groups: int = 0  # groups in the steps that were read
    num_cut: int = 0  # texts that were shortened
    trained: dict[int, dict[str, int]] = field(default_factory=dict)  # by step, trained tokens by source
    gaps: dict[int, GapSums] = field(default_factory=dict)  # by step, the gap to the teacher by position
    has_tokenizer: bool = True  # whether tokens could be written as text

    def omissions(self) -> str:
        """A sentence about the completions that are not on the page."""
        if not self.total_steps:
            return "The run wrote no completions (log_completions)."
        num_groups = len(self.groups)
        text = f"{num_groups:,} of the {self.read_groups:,} problems of {self.num_steps:,} steps"
        text += (
            f", spread evenly over the {self.total_steps:,} steps of the run"
            if self.num_steps < self.total_steps
            else ""
        )
        text += f"; of {self.num_cut:,} long texts only the beginning and the end" if self.num_cut else ""
        if not self.has_tokenizer and any(sums.counts for sums in self.gaps.values()):
            text += "; not shaded by the teacher, because no checkpoint of the run has a tokenizer.json"
        return text + ". All completions are in the run folder, samples/step-*.jsonl."


def pick(run: RunData, number: int, max_bytes: int) -> Picked:
    """The completions of a run that fit into `max_bytes` of JSON; `number` is the run's index on the page."""
    files = run.sample_files()
    steps = spread(list(files), MOST_STEPS)
    methods, stage_of = stages(run), {int(row["step"]): int(row.get("lane") or 0) for row in run.rows}
    tokenizer = tokenizer_of(run)
    picked = Picked(num_steps=len(steps), total_steps=len(files), has_tokenizer=tokenizer is not None)
    queues = []
    for step in steps:
        rows: list[Row] = [
            check(COMPLETION, row, f"{files[step]}:{number}") for number, row in enumerate(read_objects(files[step]), 1)
        ]
        stage = stage_of.get(step, 0)
        values, parts = advantages(methods[stage] if stage < len(methods) else None, rows)
        groups = grouped(rows, values)
        picked.trained[step] = trained_tokens(rows)
        picked.gaps[step] = GapSums()
        for row in rows:
            picked.gaps[step].add(gaps_of(row))
        picked.read_groups += len(groups)
        queues.append([(step, parts, group) for group in varied(groups)[:MOST_GROUPS]])
    size = 0
    for position in range(MOST_GROUPS):  # the first group of every step, then the second of every step, ...
        for step, parts, group in [queue[position] for queue in queues if position < len(queue)]:
            entry, num_cut = as_json(group, step, number, parts, tokenizer)
            size += num_bytes(entry)
            if size > max_bytes:
                return _sorted(picked)
            picked.groups.append(entry)
            picked.num_cut += num_cut
    return _sorted(picked)


def num_bytes(entry: Mapping[str, Any]) -> int:
    """The bytes of a group on the page, where `<`, `>` and `&` are each written with six characters."""
    text = json.dumps(entry, ensure_ascii=False)
    return len(text.encode()) + 5 * sum(map(text.count, "<>&"))


def _sorted(picked: Picked) -> Picked:
    picked.groups.sort(key=lambda group: group["step"])
    return picked


def trained_tokens(rows: Sequence[Row]) -> dict[str, int]:
    """The number of trained tokens of a step's completions by source."""
    num_tokens = dict.fromkeys((GIVEN, CORRECT, WRONG), 0)
    for row in rows:
        if row.get("kept"):
            is_rollout = row["kind"] in ("rollout", "hinted")
            source = (CORRECT if row["correct"] else WRONG) if is_rollout else GIVEN
            num_tokens[source] += len(row["ids"])
    return num_tokens


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` of the steps at even distances, including the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


Weighed = tuple[Row, float | None]  # a row and its advantage


def grouped(rows: Sequence[Row], values: Sequence[float | None]) -> list[list[Weighed]]:
    """The rows of a step with their advantages, grouped by problem."""
    groups: dict[str, list[Weighed]] = {}
    for row, value in zip(rows, values, strict=True):
        groups.setdefault(str(row["problem"]), []).append((row, value))
    return list(groups.values())


def varied(groups: Sequence[list[Weighed]]) -> list[list[Weighed]]:
    """The groups reordered, alternating between partly solved, never solved and always solved problems."""
    kinds: dict[str, list[list[Weighed]]] = {"some": [], "none": [], "all": []}
    for group in groups:
        correct = [bool(row["correct"]) for row, _ in group if row["kind"] in ("rollout", "hinted")]
        kinds["all" if correct and all(correct) else "some" if any(correct) else "none"].append(group)
    most = max(map(len, kinds.values()), default=0)
    return [members[position] for position in range(most) for members in kinds.values() if position < len(members)]


def as_json(
    group: Sequence[Weighed], step: int, run: int, parts: str, tokenizer: Tokenizer | None = None
) -> tuple[dict[str, Any], int]:
    """A group for the page with control characters written out, and the number of shortened texts.

    Rollouts that a teacher scored have their tokens, unless the text was shortened.
    """
    first = group[0][0]
    texts = [shortened(flat(row["text"])) for row, _ in group]
    samples = [
        {
            "kind": row["kind"],
            "reward": row["reward"],
            "correct": row["correct"],
            "reason": flat(row.get("reason", "")),
            "cut": row["finish"] == "length",
            "kept": bool(row.get("kept")),
            "advantage": None if value is None else round(value, 4),
            "tokens": len(row["ids"]),
            "hint": row.get("num_hint", 0),
            "text": text,
            **({} if was_cut else shaded(row, tokenizer)),
        }
        for (row, value), (text, was_cut) in zip(group, texts, strict=True)
    ]
    prompt, prompt_cut = shortened(flat(prompt_text(first.get("prompt"))))
    entry = {"run": run, "step": step, "problem": flat(first["problem"]), "prompt": prompt, "parts": parts}
    answer = first.get("answer")
    entry |= {"answer": None if answer is None else shortened(flat(answer))[0], "samples": samples}
    return entry, sum(was_cut for _, was_cut in texts) + prompt_cut


def prompt_text(prompt: Any) -> str:
    """A prompt as text; chat messages with their roles."""
    if isinstance(prompt, list):
        return "\n".join(f"[{message.get('role', '')}] {message.get('content', '')}" for message in prompt)
    return "" if prompt is None else str(prompt)


def shortened(text: str) -> tuple[str, bool]:
    """A text of at most about MOST_CHARACTERS, and whether its middle was omitted."""
    if len(text) <= MOST_CHARACTERS:
        return text, False
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters omitted ...]\n{text[-half:]}", True
