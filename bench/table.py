"""The results as a Markdown table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HEAD = "| case | program | step s | sample s | train s | tokens/s | peak MB | ratio: time | tokens/s | memory |"
REACH = {
    "A": "step >= 3",
    "B": "step >= 2.5, memory >= 4",
    "C": "tokens/s >= 1.3 (fast), memory >= 8 (default)",
    "C-lean": "tokens/s >= 1.3 (fast), memory >= 2 (lean)",
    "D": "tokens/s >= 4",
}


def write_table(folder: Path) -> str:
    """Write `table.md` from every result of the folder; returns its text."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    cases = [result for result in results if "sides" in result]
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    lines += [line for result in cases for line in rows(result)]
    equal = [f"{result['case']['name']} {result['check']['apart']:.1e}" for result in cases if result.get("check")]
    if equal:
        lines += ["", f"Largest difference of the programs' gradients of one batch, relative: {', '.join(equal)}."]
    text = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    return text


def rows(result: dict[str, Any]) -> list[str]:
    """A line per program; the ratios are the program's over obverse's (of tokens/s the other way round)."""
    lines = []
    name = result["case"]["name"]
    for side, figures in result["sides"].items():
        seconds, ratio = figures["seconds"], result["ratios"].get(side)
        cells = [f"{seconds[phase]:.3g}" if phase in seconds else "" for phase in ("step", "sample", "train")]
        cells += [f"{figures['tokens_per_second']:,.0f}", f"{figures['peak'] / 2**20:,.0f}"]
        if ratio:
            cells += [f"{ratio['step']:.2f}", f"{ratio['tokens_per_second']:.2f}", f"{ratio['memory']:.2f}"]
        else:
            cells += ["", REACH.get(name, ""), ""] if side == "obverse" else [""] * 3
        lines.append(f"| {name} | {side} | " + " | ".join(cells) + " |")
        if side == "obverse" and name == "E":
            lines.append(per_thousand(figures))
    return lines


def per_thousand(figures: dict[str, Any]) -> str:
    """The figures of case E, which has no peer."""
    sampled = 1000 * figures["seconds"]["sample"] / figures["generated"]
    trained = 1000 * figures["seconds"]["train"] / figures["trained"]
    return f"| E | | | {sampled:.3f} per 1,000 generated | {trained:.3f} per 1,000 trained | | | | | |"
