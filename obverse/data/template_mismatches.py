"""Rows that a chat template refuses, would leave out of a prompt, or that spell out control tokens. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from obverse.data.renderer import Rendered, Renderer
from obverse.errors import ConfigError, DataError
from obverse.types import Problem

MAX_TOLD = 50
KINDS = ("demonstration", "chosen", "rejected")


def refuse_misfits(problems: Sequence[Problem], renderer: Renderer) -> None:
    """Raise DataError, or ConfigError where the template itself raises, for rows that cannot be rendered whole.

    Rendered are every row with tools, reasoning or variables of its own, and one row of each sequence of roles.
    """
    errors: list[DataError | ConfigError] = []
    shapes: set[object] = set()
    for problem in problems:
        shape = _shape(problem)
        if not problem.template and shape in shapes:
            continue
        shapes.add(shape)
        error = misfit(problem, renderer)
        errors += [error] if error is not None else []
    if errors:
        raise_all(errors)


def raise_all(errors: Sequence[DataError | ConfigError]) -> None:
    """Raise what is wrong with rows as one error, a line each."""
    lines = [str(error) for error in errors[:MAX_TOLD]]
    lines += [f"... and {len(errors) - MAX_TOLD} more rows"] if len(errors) > MAX_TOLD else []
    kind = ConfigError if all(isinstance(error, ConfigError) for error in errors) else DataError
    raise kind("\n".join(lines))


def misfit(problem: Problem, renderer: Renderer) -> DataError | ConfigError | None:
    """Why a row cannot be rendered, or None."""
    try:
        renderer.prompt_text(problem)
        for _ in answers(problem, renderer):
            pass
    except (DataError, ConfigError) as error:
        return error
    return None


def answers(problem: Problem, renderer: Renderer) -> Iterator[tuple[str, Rendered]]:
    """The row's demonstration, chosen and rejected response, where it has them, as they would be trained."""
    texts = ("".join(problem.demonstration), problem.chosen, problem.rejected)
    has = (bool(problem.demonstration), problem.chosen is not None, problem.rejected is not None)
    for kind, text, is_there in zip(KINDS, texts, has, strict=True):
        if is_there:
            yield kind, renderer.response(problem, (text or "",), kind)


def spelled_out(problems: Sequence[Problem], renderer: Renderer) -> list[tuple[int, Problem, list[str]]]:
    """The rows that spell out control tokens: their number from 1, the row, the tokens."""
    rows = [(number, problem, renderer.spelled(problem)) for number, problem in enumerate(problems, start=1)]
    return [row for row in rows if row[2]]


def spelled_remark(problems: Sequence[Problem], renderer: Renderer) -> str:
    """A sentence on rows that spell out control tokens; empty without one."""
    rows = spelled_out(problems, renderer)
    if not rows:
        return ""
    _, first, tokens = rows[0]
    read = "as such (--parse_special_tokens)" if renderer.parse_special_tokens else "as text"
    return f"{len(rows)} problems spell out control tokens, such as {first.id} {tokens[0]!a}: they are read {read}"


def _shape(problem: Problem) -> object:
    prompt = problem.prompt
    kinds = (bool(problem.demonstration), problem.chosen is None, problem.rejected is None)
    return kinds, None if isinstance(prompt, str) else tuple((message["role"], *sorted(message)) for message in prompt)
