"""The documentation site is built without a warning, a broken link or an address that a browser would load."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from report.browser import MISSING, browser, eventually

from recipes.site.__main__ import build

pytestmark = pytest.mark.slow

SEARCH = """
const roots = [...document.querySelectorAll("*")].flatMap((element) => element.shadowRoot ?? []);
const box = roots.find((root) => root.querySelector("input"));
return [box?.querySelector("input").value, box?.querySelector("a[href*='.html']")?.href.match(/[^/]*[.]html/)[0]]
"""
FIRST_HITS = {"out of memory": "memory.html", "multi gpu": "distributed.html", "grpo": "grpo.html"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical", reason="it is in the extra docs, which make test-all installs")
    folder = tmp_path_factory.mktemp("site")
    assert build(folder / "site", folder / "build") == []
    return folder / "site"


def test_pages(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert len(pages) > 90
    assert {"index.html", "start/install.html", "start/write.html", "methods/hpt.html", "reference/train.html"} <= pages


def test_every_page_can_be_found(site: Path) -> None:
    index = json.loads((site / "search.js").read_text(encoding="utf-8").partition("=")[2].rstrip(";\n "))
    places = {item["location"].partition("#")[0] for item in index["items"]}
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    assert {"" if page == "index.html" else page for page in pages} <= places | {""}


def test_the_reference_is_that_of_the_code(site: Path) -> None:
    def page(name: str) -> str:
        return (site / "reference" / f"{name}.html").read_text(encoding="utf-8")

    assert "--max_completion_length" in page("train") and "--regrade" not in page("train")
    assert "ConfigError" in page("exit-codes") and "pass_at" in page("python")
    assert "<blockquote>" not in page("python") and "language-pycon" in page("python")  # examples are code
    assert "not the answer" not in page("verifiers") and "knights" in page("verifiers")


def test_drawings_follow_the_color_scheme(site: Path) -> None:
    assert re.search(r'<svg [^>]*class="diagram"', (site / "index.html").read_text(encoding="utf-8"))
    assert "mermaid" not in (site / "architecture.html").read_text(encoding="utf-8")
    assert '[data-md-color-scheme="slate"] .drawing' in (site / "pictures.css").read_text(encoding="utf-8")


@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
def test_pages_opened_as_files_load_nothing_else_and_are_searched(site: Path, tmp_path: Path) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    with browser(tmp_path / "profile") as window:
        window.call("POST", "goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": phone})
        for name in ("index", "start/method", "reference/train", "results"):
            window.open(site / f"{name}.html")
            sizes = window.run("return [document.documentElement.scrollWidth, window.innerWidth]")
            assert sizes[0] <= sizes[1], f"{name} scrolls sideways on a phone"
            addresses = window.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
            assert not [address for address in addresses if not address.startswith(site.as_uri())]
        window.click("[for=__search], .md-search__button")
        for words, page in FIRST_HITS.items():
            window.press(*words)
            eventually(lambda: window.run(SEARCH), [words, page])
            window.press(*["\ue003"] * len(words))  # backspace
        assert window.complaints() == []
