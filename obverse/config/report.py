"""The options of `obverse report`. No torch here."""

from __future__ import annotations

from typing import Literal

from obverse.config.fields import Folder, Listed, Options, option


class ReportConfig(Options):
    """What `obverse report` makes a page of, and how."""

    run: Folder = option("data", "a run folder, or a folder with runs below it: a comparison, a demo")
    output: Folder | None = option("output", "the page; none: report.html in that folder", None)
    axis: Literal["steps", "tokens", "seconds", "flops"] = option(
        "output", "horizontal axis that the page opens with and pictures have", "steps"
    )
    megabytes: float = option("output", "completions to embed, in megabytes at most", 2.5, ge=0)
    figures: Folder | None = option("output", "folder for every figure as a picture; none: no pictures", None)
    format: Listed[Literal["svg", "png"]] = option("output", "of those pictures: svg, png or svg,png", ("svg",))
