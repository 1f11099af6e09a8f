"""Write the pictures of the site: python -m recipes.site.pictures (a few minutes on one core).

A short run by HPT and a small comparison are trained in a folder of their own; docs/pictures gets every figure of both
reports and the drawing of the estimator as SVG, and, where Chromium is installed, screenshots of the reports as PNG.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import obverse
from obverse.config.commands import ReportConfig
from obverse.report.compose import page_of
from obverse.report.figures import Figure, spoken
from obverse.report.load_runs import find_runs
from obverse.report.svg_chart import LIGHT, WIDTH, height_of, standalone
from obverse.report.write import report
from recipes.site.estimator_picture import estimator_picture

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
STEPS = 30
RUN = {
    "dataset": "arithmetic:1-6",
    "max_steps": STEPS,
    "eval_dataset": "arithmetic:1-6",
    "eval_steps": 10,
    "save_steps": 1,
}
COMPARISON = {
    "dataset": "arithmetic:1-4",
    "budget": "60K",
    "seeds": 2,
    "num_test_problems": 40,
    "num_generations_test": 8,
    "k": (1, 8),
    "num_marks": 2,
    "learning_rates": (3e-4,),
}
SCREENS = {  # (color scheme, width, height) of each screenshot
    "report-light": ("light", 1000, 900),
    "report-dark": ("dark", 1000, 900),
    "report-phone-dark": ("dark", 390, 844),
}
ANALYSES = {  # the words of `obverse analyze`; RUN is the run's folder
    "coefficients": "RUN --methods sft,grpo,hpt --num_problems 4",
    "coverage": "embedded --against RUN --dataset arithmetic:4-6 --num_problems 16 --num_generations 64",
    "gradients": "RUN --methods sft,grpo,hpt --num_problems 4",
    "shift": "RUN --num_problems 32",
    "variance": "--methods sft,grpo,hpt",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder of the runs; runs that it has are not repeated")
    parser.add_argument("--output", type=Path, default=PICTURES)
    parsed = parser.parse_args()
    work = parsed.work or Path(tempfile.mkdtemp(prefix="obverse-pictures-"))
    output = parsed.output.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)  # the pages name folders as they are given: without those of this machine
    run, comparison = Path("hpt-arithmetic-1-6"), Path("comparison")
    if not (run / "report.html").is_file():
        obverse.train("hpt", output_dir=run, **RUN)
    for question, words in ANALYSES.items():
        if not (run / "analysis" / f"{question}.json").is_file():
            command = ["analyze", question, *words.replace("RUN", str(run)).split(), "--output", str(run / "analysis")]
            subprocess.run([sys.executable, "-m", "obverse", *command], check=True, stdout=subprocess.DEVNULL)
    if not (comparison / "report.html").is_file():
        obverse.compare(["sft", "grpo", "hpt"], output_dir=comparison, **COMPARISON)
    output.mkdir(parents=True, exist_ok=True)
    figures = {"run": write_figures(run, output, "run"), "comparison": write_figures(comparison, output, "comparison")}
    (output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_screenshots(report(ReportConfig(run=run))[0], output)
    (output / "estimator.svg").write_text(estimator_picture(run, STEPS), encoding="utf-8")
    return 0


def write_figures(folder: Path, output: Path, prefix: str) -> list[dict[str, str]]:
    """Write every figure of a report as `PREFIX-NAME.svg`; returns the file, title and meaning of each."""
    for path in output.glob(f"{prefix}-*.svg"):
        path.unlink()
    page = page_of(ReportConfig(run=folder), find_runs(folder), folder / "report.html")
    rows = []
    for figure in [*page.curves, *(figure for section in page.sections for figure in section.figures)]:
        name = f"{prefix}-{figure.key}.svg"
        (output / name).write_text(svg_of(figure, page.axis), encoding="utf-8")
        rows.append({"file": name, "title": figure.title, "meaning": figure.meaning})
    return rows


def write_screenshots(page: Path, output: Path) -> None:
    """Write screenshots of a report as PNG, light and dark, for a desktop and a phone; none without Chromium."""
    sys.path.insert(0, str(ROOT / "tests"))
    from report.browser import MISSING, browser

    if MISSING:
        print(f"no screenshots: {', '.join(MISSING)} is missing", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as window:
        for name, (scheme, width, height) in SCREENS.items():
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            settings = {"EmulatedMedia": media, "DeviceMetricsOverride": size, "ScrollbarsHidden": {"hidden": True}}
            for command, params in settings.items():
                window.call("POST", "goog/cdp/execute", {"cmd": f"Emulation.set{command}", "params": params})
            window.open(page.resolve())
            (output / f"{name}.png").write_bytes(base64.b64decode(window.call("GET", "screenshot")))


def svg_of(figure: Figure, axis: str) -> str:
    chart = figure.chart(axis)
    ground = f'<rect class="ground" width="{WIDTH}" height="{height_of(chart)}" fill="{LIGHT["ground"]}"/>'
    return standalone(chart, spoken(figure, chart)).replace("</style>", f"</style>{ground}", 1)


if __name__ == "__main__":
    raise SystemExit(main())
