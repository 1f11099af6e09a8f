"""The chat template that other programs need to write the prompts that a model was trained on. No torch here.

Beside a template a run has a system prompt, variables, a fixed date, and ways around what the template lacks. All of it
is written in front of the template, so that `apply_chat_template`, and every server that calls it, gives the same
prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from obverse.data.chat_template import FIXED_DATE, ChatTemplate

# Writes the last assistant message and eos, so that training on the folder finds where answers end.
_PLAIN = (
    "{%- set last = messages[-1]['role'] == 'assistant' -%}"
    "{%- set asked = messages[:-1] if last else messages -%}"
    "{{- OPENING -}}{{- BEFORE -}}{{- asked | map(attribute='content') | join('\\n\\n') -}}{{- AFTER -}}"
    "{%- if last -%}{{- messages[-1]['content'] -}}{{- eos_token -}}{%- endif -%}"
)
_FOLD = (
    "{%- if messages[0]['role'] == 'system' and messages | length > 1 -%}"
    "{%- set messages = [dict(messages[1], content=messages[0]['content'] + '\\n\\n' + messages[1]['content'])]"
    " + messages[2:] -%}"
    "{%- endif -%}"
)


def plain(opening: str, form: str, system_prompt: str | None) -> str:
    """The template of prompts that are a text: what the tokenizer puts first, and `form` around the messages."""
    before, _, after = form.partition("{prompt}")
    text = _PLAIN.replace("OPENING", quoted(opening)).replace("BEFORE", quoted(before)).replace("AFTER", quoted(after))
    return _system(system_prompt) + text


def chat(
    template: ChatTemplate, system_prompt: str | None, takes_system: bool, variables: Mapping[str, Any]
) -> str | None:
    """The template with all that a run adds; None where that cannot be written: a date in a format known only later."""
    parts = [_system(system_prompt), "" if takes_system else _FOLD]
    values = dict(variables)
    if template.reads_clock:
        values = {"date_string": FIXED_DATE, **values}
        dates = template.dates()
        if dates is None:
            return None
        if dates:
            table = ", ".join(f"{quoted(name)}: {quoted(text)}" for name, text in dates.items())
            parts.append(
                f"{{%- macro strftime_now(format) -%}}{{{{- {{{table}}}[format] -}}}}{{%- endmacro -%}}"  # as a dict
            )
    for name, value in values.items():
        if name in template.variables:
            parts.append(f"{{%- if {name} is not defined -%}}{{%- set {name} = {literal(value)} -%}}{{%- endif -%}}")
    before = "".join(parts)
    # a block and a line break, which goes with it: what follows stands at the start of a line, as it did
    return f"{before}{{%- if true %}}{{% endif %}}\n{template.source}" if before else template.source


def _system(prompt: str | None) -> str:
    if not prompt:
        return ""
    message = f"{{'role': 'system', 'content': {quoted(prompt)}}}"
    return f"{{%- if messages[0]['role'] != 'system' -%}}{{%- set messages = [{message}] + messages -%}}{{%- endif -%}}"


def quoted(text: str) -> str:
    """A text as Jinja reads it: ASCII, in quotes."""
    return ascii(text)


def literal(value: Any) -> str:
    """A JSON value as Jinja reads it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(str(key))}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
