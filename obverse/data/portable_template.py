"""A chat template that gives the prompts of training in other programs. No torch.

A run has, besides the template, a system prompt, variables, a fixed date, and workarounds for missing features of the
template. All of them are written before the template, so that `apply_chat_template`, and every server that calls it,
gives the same prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from obverse.data.chat_template import FIXED_DATE, ChatTemplate

# Writes the last assistant message and EOS, so that further training finds the end of answers.
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


def plain_template(opening: str, form: str, system_prompt: str | None) -> str:
    """Return the template of plain-text prompts: the tokenizer's opening tokens, and `form` around the messages."""
    before, _, after = form.partition("{prompt}")
    text = _PLAIN.replace("OPENING", quoted(opening)).replace("BEFORE", quoted(before)).replace("AFTER", quoted(after))
    return _system(system_prompt) + text


def with_run_settings(
    template: ChatTemplate, system_prompt: str | None, takes_system: bool, variables: Mapping[str, Any]
) -> str | None:
    """Return the template with the run's settings; None if they cannot be written (a computed date format)."""
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
    # a block and the line break that is trimmed with it: the template then starts at the start of a line, as before
    return f"{before}{{%- if true %}}{{% endif %}}\n{template.source}" if before else template.source


def _system(prompt: str | None) -> str:
    if not prompt:
        return ""
    message = f"{{'role': 'system', 'content': {quoted(prompt)}}}"
    return f"{{%- if messages[0]['role'] != 'system' -%}}{{%- set messages = [{message}] + messages -%}}{{%- endif -%}}"


def quoted(text: str) -> str:
    """Return a text as a Jinja literal: ASCII, in quotes."""
    return ascii(text)


def literal(value: Any) -> str:
    """Return a JSON value as a Jinja literal."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(str(key))}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
