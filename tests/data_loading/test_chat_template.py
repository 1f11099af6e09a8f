"""Chat templates: what transformers renders, at a fixed date, without chance, and never without end."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import tiny_tokenizer
from tiny_templates import TEMPLATES

from obverse.config.commands import DataConfig
from obverse.data.chat_template import ERRORS, ChatTemplate, TooLargeError
from obverse.data.renderer import Renderer
from obverse.errors import ConfigError
from obverse.types import Problem

ASK = [{"role": "user", "content": "2+2?"}]
TURNS = [*ASK, {"role": "assistant", "content": " 4 "}, {"role": "user", "content": "sure?\n"}]
FEATURES = (
    "{%- set ns = namespace(last='') %}{% for m in messages %}\n  {%- if loop.first and not loop.last %}"
    "{{ m.role | upper }}{% else %}{{ m['content'].split('?')[0] ~ loop.index0 }}{% endif %}\n"
    "    {% set ns.last = m.role %}{% if loop.index > 1 %}{% continue %}{% endif %}{{ loop.nextitem is defined }}"
    "{% endfor %}\n{% generation %}{{ ns.last }}{% endgeneration %}\n{{ messages | tojson(indent=2) }}{{ bos_token }}"
    "{{ messages | map(attribute='role') | join(',') }}{{ messages[::-1][0].role }}{{ 7 % 4 + 2 ** 3 * 2 }}"
    "{% macro shout(x) %}{{ x | upper }}!{% endmacro %}{{ shout('a') }}{% filter trim %} b {% endfilter %}"
    "{% set block %}{{ '%s-%03d' | format('x', 7) }}{% endset %}{{ block }}{{ '{:>3}'.format(1) }}{{ tools is none }}"
)


@pytest.mark.parametrize("source", [*(family.template for family in TEMPLATES.values()), FEATURES])
def test_it_writes_what_transformers_writes(source: str) -> None:
    tokenizer = tiny_tokenizer("llama", source)
    for messages in (ASK, TURNS, [{"role": "system", "content": "x"}, *ASK]):
        for is_open in (False, True):
            try:
                expected: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=is_open, tokenize=False)
            except ERRORS as error:
                expected = type(error)
            values = {"tools": None, "documents": None, **tokenizer.special_tokens_map}
            try:
                found: Any = ChatTemplate("x", source).render(messages, add_generation_prompt=is_open, **values)
            except ERRORS as error:
                found = type(error)
            assert found == expected


GROW = "{% set ns = namespace(s='a' * 1000) %}{% for _ in range(60) %}{% set ns.s = STEP %}{% endfor %}{{ ns.s }}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for _ in range(10**9) %}{% endfor %}",
        "{% for _ in range(99999) %}{% for _ in range(99999) %}{% endfor %}{% endfor %}",
        "{% for _ in range(99999) recursive %}{% if loop.depth < 5 %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 10 ** 100000 }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ 'a'.ljust(10 ** 10) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '{:9999999999d}'.format(1) }}",
        "{{ [1] | slice(10 ** 10) | list }}",
        "{{ messages | tojson(indent=9999999999) }}",
        GROW.replace("STEP", "ns.s ~ ns.s"),
        GROW.replace("STEP", "ns.s + ns.s"),
        GROW.replace("STEP", "ns.s | replace('a', 'aaaaaaaa')"),
        GROW.replace("{% set ns.s = STEP %}", "{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}"),
    ],
)
def test_what_does_not_end_is_refused(source: str) -> None:
    with pytest.raises((TooLargeError, RecursionError)):
        ChatTemplate("x", source).render(ASK)
    with pytest.raises(ConfigError, match="cannot be rendered"):
        Renderer(tiny_tokenizer("qwen3", source))


def test_the_clock_stands_still_and_is_said() -> None:
    source = TEMPLATES["qwen2"].template.replace("You are", "It is {{ strftime_now('%Y-%m-%d') }}. You are", 1)
    source = "{%- set day = strftime_now('%d %b %Y') %}{{ day }}" + TEMPLATES["qwen2"].template
    renderer = Renderer(tiny_tokenizer("qwen2", source))
    assert renderer.prompt_text(Problem("a", "2+2?")).startswith("26 Jul 2024<|im_start|>")
    assert renderer.record()["date"] == "26 Jul 2024" and "always 26 Jul 2024" in renderer.describe()
    assert "date" not in Renderer(tiny_tokenizer("qwen2")).record()


@pytest.mark.parametrize("source", ["{{ messages | map(attribute='content') | list | random }}", "{{ lipsum() }}"])
def test_chance_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="at random"):
        Renderer(tiny_tokenizer("qwen2", source))


@pytest.mark.parametrize("source", ["{{ 1 / 0 }}", "{{ messages[7].content.x }}", "{{ {}['a'].b }}", "{{ 'a' + 1 }}"])
def test_whatever_a_template_raises_is_one_sentence(source: str) -> None:
    with pytest.raises(ConfigError, match="refuses its messages"):
        Renderer(tiny_tokenizer("qwen2", source))


# Variables


THINKS = TEMPLATES["qwen2"].template + (
    "{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)


def test_variables_reach_the_template_a_row_s_own_on_top() -> None:
    tokenizer = tiny_tokenizer("qwen3", THINKS)
    own = {"chat_template_kwargs": {"enable_thinking": False}}
    assert not Renderer(tokenizer).prompt_text(Problem("a", "?")).endswith("</think>\n\n")
    assert Renderer(tokenizer).prompt_text(Problem("a", "?", template=own)).endswith("</think>\n\n")
    renderer = Renderer(tokenizer, variables={"enable_thinking": False})
    assert renderer.prompt_text(Problem("a", "?")).endswith("</think>\n\n")
    own = {"chat_template_kwargs": {"enable_thinking": True}}
    assert not renderer.prompt_text(Problem("a", "?", template=own)).endswith("</think>\n\n")
    assert renderer.record()["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("choice", ["auto", "none", "Q: {prompt}"])
def test_variables_that_are_not_read_are_refused(choice: str) -> None:
    tokenizer = tiny_tokenizer("llama")
    with pytest.raises(ConfigError, match="chat_template_kwargs: .*'enable_thinking'"):
        Renderer(tokenizer, choice, variables={"enable_thinking": False})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("enable_thinking=false", {"enable_thinking": False}),
        ("a=1, b = 0.5,c=x y,d=null,e=True", {"a": 1, "b": 0.5, "c": "x y", "d": None, "e": True}),
        ('{"a": [1, {"b": "c,d"}]}', {"a": [1, {"b": "c,d"}]}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
    ],
)
def test_variables_as_they_are_typed(text: Any, value: dict[str, Any]) -> None:
    assert DataConfig(dataset="arithmetic", chat_template_kwargs=text).chat_template_kwargs == value


@pytest.mark.parametrize("text", ["thinking", "a=1,a=2", '{"a": ', "=1", "[1]", '{"a": NaN}'])
def test_variables_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="chat_template_kwargs"):
        DataConfig(dataset="arithmetic", chat_template_kwargs=text)


def test_a_date_may_be_given() -> None:
    dated = "{{ date_string }} " + TEMPLATES["qwen2"].template
    renderer = Renderer(tiny_tokenizer("qwen3", dated), variables={"date_string": "1 Jan 2026"})
    assert renderer.prompt_text(Problem("a", "?")).startswith("1 Jan 2026<")
    assert renderer.record()["date"] == "1 Jan 2026"
