"""The method table and the explanation are read off the values, and the README's table is up to date."""

from __future__ import annotations

import inspect
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from obverse.cli.explain import explanation, methods_table
from obverse.cli.method_table import FAMILIES, Entry, entries, entry, family_table, to_json
from obverse.config.train import TrainConfig
from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.estimator.parts import Linear, PerToken, Request, Reward
from obverse.estimator.schedule import as_schedule
from obverse.methods import find, names, option_help
from obverse.methods._docstring import split_options
from obverse.types import GenerationRequest, Source
from recipes.method_files import readme

README = Path(__file__).parents[2] / "README.md"


def printed(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def made(method: Method) -> Entry:
    return Entry("made", lambda: method, {}, {}, as_schedule(method))


def test_families_and_needs_follow_from_what_a_method_asks_and_reads() -> None:
    assert (entry("sft").family, entry("sft").data) == ("demonstrations", ["demonstrations"])
    assert (entry("grpo").family, entry("grpo").data) == ("own samples", ["answers", "anchor"])
    assert entry("grpo", {"beta": 0.0}).data == ["answers"]
    assert (entry("hpt").family, entry("hpt").data) == ("hybrid", ["answers", "demonstrations"])


def test_hints_and_pairs_are_seen() -> None:
    def late_hint(problem: Any, progress: float) -> list[GenerationRequest]:
        return [GenerationRequest(rollouts=4, hint=0.5 if progress > 0.8 else 0.0)]

    rollout = Term(Source.ROLLOUT, Reward(), normalizer=PerToken())
    assert made(Method(late_hint, (rollout,))).family == "hybrid"
    pairs = made(
        Method(
            Request(pairs=1), (Term(Source.CHOSEN, normalizer=PerToken()), Term(Source.REJECTED, normalizer=PerToken()))
        )
    )
    assert (pairs.family, pairs.data) == ("preferences", ["pairs"])


def test_the_paper_is_the_docstrings_first_link() -> None:
    assert entry("grpo").paper == "2402.03300" and entry("hpt").paper == "2509.04419"
    assert made(entry("sft").methods[0]).paper == ""


def test_every_method_is_in_the_table_at_80_columns() -> None:
    table = printed(methods_table(entries()))
    assert max(map(len, table.splitlines())) <= 80
    for each in entries():
        assert f"\n{each.name} " in table and each.paper in table and f"\n{each.family}" in table
    assert table.index("\nsft ") < table.index("\ngrpo ") < table.index("\nhpt ")  # by family


def test_the_table_shows_the_parts() -> None:
    *_, title, row = printed(methods_table([entry("dr_grpo")])).rstrip().splitlines()
    assert title == "dr_grpo 2503.20783  needs answers; cost 16 / 8; peer"
    assert row.split() == ["rollout", "clip", "behavior", "centered", "constant"]


def test_json_has_stable_keys() -> None:
    found = json.loads(to_json(entries()))
    assert sorted(each["name"] for each in found) == names()
    keys = ["name", "summary", "family", "data", "paper", "sources", "cost", "proven"]
    keys += ["terms", "turn", "lanes", "options", "components", "run"]
    assert all(list(each) == keys and each["family"] in FAMILIES for each in found)
    terms = [term for each in found for term in each["terms"]]
    assert all(
        list(term) == ["lane", "source", "on", "mask", "reference", "advantage", "share", "weight"] for term in terms
    )


def test_a_schedule_is_told_by_its_name() -> None:
    term = Term(Source.ROLLOUT, normalizer=PerToken(), weight=Linear(1.0, 0.0))
    assert made(Method(Request(rollouts=1), (term,))).record()["terms"][0]["weight"] == "linear(start=1, end=0)"


@pytest.mark.parametrize("name", names())
def test_an_explanation_holds_docstring_parts_options_and_papers_values(name: str) -> None:
    each = entry(name)
    found = printed(explanation(each))
    assert max(map(len, found.splitlines())) <= 80
    words = " ".join(found.split())
    for line in each.text.splitlines():
        if line.strip():
            assert line.split()[-1] in words  # nothing of the docstring is lost
    for term in [term for method in each.methods for term in method.terms]:
        assert f": {term.source.label} tokens" in found
        assert str(term.advantage).partition("(")[0] in found and str(term.normalizer).partition("(")[0] in found
    assert all(f"--{option} " in found for option in (*each.options, *each.schedule.run))
    assert all(" ".join(each.help[option].split()[:3]) in words for option in each.options)
    assert f"needs {', '.join(each.data)}" in words


def test_an_explanation_follows_the_options() -> None:
    assert "towards_anchor" in printed(explanation(entry("grpo")))
    found = printed(explanation(entry("grpo", {"beta": 0.0, "epsilon": 0.3})))
    assert "towards_anchor" not in found and "clip(low=0.3, high=0.3)" in found and "--epsilon 0.3" in found


@pytest.mark.parametrize("name", names())
def test_every_option_of_a_method_has_a_help_text(name: str) -> None:
    row, (_, section) = entry(name), split_options(inspect.getdoc(find(name)) or "")
    assert section.keys() <= row.options.keys(), "the Options section names a parameter that is not there"
    assert not section.keys() & TrainConfig.model_fields.keys(), "the run's own option describes it"
    for option in row.options:
        assert len(row.help[option].split()) >= 3 and "option of" not in row.help[option], option


def test_the_options_section_is_parsed_and_left_out_of_the_text() -> None:
    section = "Options\n    beta: weight of the KL;\n        none: off\n    tau: any\n\n"
    docstring = f"Name.\n\nPaper  A title.\n{section}Pitfalls  Few."
    text, texts = split_options(docstring)
    assert texts == {"beta": "weight of the KL; none: off", "tau": "any"}
    assert text == "Name.\n\nPaper  A title.\nPitfalls  Few."
    assert split_options("Name.\n\nNo section.") == ("Name.\n\nNo section.", {})
    assert split_options("Name.\nOptions") == ("Name.", {})


def test_a_components_text_stands_in_for_a_parameter_without_one() -> None:
    assert option_help(find("ppo"))["kl_coef"] == option_help(find("grpo"))["kl_coef"]


def test_a_method_without_a_docstring_is_explained_too() -> None:
    assert "no docstring" in printed(explanation(made(entry("sft").methods[0])))


def test_a_docstring_in_another_style_stands_as_it_is() -> None:
    def mine() -> Method:
        """My way.

        It has prose
        over two lines.
        """
        return entry("sft").methods[0]

    found = printed(explanation(Entry("mine", mine, {}, {}, as_schedule(mine()))))
    assert "It has prose" in found and "over two lines." in found


def test_the_readme_has_the_current_table_of_families() -> None:
    text = README.read_text(encoding="utf-8")
    assert readme(text, entries()) == text, "run 'make methods'"
    table = family_table(entries())
    assert table in text and all(f"[`{name}`](" in table for name in names())
    assert sum(int(line.split("|")[2]) for line in table.splitlines()[2:]) == len(names())
