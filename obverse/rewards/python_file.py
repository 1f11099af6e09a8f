"""A user's reward function as a verifier: `path/to/file.py:function`, adapted by the names of its parameters.

- with `completions` (TRL): `fn(prompts, completions, completion_ids, **columns) -> list[float | None]`, called with one
  completion at a time; a column is a list of one value, a conversational prompt makes the completion a message list,
  and `completion_ids` is `[[]]`, since verifiers get text only;
- with `solution_str` (verl): `compute_score(data_source, solution_str, ground_truth, extra_info=None)`, which returns a
  number or {"score": number};
- otherwise two parameters: `fn(problem, text)`, which returns a number, a bool or a GradeResult.

The function may be `async`. A reward of 1.0 or more counts as correct. The file is loaded and called in a worker
process with a time limit: a function that hangs, ends the process, raises or returns no reward gives an error with its
reason, never a reward of 0.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import cache, wraps
from numbers import Real
from types import ModuleType
from typing import Any

from obverse import python_files
from obverse.errors import ConfigError, GraderError
from obverse.python_files import Code
from obverse.rewards.worker_pool import START_SECONDS, WorkerError, WorkerSpec, pool
from obverse.types import GradeResult, Problem

SECONDS = 10.0  # default time limit for one completion
WORKER = WorkerSpec("obverse.rewards.python_file")
MAX_REASON_CHARS = 200

Verifier = Callable[[Problem, str], GradeResult]

FORMS = (
    "fn(prompts, completions, completion_ids, **columns), "
    "compute_score(data_source, solution_str, ground_truth, extra_info=None) or fn(problem, text)"
)
NOT_APPLICABLE = GradeResult(None, 0.0, "not applicable")


def from_file(spec: str, seconds: float = SECONDS) -> Verifier:
    """Return the function `path/to/file.py:function` as a verifier that runs in worker processes.

    Without a function name it is `verify`. `seconds` limits one completion; loading the file does not count. All
    workers run the code that was read by this call. A grade with `correct` None has the failure as its reason:
    `timeout`, `crash`, `raised: ...` (the exception) or `unusable: ...` (the returned value).

    Errors: ConfigError if the file or the function is missing, cannot be loaded, or has none of the three signatures.
    """
    path, name = split_spec(spec)
    code = code_of(spec)
    worker = replace(WORKER, code=code.sha256)
    load_task, function_id = (code, name, spec), (code.module, name, spec)
    try:
        error_message = pool(worker).ask(load_task, START_SECONDS)
    except WorkerError as error:
        raise ConfigError(f"verifier {spec!r}: {path} cannot be loaded: {error}") from error
    if error_message:
        raise ConfigError(error_message)

    def verify(problem: Problem, text: str) -> GradeResult:
        try:
            return GradeResult(*pool(worker).ask((function_id, problem, text), seconds, before=load_task))
        except WorkerError as error:
            return GradeResult(None, 0.0, str(error))

    return verify


def split_spec(spec: str) -> tuple[str, str]:
    """Return the file and the function of `path/to/file.py:function`."""
    path, _, name = spec.rpartition(":") if not spec.endswith(".py") else (spec, "", "verify")
    return path, name


def code_of(spec: str) -> Code:
    """Return the code of `path/to/file.py:function`. Errors: ConfigError if the file cannot be read."""
    return python_files.read_named("verifier", spec, split_spec(spec)[0])


_codes: dict[str, Code] = {}  # in a worker: the code that it was sent, by module name


def handle(task: tuple[Any, ...]) -> Any:
    """In a worker: load a function and return an error message or "", or call it and return the grade's fields."""
    if isinstance(task[0], Code):
        code, name, spec = task
        _codes[code.module] = code
        try:
            _function(code.module, name, spec)
        except ConfigError as error:
            return str(error)
        return ""
    function_id, problem, text = task
    try:
        grade = _function(*function_id)(problem, text)
    except GraderError as error:
        grade = GradeResult(None, 0.0, f"unusable: {error}")
    except Exception as error:  # noqa: BLE001  # any exception of the user's code; the grade's reason names it
        grade = GradeResult(None, 0.0, f"raised: {type(error).__name__}: {error}")
    correct = None if grade.correct is None else bool(grade.correct)
    return [correct, float(grade.reward), str(grade.reason)[:MAX_REASON_CHARS], bool(grade.formatted)]


@cache
def _function(module_name: str, name: str, spec: str) -> Verifier:
    """Return a function of the user's file as a verifier. Errors: ConfigError."""
    code = _codes[module_name]
    return adapt(python_files.function_of(_load_module(code), name, "verifier", spec, code.path), spec)


def adapt(function: Callable[..., Any], name: str) -> Verifier:
    """Return a reward function as a verifier. Errors: ConfigError if its parameters fit none of the three forms.

    Example:
        adapt(lambda completions, **columns: [float(len(text) < 80) for text in completions], "short")
    """
    parameters = inspect.signature(function).parameters
    if inspect.iscoroutinefunction(function):
        function = _run_coroutine(function)
    if "completions" in parameters:
        return _from_trl(function, name, parameters)
    if "solution_str" in parameters:
        return _from_verl(function, name, parameters)
    return _from_plain(function, name, parameters)


def _run_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return call


def _from_plain(function: Callable[..., Any], name: str, parameters: Mapping[str, inspect.Parameter]) -> Verifier:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    positional_parameters = [parameter for parameter in parameters.values() if parameter.kind in positional][:2]
    remaining = [parameter for parameter in parameters.values() if parameter not in positional_parameters]
    required = [item for item in remaining if item.default is item.empty and item.kind not in variadic]
    if len(positional_parameters) < 2 or required:
        raise ConfigError(f"verifier {name!r} takes ({', '.join(map(str, parameters.values()))}): write it as {FORMS}")

    def verify(problem: Problem, text: str) -> GradeResult:
        value = function(problem, text)
        if isinstance(value, GradeResult):
            return _checked(value, name, problem)
        return _grade(value, name, problem)

    return verify


def _from_trl(function: Callable[..., Any], name: str, parameters: Mapping[str, inspect.Parameter]) -> Verifier:
    def verify(problem: Problem, text: str) -> GradeResult:
        is_chat = not isinstance(problem.prompt, str)
        arguments: dict[str, Any] = {key: [value] for key, value in _row_columns(problem).items()} | {
            "prompts": [problem.prompt],
            "completions": [[{"role": "assistant", "content": text}]] if is_chat else [text],
            "completion_ids": [[]],
            "trainer_state": None,
            "log_extra": _ignore,
            "log_metric": _ignore,
        }
        rewards = _plain(function(**_select_arguments(arguments, name, parameters, problem)))
        if not isinstance(rewards, list | tuple) or len(rewards) != 1:
            raise GraderError(f"verifier {name!r}, problem {problem.id}: {rewards!a:.80} is no list of one reward")
        return NOT_APPLICABLE if rewards[0] is None else _grade(rewards[0], name, problem)

    return verify


def _from_verl(function: Callable[..., Any], name: str, parameters: Mapping[str, inspect.Parameter]) -> Verifier:
    def verify(problem: Problem, text: str) -> GradeResult:
        reward_model = problem.meta.get("reward_model") or {}
        arguments = _row_columns(problem) | {
            "data_source": problem.meta.get("data_source", ""),
            "solution_str": text,
            "ground_truth": reward_model.get("ground_truth", problem.answer),
            "extra_info": problem.meta.get("extra_info"),
        }
        value = function(**_select_arguments(arguments, name, parameters, problem))
        return _grade(value.get("score") if isinstance(value, Mapping) else value, name, problem)

    return verify


def _row_columns(problem: Problem) -> dict[str, Any]:
    """Return the columns of the row for a reward function: all in `meta`, and the answer under each of its names."""
    answers = dict.fromkeys(("answer", "solution", "ground_truth"), problem.answer)
    return {"id": problem.id, "demonstration": problem.demonstration_text, **problem.meta, **answers}


def _select_arguments(
    available: Mapping[str, Any], name: str, parameters: Mapping[str, inspect.Parameter], problem: Problem
) -> dict[str, Any]:
    """Return the arguments that the function accepts; all available ones if it has **columns."""
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        arguments = dict(available)
    else:
        arguments = {key: value for key, value in available.items() if key in parameters}
    for key, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if not variadic and key not in arguments and parameter.default is parameter.empty:
            raise GraderError(
                f"verifier {name!r} asks for {key!r}, which problem {problem.id} does not have: "
                f"it has {', '.join(sorted(available))}"
            )
    return arguments


def _grade(value: Any, name: str, problem: Problem) -> GradeResult:
    reward = _number(value, name, problem)
    return GradeResult(reward >= 1.0, reward)


def _checked(grade: GradeResult, name: str, problem: Problem) -> GradeResult:
    """Return a user's GradeResult with plain Python values. Errors: GraderError for a field of another type."""
    correct, formatted = _plain(grade.correct), _plain(grade.formatted)
    if not isinstance(correct, bool | None) or not isinstance(formatted, bool):
        raise GraderError(
            f"verifier {name!r}, problem {problem.id}: correct={correct!a:.80}, formatted={formatted!a:.80}: they must "
            "be True or False (correct also None, for an answer that cannot be judged)"
        )
    reward = _number(grade.reward, name, problem)
    return replace(grade, correct=correct, reward=reward, formatted=formatted)


def _plain(value: Any) -> Any:
    """Return a NumPy or torch scalar or 1-D array as Python values; any other value unchanged."""
    if hasattr(value, "tolist") and getattr(value, "ndim", 2) <= 1:
        return value.tolist()
    return float(value) if isinstance(value, Decimal) else value


def _number(value: Any, name: str, problem: Problem) -> float:
    largest = sys.float_info.max
    value = _plain(value)
    if not isinstance(value, Real) or not -largest <= value <= largest:  # type: ignore[operator]  # NaN is not between
        raise GraderError(f"verifier {name!r}, problem {problem.id}: {value!a:.80} is no finite number")
    return float(value)


def _ignore(*_args: object, **_kwargs: object) -> None:
    """Replaces TRL's logging callbacks."""


def _load_module(code: Code) -> ModuleType:
    """Run the user's file and return it as a module. Errors: ConfigError."""
    try:
        return python_files.load(code)
    except Exception as error:  # any exception of the user's code; the message names it
        raise ConfigError(
            f"verifier file {code.path} cannot be loaded: {python_files.load_failure(error, code)}"
        ) from error
