"""Which completions a page holds: of some steps some problems with their whole group, within a number of bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from obverse.redact import flat
from obverse.report.advantages import advantages, stages
from obverse.report.load_runs import Row, RunData
from obverse.report.schemas import COMPLETION, check
from obverse.runtime.json_lines import read_objects

ORIGINS = ("shown", "own, right", "own, wrong")
MOST_STEPS = 60
MOST_GROUPS = 12  # of a step
MOST_CHARACTERS = 6000  # of a text: its beginning and its end


@dataclass
class Picked:
    """What a page shows of the completions, and how much there is of them."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    num_steps: int = 0
    total_steps: int = 0
    read_groups: int = 0  # groups of the steps that were read
    num_cut: int = 0  # texts whose middle was left out
    trained: dict[int, dict[str, int]] = field(default_factory=dict)  # by step, trained tokens by what they are

    def told(self) -> str:
        """What was left out, in words."""
        if not self.total_steps:
            return "The run wrote no completions (log_completions)."
        shown = len(self.groups)
        text = f"{shown:,} of the {self.read_groups:,} problems of {self.num_steps:,} steps"
        text += (
            f", spread evenly over the {self.total_steps:,} steps of the run"
            if self.num_steps < self.total_steps
            else ""
        )
        text += f"; of {self.num_cut:,} long texts only the beginning and the end" if self.num_cut else ""
        return text + ". All completions stand in the run folder, samples/step-*.jsonl."


def pick(run: RunData, number: int, max_bytes: int) -> Picked:
    """The completions of a run that fit into `max_bytes` of JSON; `number` is the run's place on the page."""
    files = run.sample_files()
    steps = spread(list(files), MOST_STEPS)
    methods, lane_of = stages(run), {int(row["step"]): int(row.get("lane") or 0) for row in run.rows}
    picked = Picked(num_steps=len(steps), total_steps=len(files))
    queues = []
    for step in steps:
        rows: list[Row] = [
            check(COMPLETION, row, f"{files[step]}:{number}") for number, row in enumerate(read_objects(files[step]), 1)
        ]
        stage = lane_of.get(step, 0)
        worth, parts = advantages(methods[stage] if stage < len(methods) else None, rows)
        groups = grouped(rows, worth)
        picked.trained[step] = trained_tokens(rows)
        picked.read_groups += len(groups)
        queues.append([(step, parts, group) for group in varied(groups)[:MOST_GROUPS]])
    size = 0
    for turn in range(MOST_GROUPS):  # every step gives its first, then every step its second, ...
        for step, parts, group in [queue[turn] for queue in queues if turn < len(queue)]:
            made, num_cut = as_json(group, step, number, parts)
            size += num_bytes(made)
            if size > max_bytes:
                return _sorted(picked)
            picked.groups.append(made)
            picked.num_cut += num_cut
    return _sorted(picked)


def num_bytes(made: Mapping[str, Any]) -> int:
    """What a group takes on the page, where each of three characters is written as six."""
    text = json.dumps(made, ensure_ascii=False)
    return len(text.encode()) + 5 * sum(map(text.count, "<>&"))


def _sorted(picked: Picked) -> Picked:
    picked.groups.sort(key=lambda group: group["step"])
    return picked


def trained_tokens(rows: Sequence[Row]) -> dict[str, int]:
    """How many tokens of a step's completions trained, by whose they are and whether they are right."""
    found = dict.fromkeys(ORIGINS, 0)
    for row in rows:
        if row.get("kept"):
            own = row["kind"] in ("rollout", "hinted")
            found[("own, right" if row["correct"] else "own, wrong") if own else "shown"] += len(row["ids"])
    return found


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of the steps, the first and the last among them, at even distances."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


Worthy = tuple[Row, float | None]


def grouped(rows: Sequence[Row], worth: Sequence[float | None]) -> list[list[Worthy]]:
    """The rows of a step by problem, each with its advantage."""
    found: dict[str, list[Worthy]] = {}
    for row, value in zip(rows, worth, strict=True):
        found.setdefault(str(row["problem"]), []).append((row, value))
    return list(found.values())


def varied(groups: Sequence[list[Worthy]]) -> list[list[Worthy]]:
    """The groups in turns of solved in part, never, always: so the first few are of different kinds."""
    kinds: dict[str, list[list[Worthy]]] = {"some": [], "none": [], "all": []}
    for group in groups:
        right = [bool(row["correct"]) for row, _ in group if row["kind"] in ("rollout", "hinted")]
        kinds["all" if right and all(right) else "some" if any(right) else "none"].append(group)
    turns = max(map(len, kinds.values()), default=0)
    return [members[turn] for turn in range(turns) for members in kinds.values() if turn < len(members)]


def as_json(group: Sequence[Worthy], step: int, run: int, parts: str) -> tuple[dict[str, Any], int]:
    """A group for the page, every text of it made harmless, and how many of them were shortened."""
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
        }
        for (row, value), (text, _) in zip(group, texts, strict=True)
    ]
    prompt, prompt_cut = shortened(flat(prompt_text(first.get("prompt"))))
    made = {"run": run, "step": step, "problem": flat(first["problem"]), "prompt": prompt, "parts": parts}
    answer = first.get("answer")
    made |= {"answer": None if answer is None else shortened(flat(answer))[0], "samples": samples}
    return made, sum(was_cut for _, was_cut in texts) + prompt_cut


def prompt_text(prompt: Any) -> str:
    """A prompt as text; of chat messages each with its role."""
    if isinstance(prompt, list):
        return "\n".join(f"[{each.get('role', '')}] {each.get('content', '')}" for each in prompt)
    return "" if prompt is None else str(prompt)


def shortened(text: str) -> tuple[str, bool]:
    """A text of bearable length, and whether its middle was left out."""
    if len(text) <= MOST_CHARACTERS:
        return text, False
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}", True
