"""The site's sources: links and resources of written pages are checked, pages have an order, tables come from data."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from house.source import ROOT

from obverse.cli.commands import COMMANDS
from recipes.site import assemble, choice, links, navigation, reference

START = ROOT / "docs" / "start"
GOOD = '<link rel="stylesheet" href="a.css"><p id="top"><a href="#top">x</a><img src="a.svg">'
LABEL = re.compile(r"^Next: \[[^]]+\]\(([a-z-]+\.md)\)$", re.MULTILINE)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name in ("a.css", "a.svg"):
        (tmp_path / name).write_text("")
    (tmp_path / "index.html").write_text(GOOD)
    return tmp_path


def test_a_complete_page_has_no_problems(site: Path) -> None:
    assert links.check(site) == []


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="missing.html">x</a>', "missing.html: no such page"),
        ('<a href="index.html#nowhere">x</a>', "index.html#nowhere: no such anchor"),
        ('<a href="/missing.html">x</a>', "/missing.html: no such page"),
        ('<img src="b.svg">', "b.svg: no such file"),
        ('<script src="https://cdn.example.org/x.js"></script>', "loads https://cdn.example.org/x.js"),
        ('<script src="//cdn.example.org/x.js"></script>', "loads //cdn.example.org/x.js"),
        ('<link rel="preconnect" href="https://fonts.example.org">', "loads https://fonts.example.org"),
        ('<pre class="mermaid">graph</pre>', "loads a library for class mermaid"),
        ('<a href="https://nowhere">x</a>', "https://nowhere: no host"),
        ('<a href="javascript:void(0)">x</a>', "javascript:void(0): expects http or https"),
    ],
)
def test_problems_of_a_page(site: Path, html: str, problem: str) -> None:
    (site / "page.html").write_text(html)
    assert links.check(site) == [f"page.html: {problem}"]


def test_a_style_that_loads_a_font(site: Path) -> None:
    (site / "a.css").write_text("body{background:url(a.svg)} @font-face{src:url('https://fonts.example.org/a.woff2')}")
    assert links.check(site) == ["a.css: loads https://fonts.example.org/a.woff2"]


def test_pages_of_the_start_are_read_in_the_order_of_the_navigation() -> None:
    values = navigation.yaml.safe_load(navigation.CONFIGURATION.read_text(encoding="utf-8"))
    order = next(dict(item)["Start"] for item in values["nav"] if "Start" in item)
    assert {f"start/{path.name}" for path in START.glob("*.md")} == set(order) and len(order) == 10
    for path, following in pairwise(order):
        text = (ROOT / "docs" / path).read_text(encoding="utf-8")
        assert LABEL.findall(text) == [following.removeprefix("start/")], path
        assert re.search(r"^## If it (?:fails|does not learn)$", text, re.MULTILINE), path


def test_the_navigation_has_every_page_once() -> None:
    pages = dict.fromkeys(
        [
            *navigation.paths(navigation.yaml.safe_load(navigation.CONFIGURATION.read_text(encoding="utf-8"))["nav"]),
            "methods/README.md",
            "methods/hpt.md",
            "reference/README.md",
            "new.md",
            "repository/bench/LOG.md",
        ],
        "",
    )
    pages = {path: title for path, title in pages.items() if path.endswith(".md")}
    listed = list(navigation.paths(navigation.configuration(pages)["nav"]))
    assert sorted(listed) == sorted(pages) and len(listed) == len({*listed})


def test_an_entry_without_a_page_ends_the_build() -> None:
    with pytest.raises(SystemExit, match="no such pages"):
        navigation.configuration({"index.md": "Home"})


def test_sections_are_included_with_their_links() -> None:
    link = assemble.LINK.match("![Chart](docs/demo.png)")
    assert link and assemble.moved(link, "README.md", "docs/index.md") == "![Chart](demo.png)"
    assert assemble.section("# a\n\n## b\n\ntext\n\n## c\n", "b", "page") == "text"
    with pytest.raises(SystemExit, match="no section"):
        assemble.section("# a\n", "b", "page")


def test_the_home_page_includes_a_section_that_exists() -> None:
    for path, heading in assemble.INCLUDE.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8")):
        assert assemble.section((ROOT / path).read_text(encoding="utf-8"), heading, "docs/index.md")


def test_results_come_from_the_committed_table() -> None:
    page = ROOT / choice.RESULTS
    rows = choice.results(page).splitlines()[2:]
    text = page.read_text(encoding="utf-8")
    cells = [cell.strip() for row in rows for cell in row.strip("|").split("|")[1:]]
    assert len(rows) > 10 and len(cells) == len(rows) * len(choice.COLUMNS)
    assert all(re.fullmatch(r"\d+\.\d \(\d+\.\d to \d+\.\d\)", cell) and f"| {cell}" in text for cell in cells)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_a_command_has_its_options(name: str) -> None:
    page = reference.command_page(name)
    assert COMMANDS[name].usage in page
    assert "| option |" in page or reference.OF_METHOD in page or f"usage: obverse {name}" in page or name == "doctor"


def test_the_options_that_matter_come_first() -> None:
    groups = reference.command_page("train").split("\n## ")
    first = {group.partition("\n")[0]: re.findall(r"^\| `--(\w+)", group, re.MULTILINE)[0] for group in groups[1:]}
    assert first["Model"] == "model" and first["Optimization"] == "learning_rate" and first["Data"] == "dataset"


def test_every_figure_of_a_step_is_documented() -> None:
    """The names with a slash, which are written as literals in the code of training and measuring."""
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "obverse" / "training").rglob("*.py"))
    names = {*re.findall(r'"((?:completions|problems|rewards|tokens|critic|memory|teacher)/\w+)"', code)}
    assert len(names) > 10 and not [name for name in sorted(names) if f"`{name}`" not in page]


def test_what_the_site_fills_in_has_a_link_in_the_repository() -> None:
    """A repository host shows no generated block, so between its marks is a link to what exists there."""
    for path in (ROOT / "docs" / "index.md", START / "method.md"):
        text = path.read_text(encoding="utf-8")
        marks = [*assemble.BLOCK.finditer(text), *assemble.INCLUDE.finditer(text)]
        assert len(marks) == text.count("<!-- end -->") == len(re.findall(r"^<!-- (?!end)", text, re.MULTILINE))
        for mark in marks:
            targets = [link[2].partition("#")[0] for link in re.finditer(r"(\]\()([^)]+)\)", mark[0])]
            assert targets and all((path.parent / target).is_file() for target in targets), path


def test_notebooks_are_read_in_their_order_and_have_no_formulas_in_latex() -> None:
    """Pages without a network have no library that draws formulas."""
    values = navigation.yaml.safe_load(navigation.CONFIGURATION.read_text(encoding="utf-8"))
    listed = next(dict(item)["Notebooks"] for item in values["nav"] if "Notebooks" in item)
    names = re.findall(
        r"^\| \[(\w+\.ipynb)\]", (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [f"repository/examples/{name}.md" for name in names] == listed[1:-1]
    assert {path.name for path in (ROOT / "examples").glob("*.ipynb")} == {*names}
    for name in names:
        cells = json.loads((ROOT / "examples" / name).read_text(encoding="utf-8"))["cells"]
        assert not [cell for cell in cells if cell["cell_type"] == "markdown" and "$" in "".join(cell["source"])], name


def test_every_figure_has_its_file() -> None:
    pictures = ROOT / "docs" / "pictures"
    figures = json.loads((pictures / "figures.json").read_text(encoding="utf-8"))
    names = [row["file"] for rows in figures.values() for row in rows]
    assert {path.name for path in pictures.glob("*-*.svg")} == set(names) and len(names) > 30
    assert not [name for name in names if "/tmp" in (pictures / name).read_text(encoding="utf-8")]


def test_texts_of_the_code_are_shown_as_they_are() -> None:
    assert reference.sentence("read <|x|> as a_b, `a_b|c` [1]") == r"read &lt;|x|&gt; as a\_b, `a_b|c` \[1\]"
    assert reference.table(("a", "b"), [("x|y", "`x|y`")]).splitlines()[2] == r"| x\|y | `x|y` |"
