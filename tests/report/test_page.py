"""The page as a text: it loads nothing, holds no foreign markup, names everything, and says the run's numbers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report.folders import HOSTILE, LEVELS, summary, write_analyses, write_comparison, write_run

from obverse.config.commands import ReportConfig
from obverse.report.page import island_of
from obverse.report.write import report
from obverse.runtime.run_dir import RunFolder

VOID = {"meta", "link", "input", "br", "img", "path", "circle", "rect"}


class Parsed(HTMLParser):
    """Every element with its attributes, the texts of some, and whether the tags are nested as they should be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # (tag, text)
        self.open: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def inside(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    run = write_run(root / "run")
    write_analyses(run / "analysis")
    hostile = write_run(root / "hostile", text=HOSTILE, dataset=HOSTILE.replace("\ud800", ""))
    return {"run": run, "hostile": hostile, "comparison": write_comparison(root / "comparison")}


@pytest.fixture(scope="module")
def pages(folders: dict[str, Path]) -> dict[str, Parsed]:
    return {name: Parsed(report(ReportConfig(run=folder))[0]) for name, folder in folders.items()}


def cells(page: Parsed) -> list[list[str]]:
    """The rows of all tables as texts."""
    rows = re.findall(r"<tr>(.*?)</tr>", page.text, flags=re.DOTALL)
    return [[re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


@pytest.mark.parametrize("name", ["run", "hostile", "comparison"])
def test_it_loads_nothing_and_lets_only_its_own_script_act(pages: dict[str, Parsed], name: str) -> None:
    page = pages[name]
    assert not page.open, "every tag is closed"
    assert "http://" not in page.text and "https://" not in page.text
    assert not [attrs for attrs in page.of("script") if "src" in attrs] and not page.of("img") and not page.of("iframe")
    assert [attrs["href"] for attrs in page.of("link")] == ["data:,"]
    for _, attrs in page.elements:
        assert "style" not in attrs and not [key for key in attrs if key.startswith("on")]
        target = str(attrs.get("href") or "")
        assert not re.match(r"[a-z]+:|//", target) or target == "data:,"
    policy = next(str(attrs["content"]) for attrs in page.of("meta") if attrs.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    style, script = page.inside("style"), page.inside("script")
    assert len(style) == 1 and len(script) == 2, "the style, the data and our own script"
    for rule, text in (("style-src", style[0]), ("script-src", script[1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


@pytest.mark.parametrize("name", ["run", "hostile", "comparison"])
def test_everything_has_a_name(pages: dict[str, Parsed], name: str) -> None:
    page = pages[name]
    ids = [str(attrs["id"]) for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        for key in ("aria-labelledby", "aria-describedby"):
            assert attrs.get(key) is None or set(str(attrs[key]).split()) <= set(ids)
    anchors = [str(attrs["href"])[1:] for attrs in page.of("a") if str(attrs["href"]).startswith("#")]
    assert len(anchors) > 4 and set(anchors) <= set(ids)
    assert page.of("html")[0]["lang"] == "en" and len(page.of("main")) == len(page.of("h1")) == len(page.of("nav")) == 1
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in page.of("svg"))
    assert len(page.of("svg")) <= len(page.of("table")), "a table beside every picture"
    assert all(attrs.get("scope") for attrs in page.of("th"))
    in_labels = "".join(re.findall(r"<label.*?</label>", page.text, flags=re.DOTALL))
    assert in_labels.count("<input") == len(page.of("input")) and in_labels.count("<select") == len(page.of("select"))


def test_hostile_text_is_text(pages: dict[str, Parsed]) -> None:
    page = pages["hostile"]
    assert len(page.of("script")) == 2
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page.text)
    groups = json.loads(page.inside("script")[0])["groups"]
    texts = {sample["text"] for group in groups for sample in group["samples"] if sample["kind"] == "rollout"}
    assert texts == {HOSTILE.replace("\x1b", r"\x1b").replace("\x00", r"\x00").replace("\u202e", r"\x202e")
                     .replace("\ud800", r"\xd800").replace("\u2028", r"\x2028")}  # fmt: skip
    assert any("{{ 7*7 }}" in text for text in page.inside("p")), "in the subtitle, where the data's name stands"


def test_no_text_ends_the_island() -> None:
    text = str(island_of({"a": "</script><!--<script>&\u2028\u2029"}))
    assert not set(text) & set("<>&\u2028\u2029") and json.loads(text) == {"a": "</script><!--<script>&\u2028\u2029"}


def test_the_numbers_are_the_runs_own(pages: dict[str, Parsed], folders: dict[str, Path]) -> None:
    rows, metrics = cells(pages["run"]), RunFolder(folders["run"]).metrics()
    first, last = metrics[0], metrics[-1]  # a tenth of 12 steps is one
    assert ["correct rollouts", f"{first['accuracy']:.1%}", f"{last['accuracy']:.1%}"] in rows
    assert ["reward", f"{first['reward']:.4g}", f"{last['reward']:.4g}"] in rows
    assert ["tokens, generated plus trained", "12k"] in rows and ["steps", "12"] in rows
    assert ["seconds of sampling, grading and training", f"{12 * 0.6:.4g}"] in rows
    flops = 12 * 250 * (6 * 400 + 2 * 600)
    assert ["FLOPs, estimated", f"{flops / 1e6:.4g}M"] in rows
    for row in metrics:  # the table beside the curve
        assert [str(row["step"]), f"{row['reward']:.4g}", f"{row['reward_std']:.4g}"] in rows
    held_out = [summary(step / 20, 1) for step in (0, 12)]
    for level in LEVELS:
        means = [f"{scores[level]['avg@8']:.1%}" for scores in held_out]
        ends = ["({:.1%} to {:.1%})".format(*scores[level]["interval"]) for scores in held_out]
        assert [level, "10", *(f"{value} {end}" for value, end in zip(means, ends, strict=True))] in rows


def test_analyses_have_their_pictures(pages: dict[str, Parsed]) -> None:
    page = pages["run"]
    ids = {str(attrs["id"]) for attrs in page.of("figure")}
    wanted = {"error", "norms", "mass-source", "shift-demonstration", "entropy-demonstration", "coverage"}
    assert {f"figure-{name}" for name in wanted} <= ids
    rows = cells(page)
    assert (
        ["hpt", "4", "1", "2", "1 of 9"] in rows
        and ["hpt", "1", "0.25"] in rows
        and ["grpo", "-", "1"] in rows
        and ["grpo", "0.5 / 3", "0.5 / 3"] in rows
    )
    shades = re.findall(r'<span class="((?:up|down|even)\d)" title="[^"]*">(.*?)</span>', page.text)
    assert shades[:3] == [("up3", "7"), ("down6", "&lt;b&gt;"), ("even0", "=12")]
    assert [shade for shade, _ in shades[3:]] == ["down3", "up6", "even0"]


def test_a_comparison_never_mixes_last_and_best(pages: dict[str, Parsed]) -> None:
    page = pages["comparison"]
    matches = re.findall(r"<h3>(At the [^<]*)</h3>.*?<tbody>(.*?)</tbody>", page.text, flags=re.DOTALL)
    tables = {title.split()[2].rstrip(":"): body for title, body in matches}
    assert list(tables) == ["last", "best"]
    for step, mean in (("last", "41.0%"), ("best", "51.0%")):
        body = tables[step]
        links = re.findall(r'href="([^"]*/figures/[^"]*)"', body)
        assert len(links) == 6 and all(f"/{step}/" in link for link in links)
        assert (
            body.count(f">{mean}</a>") == 6
            and body.count("35.0% to 45.0%") == 6
            and body.count("not distinguishable") == 2
        )
        assert 'href="runs/hpt-gate-1/seed-1"' in body
    assert {"runs/grpo/seed-2", "runs/hpt-gate-1/seed-2"} <= {str(attrs["href"]) for attrs in page.of("a")}
    assert "rate-0.1" not in page.text, "the search for a rate is no result"
    seeds = [row for row in cells(page) if row[:2] == ["grpo", "1, 2"]]
    assert seeds[0][2:4] == ["54.2% (54.1% to 54.2%)", "13.5% (13.0% to 14.0%)"]


@pytest.mark.slow
def test_the_page_has_a_bounded_size(tmp_path: Path) -> None:
    """A run of 300 steps with 16 MB of long completions; what is left out is said."""
    folder = write_run(tmp_path / "long", num_steps=300, num_problems=4, text="7+5=12; " * 400, evals=range(0, 301, 20))
    path = report(ReportConfig(run=folder))[0]
    assert 1_000_000 < path.stat().st_size < 5_000_000
    counts = re.search(
        r"([\d,]+) of the ([\d,]+) problems of 60 steps, spread evenly over the 300 steps", path.read_text()
    )
    assert counts is not None
    groups = json.loads(Parsed(path).inside("script")[0])["groups"]
    assert len(groups) == int(counts[1]) < int(counts[2]) == 240
    assert {groups[0]["step"], groups[-1]["step"]} == {1, 300}
