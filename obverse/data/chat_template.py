"""Chat templates: Jinja in a sandbox with limits, deterministic and with a fixed date. No torch.

The output is that of `tokenizer.apply_chat_template`: the same environment and the same variables. In addition, a
rendering with too many steps, too much time or too much memory is an error, the current date is FIXED_DATE, and a
template that uses random numbers is rejected, because a resumed run must see the same prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import Undefined, meta, nodes, pass_context
from jinja2.exceptions import TemplateError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from obverse.errors import ConfigError
from obverse.python_files import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DAY = date(2024, 7, 26)  # the default date of Llama 3's templates
FIXED_DATE = DAY.strftime("%d %b %Y")
MAX_STEPS = 250_000  # calls and loop iterations in one rendering
MAX_SECONDS = 5.0  # of CPU time in one rendering
MAX_CHARS = 2**25  # of a rendering, and of every intermediate text
MAX_COUNT = 10**6  # largest integer argument of a filter, a function or a format width
MAX_BITS = 2**14  # of an integer
REASONING = ("reasoning_content", "thinking", "reasoning")  # alternative names of one field of a message
# Exceptions that rendering a user's template may raise.
ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
)

_WIDE = re.compile(r"\d{7}")


@dataclass(frozen=True)
class PromptFormat:
    """The format of prompts: a Jinja chat template, or a text that contains `{prompt}`."""

    name: str
    jinja: str | None = None
    form: str = "{prompt}"
    jinja_tools: str | None = None  # the tokenizer's separate template for conversations with tools, if any


def choose_prompt_format(tokenizer: PreTrainedTokenizerBase, choice: str) -> PromptFormat:
    """Return the format of the option `chat_template`; `\\n` in a plain text becomes a line end."""
    stored = tokenizer.chat_template
    if choice == "none" or (choice == "auto" and not stored):
        return PromptFormat("none")
    if choice == "auto":
        try:
            jinja = tokenizer.get_chat_template()
        except ValueError as error:  # several named templates and no default
            raise ConfigError(f"chat_template: {error}") from error
        return PromptFormat(
            "the tokenizer's own", jinja, jinja_tools=stored.get("tool_use") if type(stored) is dict else None
        )
    if choice.endswith((".jinja", ".jinja2")):
        return PromptFormat(Path(choice).name, jinja=read_template(choice))
    if "{prompt}" in choice and "{{" not in choice and "{%" not in choice:
        form = choice.replace("\\n", "\n")
        return PromptFormat(repr(form), form=form)
    raise ConfigError(
        f"chat_template: {choice!r} is neither auto, none, a text that holds {{prompt}}, nor a path to a .jinja file"
    )


def read_template(choice: str) -> str | None:
    """Return the content of the template file of the option `chat_template`, None for other values."""
    if not choice.endswith((".jinja", ".jinja2")):
        return None
    try:
        return read_text(choice)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chat_template: cannot read {choice}: {error}") from error


class TooLargeError(TemplateRuntimeError):
    """A rendering that exceeds the limits of steps, time or size."""


class Budget:
    """Counts the steps and the time of one rendering; raises TooLargeError beyond the limits."""

    def __init__(self) -> None:
        self.steps, self.start = 0, thread_time()

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TooLargeError(f"it takes more than {MAX_STEPS:,} steps: its loops or macros do not end")
        if self.steps % 16 == 0 and thread_time() - self.start > MAX_SECONDS:
            raise TooLargeError(f"it takes more than {MAX_SECONDS:g} seconds: its loops or macros do not end")


_BUDGET: ContextVar[Budget] = ContextVar("budget")


class ChatTemplate:
    """A parsed and compiled Jinja chat template. Raises ConfigError if it is invalid or uses random numbers."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source
        environment = Sandbox()
        try:
            tree = environment.parse(source)
            names = {item.name for item in tree.find_all(nodes.Name) if item.ctx == "load"}
            self.reads_clock = bool(names & {"strftime_now", "date_string"})  # it gets FIXED_DATE
            self.words = frozenset(_words(tree))
            random = {item.name for item in tree.find_all(nodes.Filter)} & {"random"} or names & {"lipsum"}
            if random:
                raise ConfigError(
                    f"the chat template ({name}) draws at random ({min(random)}): no run could repeat its prompts"
                )
            # the variables that callers can set; with bounds, because this computes constant expressions
            self.variables = frozenset(meta.find_undeclared_variables(_Bounds().visit(tree)))
            self._compiled = environment.from_string(source)
        except ERRORS as error:
            raise ConfigError(f"the chat template ({name}) cannot be read: {first_line(error)}") from error

    def render(self, messages: Sequence[Mapping[str, Any]], **values: Any) -> str:
        """Return the text of messages. Raises one of ERRORS if the template rejects them or exceeds the limits."""
        budget = _BUDGET.set(Budget())
        parts: list[str] = []
        size = 0
        try:
            for part in self._compiled.generate(messages=_with_reasoning(messages), **values):
                parts.append(part)
                size += len(part)
                if size > MAX_CHARS:
                    raise TooLargeError(f"it writes more than {MAX_CHARS:,} characters")
        finally:
            _BUDGET.reset(budget)
        return "".join(parts)

    def dates(self) -> dict[str, str] | None:
        """Return the fixed date for every format of `strftime_now`; None if a format is not a constant."""
        result = {}
        for call in Sandbox().parse(self.source).find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == "strftime_now":
                if len(call.args) != 1 or not isinstance(call.args[0], nodes.Const):
                    return None
                result[str(call.args[0].value)] = DAY.strftime(str(call.args[0].value))
        return result


@lru_cache(maxsize=16)
def compiled(name: str, source: str) -> ChatTemplate:
    """Return the ChatTemplate, cached."""
    return ChatTemplate(name, source)


def _with_reasoning(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with their reasoning under every name that templates read, as transformers does."""
    result = []
    for message in messages:
        thought = next((message[name] for name in REASONING if message.get(name) is not None), None)
        result.append(dict(message) if thought is None else {"thinking": thought, **message, REASONING[0]: thought})
    return result


def _words(tree: nodes.Template) -> Iterator[str]:
    """Yield the attributes and texts in a template; it cannot read other keys of a message."""
    for item in tree.find_all((nodes.Getattr, nodes.Const)):
        word = item.attr if isinstance(item, nodes.Getattr) else item.value  # type: ignore[attr-defined]
        if isinstance(word, str):
            yield word


# The sandbox


class Sandbox(ImmutableSandboxedEnvironment):
    """Transformers' environment for chat templates, with the bounds above."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        self.filters |= {"tojson": _tojson, "bounded": _bounded, "small": _small, "rounds": _rounds}
        self.globals |= {"raise_exception": _refuse, "strftime_now": DAY.strftime, "dict": dict}

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        return super()._generate(_Bounds().visit(source), *args, **options)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _BUDGET.get().step()
        for value in (*args, *kwargs.values()):
            _small(__context, value)
        if isinstance(__obj, LoopContext) and args:  # a recursive loop, which has no `for` node
            args = (_rounds(__context, args[0]), *args[1:])
        return _bounded(__context, super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _BUDGET.get().step()
        numbers = [abs(item) for item in (left, right) if isinstance(item, int)]
        sizes = [len(item) for item in (left, right) if isinstance(item, str | list | tuple)]
        if operator == "**" and len(numbers) == 2:
            _refuse_size(left.bit_length() * numbers[1], MAX_BITS)
        elif operator == "*" and numbers and sizes:
            _refuse_size(numbers[0] * sizes[0], MAX_CHARS)
        elif operator == "+" and len(sizes) == 2:
            _refuse_size(sum(sizes), MAX_CHARS)
        elif operator == "%" and isinstance(left, str):
            _refuse_size(0 if _WIDE.search(left) is None else MAX_COUNT, MAX_COUNT - 1)
        return _bounded(context, super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE.search(str(value.__self__)):
            _refuse_size(MAX_COUNT, MAX_COUNT - 1)
        return wrapped


class Generation(Extension):
    """The tag `{% generation %}` around the assistant's text in templates; renders its body unchanged."""

    tags = {"generation"}  # noqa: RUF012 (as its parent)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Bounds(NodeTransformer):
    """Adds counters to loops, and size checks to all expressions that can grow."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filter(node.iter, "rounds")
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Expr:
        self.generic_visit(node)
        node.args = [_filter(item, "small") for item in node.args]
        for pair in node.kwargs:
            pair.value = _filter(pair.value, "small")
        return _filter(node, "bounded")

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _filter(node, "bounded")

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:
        self.generic_visit(node)
        node.filter = _filter(node.filter, "bounded")
        return node


def _filter(node: nodes.Node | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=1 if node is None else node.lineno)


@pass_context
def _rounds(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    budget = _BUDGET.get()
    for value in values:
        budget.step()
        yield value


@pass_context
def _bounded(context: Context, value: Any) -> Any:
    if isinstance(value, str | list | tuple):
        _refuse_size(len(value), MAX_CHARS)
    elif isinstance(value, int):
        _refuse_size(value.bit_length(), MAX_BITS)
    return value


@pass_context
def _small(context: Context, value: Any) -> Any:
    if isinstance(value, int):
        _refuse_size(abs(value), MAX_COUNT)
    return value


def _refuse_size(size: int, most: int) -> None:
    if size > most:
        raise TooLargeError("it makes a text or a number that is too large")


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the escapes for HTML of Jinja's filter."""
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
