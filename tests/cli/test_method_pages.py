"""The pages of docs/methods are written from the values, complete, and as the values are now."""

from __future__ import annotations

from pathlib import Path

import pytest

from obverse.api.method_entries import FAMILIES, PROOFS
from obverse.cli.main import main
from obverse.cli.method_pages import INDEX, SHARED, escaped, pages, table
from obverse.cli.method_table import Entry, entries, entry
from obverse.estimator.method import Method
from obverse.estimator.schedule import as_schedule
from obverse.methods import COMPONENTS, names

FOLDER = Path(__file__).parents[2] / "docs" / "methods"
HEADINGS = ("Paper", "Equation", "Estimator", "Paper writes", "Code does", "We do", "Defaults", "Pitfalls", "Proven")


@pytest.fixture(scope="module")
def current() -> dict[str, str]:
    return pages(entries())


def test_the_committed_pages_are_current(current: dict[str, str]) -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    old = sorted(name for name in current if found.get(name) != current[name])
    assert not old, f"run 'make methods': {', '.join(old)} are not current"
    gone = sorted(found.keys() - current.keys())
    assert not gone, f"no method has these pages, remove them from docs/methods: {', '.join(gone)}"


def test_there_is_a_page_for_everything(current: dict[str, str]) -> None:
    assert set(current) == {INDEX, SHARED, *(f"{name}.md" for name in names())}
    assert all(f"]({name}.md)" in current[INDEX] for name in names())
    assert all(f"`--{name}`" in current[SHARED] for name in COMPONENTS)


def test_every_method_says_what_it_was_compared_with_and_what_it_costs() -> None:
    for row in entries():
        kind, compared = row.proof
        assert kind in PROOFS and compared, f"{row.name}: its docstring needs an entry Proven: one of {PROOFS}"
        assert row.family in FAMILIES and row.data and all(cost["backward"] >= 1 for cost in row.costs), row.name
    assert entry("sft").costs == [{"forward": 1, "backward": 1, "scored_by": []}]
    assert entry("grpo").cost == "24 / 8" and entry("grpo", {"beta": 0.0}).cost == "16 / 8"
    assert entry("hpt").cost == "16 / 8" and entry("sft_then_rl").cost == "1 / 1, then 16 / 8"
    assert entry("ppo", {"num_generations": 1}).cost == "4 / 2"  # its values before the update, and in it
    assert entry("gkd").costs[0]["scored_by"] == ["teacher's distributions"]
    assert entry("sft_then_rl").sources == ["2509.04419", "2506.19767", "2505.16984"]


@pytest.mark.parametrize("name", names())
def test_a_page_holds_docstring_parts_options_and_commands(name: str, current: dict[str, str]) -> None:
    each, text = entry(name), current[f"{name}.md"]
    places = [text.index(f"\n## {heading}\n") for heading in HEADINGS]
    assert places == sorted(places)
    words = " ".join(text.replace("\\", "").split())
    lines = [line for line in each.text.splitlines() if line.strip()]
    assert all(" ".join(line.split()[-3:]) in words for line in lines)  # nothing of the docstring is lost
    for method in each.methods:
        for part in [part for term in method.terms for part in term.parts]:
            assert f"`{part}`" in text
        assert f"`{method.ask}`" in text and f"`{method.keep}`" in text
    assert all(f"| `--{option}` |" in text for option in (*each.options, *each.schedule.run))
    teacher = " --teacher_model DIR" if name in ("gkd", "iw_opd", "opd") else ""
    assert f"\nobverse train {name}{teacher}\n" in text and f"\nobverse weigh {name} STEP.json\n" in text
    assert f"]({SHARED})" in text and f"]({INDEX})" in text


def test_every_lane_has_its_terms(current: dict[str, str]) -> None:
    text = current["sft_then_rl.md"]
    assert "## Terms, stage 0" in text and "## Terms, stage 1" in text and "`in_order(" in text
    assert "## Terms\n" in current["grpo.md"] and "stage 0" not in current["grpo.md"]


def test_formulas_keep_their_lines_and_prose_does_not() -> None:
    def mine() -> Method:
        """My way.

        Equation  a = b
                  c = d
        We do     This and
                  that.
        """
        return entry("sft").methods[0]

    text = pages([Entry("mine", mine, {}, {}, as_schedule(mine()))])["mine.md"]
    assert "\n```\na = b\nc = d\n```\n" in text and "\nThis and that.\n" in text


def test_what_looks_like_markup_is_text() -> None:
    assert escaped("a*b <x> p < q *not* `a*b <x>`") == "a\\*b \\<x> p < q *not* `a*b <x>`"
    assert table(("a",), [("p(a|s)",)]) == "| a |\n| --- |\n| p(a\\|s) |"


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made" / "here"
    assert main(["methods", "--pages", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {INDEX, SHARED, *(f"{name}.md" for name in names())}
    assert capsys.readouterr().out == f"{len(names()) + 2} pages in {folder}\n"


@pytest.mark.parametrize(("words", "code"), [(["--pages", "file"], 6), (["--pages", ""], 2), (["--pages"], 2)])
def test_a_bad_folder_is_one_sentence(
    words: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["methods", *words]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: --pages: ") and err.count("\n") == 1
