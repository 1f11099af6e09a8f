"""The page in a real browser: it clicks, filters, is driven by keys, and the console stays silent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from report.browser import MISSING, Browser, browser, eventually
from report.folders import HOSTILE, write_analyses, write_comparison, write_run
from report.test_teacher import TOKENIZER, scored_run
from tokenizers import Tokenizer

from obverse.config.commands import ReportConfig
from obverse.report.write import report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no browser: {', '.join(MISSING)} not installed"),
]


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with hostile texts and every analysis, and a comparison."""
    root = tmp_path_factory.mktemp("pages")
    run = write_run(root / "run", text=HOSTILE)
    write_analyses(run / "analysis")
    folders = {"run": run, "comparison": write_comparison(root / "comparison")}
    return {name: report(ReportConfig(run=folder))[0] for name, folder in folders.items()}


def num_found(window: Browser) -> int:
    return int(window.text("#count").split()[0].replace(",", ""))


def test_nothing_is_refused_and_nothing_is_loaded(window: Browser, pages: dict[str, Path]) -> None:
    for page in pages.values():
        window.open(page)
        assert window.complaints() == []
        assert window.run("return document.images.length") == 0
        assert window.run("return performance.getEntriesByType('resource').length") == 0


def test_foreign_scripts_are_refused_and_reported(window: Browser, pages: dict[str, Path]) -> None:
    """A foreign script, an event handler and a foreign picture are refused."""
    window.open(pages["run"])
    window.run(
        "const s = document.createElement('script'); s.textContent = 'window.evil = 1'; document.body.append(s);"
        "const i = document.createElement('img'); i.src = 'file:///x.png'; document.body.append(i);"
        "document.body.insertAdjacentHTML('beforeend', '<b onclick=\"window.evil = 1\">x</b>');"
        "document.body.lastChild.click();"
    )
    assert window.run("return window.evil === undefined")
    assert len([line for line in window.complaints() if "Content Security Policy" in line]) >= 2


def test_filters(window: Browser, pages: dict[str, Path]) -> None:
    window.open(pages["run"])
    total = 12 * 3 * 5
    assert num_found(window) == total

    def expect(wanted: int) -> None:
        eventually(lambda: num_found(window), wanted)

    window.click('#filters [name=step] option[value="7"]')
    expect(15)
    window.click('#filters [name=grade] option[value="wrong"]')
    expect(sum(4 - (7 + problem) % 5 for problem in range(3)))
    window.type("#filters [name=text]", "problem-1")
    expect(4 - (7 + 1) % 5)
    assert "step 7, problem problem-1" in window.text("#group h3")
    window.click("#filters [type=reset]")
    expect(total)
    window.click("#filters [name=cut]")
    expect(12 * 3)
    window.click("#filters [name=cut]")
    window.type("#filters [name=low]", "1")
    window.click('#filters [name=kind] option[value="rollout"]')
    expect(sum((step + problem) % 5 for step in range(1, 13) for problem in range(3)))
    window.type("#filters [name=text]", "there is no such text")
    expect(0)
    assert "No completion fits" in window.text("#group")
    assert window.complaints() == []


def test_the_group_has_its_advantages_and_its_demonstration(window: Browser, pages: dict[str, Path]) -> None:
    window.open(pages["run"])
    window.click('#filters [name=step] option[value="2"]')
    window.type("#filters [name=text]", "problem-0")  # 2 of 4 are correct
    eventually(lambda: num_found(window), 5)
    cards = window.run("return [...document.querySelectorAll('#group article h4')].map((head) => head.textContent)")
    assert len(cards) == 5 and cards[0].startswith("demonstration") and "not trained" in cards[0]
    assert ["advantage +0.5" in card for card in cards[1:]] == [True, True, False, False]
    assert ["advantage -0.5" in card for card in cards[1:]] == [False, False, True, True]
    assert "Expected answer: 12" in window.text("#group") and "centered (rollout)" in window.text("#group")
    text = window.run("return document.querySelectorAll('#group article')[1].querySelector('pre').textContent")
    assert text == r"""</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}""" + (
        r"\x1b[31mred\x00\x202eevil\xd800 & \x2028 end"
    )


def test_keys(window: Browser, pages: dict[str, Path]) -> None:
    window.open(pages["run"])
    window.run("document.getElementById('list').focus()")

    def chosen() -> int:
        return int(window.run("return +document.querySelector('[aria-selected=true]').id.slice(5)"))

    assert chosen() == 0
    window.press("down", "down", "j", "k")
    assert chosen() == 2
    window.press("end")
    assert chosen() == 179 and window.text("#page") == "101 to 180"
    assert window.run("return document.getElementById('list').getAttribute('aria-activedescendant')") == "item-179"
    window.press("home", "enter")
    assert chosen() == 0 and window.run("return document.activeElement.id") == "group"
    window.press("/")
    assert window.run("return document.activeElement.name") == "text"
    window.press("p", "k")
    assert window.run("return document.activeElement.value") == "pk", (
        "keys in a text field do not move through the list"
    )
    window.click("#filters [type=reset]")
    eventually(lambda: num_found(window), 180)
    window.run("document.querySelector('nav a').focus()")
    window.press("j")
    assert chosen() == 0, "letters outside of the browser of completions do nothing"


def test_axes_and_theme(window: Browser, pages: dict[str, Path]) -> None:
    window.open(pages["comparison"])
    views = "[...document.querySelectorAll('#figure-accuracy > div')]"
    seen = f"return {views}.filter((view) => view.offsetHeight).map((view) => view.className)"
    assert window.run(seen) == ["for-steps"]
    window.click("#axis-flops")
    assert window.run(seen) == ["for-flops"]
    ground = "return getComputedStyle(document.body).backgroundColor"
    first = window.run(ground)
    window.click("#theme")
    second = window.run(ground)
    assert {first, second} == {"rgb(255, 255, 255)", "rgb(22, 25, 29)"}
    window.open(pages["comparison"])
    assert window.run(ground) == second, "the choice is remembered"
    window.click("#theme")
    assert window.complaints() == []


def test_numbers_under_the_pointer(window: Browser, pages: dict[str, Path]) -> None:
    window.open(pages["run"])
    window.run(
        "const svg = document.querySelector('#figure-accuracy .for-steps svg');"
        "const box = svg.getBoundingClientRect();"
        "svg.dispatchEvent(new PointerEvent('pointermove', {clientX: box.right - 12, clientY: box.top + 60}));"
    )
    assert window.run("return document.getElementById('readout').hidden") is False
    assert "at 12" in window.text("#readout") and "13.0%" in window.text("#readout")


def test_it_fits_a_phone(window: Browser, pages: dict[str, Path]) -> None:
    """Only elements that scroll are wider than the screen."""
    size = window.call("GET", "window/rect")
    try:
        for page in pages.values():
            window.call("POST", "window/rect", {"width": 390, "height": 800})
            window.open(page)
            assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    finally:
        window.call("POST", "window/rect", {"width": size["width"], "height": size["height"]})


def test_without_a_script_the_figures_stay(window: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    text = pages["run"].read_text(encoding="utf-8")
    start = text.rindex("<script>")
    bare = tmp_path / "bare.html"
    bare.write_text(text[:start] + text[text.rindex("</script>") + len("</script>") :], encoding="utf-8")
    window.open(bare)
    assert window.run("return document.querySelector('#figure-accuracy svg').getBoundingClientRect().height") > 100
    window.click("#axis-tokens")
    assert window.run("return document.querySelector('#figure-accuracy .for-tokens').offsetHeight") > 100


def test_tokens_are_shaded_by_the_teacher_with_a_legend(window: Browser, tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run", Tokenizer.from_file(str(TOKENIZER)), num_steps=2)
    window.open(report(ReportConfig(run=folder))[0])
    names = window.run(
        "return [...document.querySelectorAll('#group article.chosen ~ article pre span')].slice(0, 11)"
        ".map((token) => [token.textContent, token.className, token.title])"
    )
    assert names[0] == ["7", "", "0 nats"] and names[3] == ["=", "down1 unlikelier", "-0.3 nats"]
    assert names[10][1] == "down4 unlikelier" and window.run("return document.querySelectorAll('.legend').length") == 1
    lines = window.run(
        "return ['.likelier', '.unlikelier'].map((name) => getComputedStyle(document.querySelector(name)))"
        ".map((style) => style.textDecorationStyle)"
    )
    assert lines == ["solid", "dotted"]  # of the legend: what the color shows is also a line
    assert window.complaints() == []
