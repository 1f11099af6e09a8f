"""Checks of rows against a chat template: rows that it rejects or omits parts of, and control tokens. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from obverse.data.renderer import RenderedResponse, Renderer
from obverse.errors import ConfigError, DataError
from obverse.types import Problem

MAX_REPORTED = 50
KINDS = ("demonstration", "chosen", "rejected")


def check_rendering(problems: Sequence[Problem], renderer: Renderer) -> None:
    """Raise DataError, or ConfigError if the template itself raises, for rows that cannot be rendered completely.

    Checks every row with tools, reasoning or template variables, and one row per sequence of roles.
    """
    errors: list[DataError | ConfigError] = []
    shapes: set[object] = set()
    for problem in problems:
        shape = _shape(problem)
        if not problem.template and shape in shapes:
            continue
        shapes.add(shape)
        error = rendering_error(problem, renderer)
        errors += [error] if error is not None else []
    if errors:
        raise_all(errors)


def raise_all(errors: Sequence[DataError | ConfigError]) -> None:
    """Raise the errors of all rows as one error with a line per row."""
    lines = [str(error) for error in errors[:MAX_REPORTED]]
    lines += [f"... and {len(errors) - MAX_REPORTED} more rows"] if len(errors) > MAX_REPORTED else []
    kind = ConfigError if all(isinstance(error, ConfigError) for error in errors) else DataError
    raise kind("\n".join(lines))


def rendering_error(problem: Problem, renderer: Renderer) -> DataError | ConfigError | None:
    """Return the error of rendering a row, None without an error."""
    try:
        renderer.prompt_text(problem)
        for _ in answers(problem, renderer):
            pass
    except (DataError, ConfigError) as error:
        return error
    return None


def answers(problem: Problem, renderer: Renderer) -> Iterator[tuple[str, RenderedResponse]]:
    """Yield the row's demonstration, chosen and rejected response, if it has them, as they would be trained."""
    texts = ("".join(problem.demonstration), problem.chosen, problem.rejected)
    has = (bool(problem.demonstration), problem.chosen is not None, problem.rejected is not None)
    for kind, text, is_there in zip(KINDS, texts, has, strict=True):
        if is_there:
            yield kind, renderer.response(problem, (text or "",), kind)


def control_token_rows(problems: Sequence[Problem], renderer: Renderer) -> list[tuple[int, Problem, list[str]]]:
    """Return (row number from 1, row, tokens) of the rows that contain control tokens as text."""
    rows = [(number, problem, renderer.spelled(problem)) for number, problem in enumerate(problems, start=1)]
    return [row for row in rows if row[2]]


def control_token_note(problems: Sequence[Problem], renderer: Renderer) -> str:
    """Return a note on rows that contain control tokens as text, "" if there are none."""
    rows = control_token_rows(problems, renderer)
    if not rows:
        return ""
    _, first, tokens = rows[0]
    read = "as such (--parse_special_tokens)" if renderer.parse_special_tokens else "as text"
    return f"{len(rows)} problems spell out control tokens, such as {first.id} {tokens[0]!a}: they are read {read}"


def _shape(problem: Problem) -> object:
    prompt = problem.prompt
    kinds = (bool(problem.demonstration), problem.chosen is None, problem.rejected is None)
    return kinds, None if isinstance(prompt, str) else tuple((message["role"], *sorted(message)) for message in prompt)
