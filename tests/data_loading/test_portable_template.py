"""What is kept with a model writes the prompts that trained it, in every program that has a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_loading.test_renderer_decode import llama2_tokenizer
from tiny_models import tiny_tokenizer
from tiny_templates import TEMPLATES
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from obverse.data.portable_template import literal, quoted
from obverse.data.renderer import Renderer
from obverse.types import ModelInput, Problem

TEXT = "Say \"2+2\" {{ x }} {% y %} \\n 'q'\n\t\U0001f600 \u00e9"
SYSTEM = "Be brief: {{ bos_token }} {% if %} 'a' \\ \"b\"\n\U0001f600 \u4f60"
DATED = "{%- if date_string is not defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
DATED += "{%- set year = strftime_now('%Y') %}{{ year }} {{ date_string }}" + TEMPLATES["qwen2"].template
THINKS = "  \n" + TEMPLATES["qwen2"].template + "{% if mode == 'fast' and not deep and many[0] == 1 %}!{% endif %}"
FORM = "Q: 'x' \\n{prompt}\\nA {{ :".replace("{{", "[")


def same_elsewhere(renderer: Renderer, folder: Path, prompt: Any = TEXT) -> None:
    """The kept tokenizer, read again by transformers, writes the prompt's ids; its file's template is what it holds."""
    renderer.tokenizer_to_save().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    expected = ModelInput(tuple(ids))
    assert expected == renderer.prompt(Problem("a", prompt))
    assert Renderer(tokenizer).prompt(Problem("a", prompt)) == expected  # and what trains on from there begins with


@pytest.mark.parametrize("family", TEMPLATES)
@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("choice", ["auto", "none", FORM])
def test_every_family(family: str, system: str | None, choice: str, tmp_path: Path) -> None:
    renderer = Renderer(tiny_tokenizer(family), choice, system)
    same_elsewhere(renderer, tmp_path)
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": TEXT}]
    same_elsewhere(renderer, tmp_path, own)
    more = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    same_elsewhere(renderer, tmp_path, more)


@pytest.mark.parametrize("scheme", ["first", "always"])
@pytest.mark.parametrize("choice", ["none", FORM])
def test_tokenizers_that_put_a_space_first(scheme: str, choice: str, tmp_path: Path) -> None:
    same_elsewhere(Renderer(llama2_tokenizer(scheme), choice, SYSTEM), tmp_path)


def test_a_template_of_the_user_its_variables_and_its_date(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(DATED + "{{ style }}", encoding="utf-8")
    variables = {"style": "it's"}
    renderer = Renderer(tiny_tokenizer("qwen2"), str(path), SYSTEM, variables=variables)
    assert renderer.prompt_text(Problem("a", TEXT)).startswith("2024 26 Jul 2024")
    same_elsewhere(renderer, tmp_path / "kept")
    variables = {"mode": "fast", "deep": False, "many": [1, None, {"a": 0.5}]}
    renderer = Renderer(tiny_tokenizer("qwen2", THINKS), variables=variables)
    assert renderer.prompt_text(Problem("a", TEXT)).endswith("!")
    same_elsewhere(renderer, tmp_path / "other")


def test_variables_may_still_be_given(tmp_path: Path) -> None:
    Renderer(
        tiny_tokenizer("qwen2", THINKS), variables={"mode": "fast", "many": [1]}
    ).tokenizer_to_save().save_pretrained(tmp_path)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "?"}]
    assert not tokenizer.apply_chat_template(messages, tokenize=False, mode="slow").endswith("!")
    assert tokenizer.apply_chat_template(messages, tokenize=False).endswith("!")


def test_what_is_as_it_was_stays_as_it_was() -> None:
    for family in ("qwen2", "qwen3", "llama", "phi", "deepseek"):
        tokenizer = tiny_tokenizer(family)
        assert Renderer(tokenizer).tokenizer_to_save() is tokenizer
    tokenizer = tiny_tokenizer("qwen2")
    before = tokenizer.chat_template
    assert Renderer(tokenizer, system_prompt="x").tokenizer_to_save().chat_template != before
    assert tokenizer.chat_template == before


def test_a_date_in_a_format_known_later_cannot_be_kept() -> None:
    source = "{{ strftime_now(messages[0].content[:2]) }}" + TEMPLATES["qwen2"].template
    renderer = Renderer(tiny_tokenizer("qwen2", source))
    assert renderer.portable() is None and renderer.tokenizer_to_save() is renderer.tokenizer


def test_values_as_jinja_reads_them() -> None:
    assert quoted("a'\U0001f600\n") == '"a\'\\U0001f600\\n"'
    assert literal({"a": [True, None, 1, 1.5, "x"]}) == "{'a': [true, none, 1, 1.5, 'x']}"
