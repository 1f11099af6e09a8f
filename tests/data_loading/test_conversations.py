"""From rows to tokens: what is trained of a conversation is what its template renders, or the row is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from obverse.data.layouts import Flaw, RowLocation, read_row
from obverse.data.renderer import Renderer
from obverse.data.template_mismatches import check_rendering
from obverse.errors import DataError
from obverse.types import ModelInput, Problem

# Tools, calls, thoughts that are kept behind the last question only, and a way not to think.
THINKER = """\
{%- if tools %}
{{- '<|im_start|>system\\n' + (messages[0].content + '\\n' if messages[0].role == 'system' else '') + 'Tools:' }}
{%- for tool in tools %}
{{- '\\n' + tool | tojson }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=0) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{%- set content = message.content or '' %}
{%- set thought = '' %}
{%- if message.reasoning_content is string %}
{%- set thought = message.reasoning_content %}
{%- elif '</think>' in content %}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
{%- else %}
{{- content }}
{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>' + (call.function or call) | tojson + '</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>' + message.content + '</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}
"""
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
ASK = {"role": "user", "content": "2+2?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def says(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer("qwen3", THINKER)


@pytest.fixture(scope="module")
def renderer(tokenizer: PreTrainedTokenizerFast) -> Renderer:
    return Renderer(tokenizer)


def problem_of(row: dict[str, Any]) -> Problem:
    problem = read_row(row, RowLocation("rows.jsonl", 1))
    assert isinstance(problem, Problem), problem
    return problem


def flaws_of(row: dict[str, Any]) -> list[str]:
    flaws = read_row(row, RowLocation("rows.jsonl", 1))
    assert isinstance(flaws, list), flaws
    return [f"{flaw.field}: {flaw.reason}" for flaw in flaws if isinstance(flaw, Flaw)]


CALLED = [ASK, says(None, tool_calls=[{"id": "c1", **CALL}]), {"role": "tool", "content": "4", "tool_call_id": "c1"}]
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "an answer": {"messages": [ASK, says("It is 4")]},
    "a thought in the text": {"messages": [ASK, says("<think>\nsmall sum\n</think>\n\nIt is 4")]},
    "a thought in other white space": {"messages": [ASK, says("<think>small sum</think>It is 4")]},
    "a thought apart": {"messages": [SYSTEM, ASK, says("4", reasoning_content="small\nsum")]},
    "a thought by another name": {"messages": [ASK, says("4", reasoning="small sum")]},
    "earlier thoughts": {
        "messages": [ASK, says("<think>\nx\n</think>\n\n4"), ASK, says("<think>\ny\n</think>\n\nfour")]
    },
    "two system messages": {"messages": [SYSTEM, ASK, says("4"), SYSTEM, ASK, says("four")]},
    "tools": {"messages": [SYSTEM, ASK, says("4")], "tools": [TOOL]},
    "a call as the answer": {"messages": [ASK, says(None, tool_calls=[CALL])], "tools": [TOOL]},
    "a call behind words": {"messages": [ASK, says("I add.", tool_calls=[CALL, CALL])], "tools": [TOOL]},
    "an answer after a call": {"messages": [*CALLED, says("4", reasoning_content="it said 4")], "tools": [TOOL]},
    "an empty earlier answer": {"messages": [ASK, says(""), ASK, says("4")]},
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_is_trained_is_what_the_template_renders(
    name: str, tokenizer: PreTrainedTokenizerFast, renderer: Renderer
) -> None:
    row = CONVERSATIONS[name]
    problem = problem_of(row)
    check_rendering([problem], renderer)
    whole = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
    rendered = renderer.demonstration(problem)
    ids = renderer.prompt(problem).extended(rendered.ids).token_ids
    assert tokenizer.decode(ids) == whole.removesuffix("\n")
    assert rendered.as_written
    opened = tokenizer.apply_chat_template(
        row["messages"][:-1], tools=row.get("tools"), add_generation_prompt=True, return_dict=False
    )
    assert renderer.prompt(problem) == ModelInput(tuple(opened))  # and nothing of the prompt is trained


def test_rows_of_tables_have_their_nulls_taken_out(renderer: Renderer) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "x": None}}, "y": None}
    padded = says("4", tool_calls=None, reasoning_content=None)
    row = {"messages": [{**ASK, "tool_calls": None}, padded], "tools": [tool], "chat_template_kwargs": {"a": None}}
    plain = {"messages": [ASK, says("4")], "tools": [TOOL]}
    assert renderer.prompt(problem_of(row)) == renderer.prompt(problem_of(plain))
    assert problem_of({"messages": [ASK, says("4")], "tools": '[{"type": "function"}]'}).template == {
        "tools": [{"type": "function"}]
    }
    assert problem_of({"messages": [ASK, says("4", tool_calls=[])], "tools": []}).template == {}


def test_not_to_think_by_row(tokenizer: PreTrainedTokenizerFast, renderer: Renderer) -> None:
    row: dict[str, Any] = {"prompt": [ASK], "demonstration": "It is 4"}
    quiet = problem_of(row | {"chat_template_kwargs": '{"enable_thinking": false}'})
    prompt = renderer.prompt_text(quiet)
    assert prompt.endswith("<think>\n\n</think>\n\n") and renderer.demonstration(quiet).text == "It is 4"
    loud = problem_of(
        {**row, "demonstration": "<think>\nx\n</think>\n\n4", "chat_template_kwargs": {"enable_thinking": 0}}
    )
    assert renderer.demonstration(loud).as_written
    closed = problem_of(
        {**row, "demonstration": "<think>x</think>4", "chat_template_kwargs": {"enable_thinking": False}}
    )
    with pytest.raises(DataError, match="has closed its thought"):
        renderer.demonstration(closed)
    assert renderer.response(closed, ("<think>x</think>4",)).text.endswith("4")  # what a model wrote is no row


def test_pairs_with_thoughts(renderer: Renderer) -> None:
    row = {
        "chosen": [ASK, says("4", reasoning_content="good")],
        "rejected": [ASK, says("5", reasoning_content="bad")],
    }
    problem = problem_of(row)
    texts = {kind: renderer.response(problem, (getattr(problem, kind),), kind).text for kind in ("chosen", "rejected")}
    assert texts == {"chosen": "<think>\ngood\n</think>\n\n4", "rejected": "<think>\nbad\n</think>\n\n5"}
    alone = problem_of({"prompt": "2+2?", "chosen": [says("4", reasoning_content="good")], "rejected": [says("5")]})
    assert alone.template == {"chosen": {"reasoning_content": "good"}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name": ({"messages": [{**ASK, "name": "Ann"}, says("4")]}, "name: the chat template does not read it"),
    "the answer's name": ({"messages": [ASK, says("4", name="Bob")]}, "the assistant's name"),
    "a developer": ({"messages": [{"role": "developer", "content": "x"}, ASK, says("4")]}, "does not write it"),
    "an unread variable": (
        {"prompt": [ASK], "demonstration": "4", "chat_template_kwargs": {"enable_thoughts": True}},
        "enable_thoughts is for chat templates",
    ),
    "images": ({"messages": [{**ASK, "images": "a.png"}, says("4")]}, "images: the chat template does not read it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_template_would_leave_out_is_refused_by_name(name: str, renderer: Renderer) -> None:
    row, reason = REFUSED[name]
    with pytest.raises(DataError, match=reason) as error:
        check_rendering([problem_of({"id": "r7", **row})], renderer)
    assert "problem r7: " in str(error.value)


@pytest.mark.parametrize("template", ["none", "Q: {prompt}"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, says("4", reasoning_content="x")]},
        {"messages": [ASK, says("4")], "tools": [TOOL]},
        {"prompt": "2+2?", "demonstration": "4", "chat_template_kwargs": {"enable_thinking": False}},
        {"messages": [{**ASK, "name": "Ann"}, says("4")]},
    ],
)
def test_without_a_template_there_is_no_place_for_them(
    template: str, row: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(DataError):
        check_rendering([problem_of(row)], Renderer(tokenizer, template))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "2+2=", "completion": "5", "rejected": "6", "chosen": "4", "label": False}, "label: the row has"),
        ({"prompt": "2+2=", "answer": "4", "image": "x.png"}, "image: texts are all"),
        ({"prompt": "2+2=", "answer": "4", "tools": "add"}, "tools: not a list of objects"),
        ({"prompt": "2+2=", "answer": "4", "chat_template_kwargs": [1]}, "chat_template_kwargs: not an object"),
        ({"prompt": "2", "answer": "4", "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs: tools has"),
        ({"messages": [{**ASK, "tool_calls": [CALL]}, says("4")]}, "messages: message 1: tool_calls of user"),
        ({"messages": [ASK, says("4", tool_calls="x")]}, "messages: message 2: tool_calls: not a list"),
        ({"messages": [ASK, says("4", thinking="x", reasoning="y")]}, "messages: message 2: reasoning is another"),
        ({"messages": [ASK, says("4", weight=0)]}, "messages: message 2: weight is not text"),
        ({"messages": [ASK, says(None)]}, "messages: message 2 has no content"),
        ({"problem": "2+2=", "solution": "so", "completion": "4"}, "completion: the solution is the demonstration"),
        ({"prompt": "2+2=", "answer": float("inf")}, "answer: holds a number that is not finite"),
    ],
)
def test_rows_that_are_refused_whatever_the_template(row: dict[str, Any], reason: str) -> None:
    (flaw,) = flaws_of(row)
    assert flaw.startswith(reason)


@pytest.mark.parametrize("label", [False, 0, "False", "0.0"])
def test_a_response_that_is_labelled_bad_is_rejected_and_never_imitated(label: object) -> None:
    problem = problem_of({"prompt": "2+2=", "completion": "5", "label": label})
    assert (problem.rejected, problem.chosen, problem.demonstration) == ("5", None, ())


def test_a_label_of_the_last_answer_of_a_conversation() -> None:
    problem = problem_of({"messages": [ASK, says("5", reasoning="hm")], "label": False})
    assert (problem.rejected, problem.demonstration) == ("5", ()) and "demonstration" not in problem.template


def test_labels_that_are_good_or_mean_something_else() -> None:
    problem = problem_of({"prompt": "2+2=", "completion": "4", "label": True})
    assert problem.demonstration == ("4",) and problem.chosen == "4" and problem.rejected is None
    assert problem_of({"prompt": "2+2=", "answer": "4", "label": False}).meta == {"label": False}
    assert problem_of({"prompt": "2+2=", "answer": "4", "demonstration": "4", "label": 0}).meta == {"label": 0}


def test_competition_rows() -> None:
    row = {"problem": "2+2=", "answer": "4", "solution": "two and two, \\boxed{4}", "level": "1"}
    problem = problem_of(row)
    assert (problem.prompt, problem.answer, problem.demonstration) == ("2+2=", "4", (row["solution"],))
    assert problem.meta == {"level": "1"}
    assert problem_of({"problem": "2+2=", "answer": "4"}).demonstration == ()
    problem = problem_of({"problem": "2+2=", "solution": row["solution"]})
    assert (problem.answer, problem.verifier) == ("4", "math")
    assert problem_of({"problem": "2+2=", "solution": "a proof"}).answer is None
    talked = problem_of({**row, "messages": [ASK, says("4")]})
    assert (talked.answer, talked.demonstration, talked.meta["solution"]) == ("4", ("4",), row["solution"])
