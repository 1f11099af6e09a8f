"""A reward function of the user, as a verifier: `path/to/file.py:function`, adapted by the names of its parameters.

- `completions` among them (TRL): `fn(prompts, completions, completion_ids, **columns) -> list[float | None]`, called
  with one completion at a time; a column is a list of one value, a conversational prompt makes the completion a message
  list, and `completion_ids` is `[[]]`, since graders see text only;
- `solution_str` among them (verl): `compute_score(data_source, solution_str, ground_truth, extra_info=None)`, which
  returns a number or {"score": number};
- otherwise two parameters: `fn(problem, text)`, which returns a number, a bool or a Verdict.

Each may be `async`. A reward of 1.0 or more counts as correct. The file is loaded and called in a worker process with a
deadline: what hangs, ends the process, raises or returns no reward is an error with its reason, never a 0.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import cache, wraps
from numbers import Real
from types import ModuleType
from typing import Any

from obverse import python_files as user_code
from obverse.errors import ConfigError, GraderError
from obverse.python_files import Code
from obverse.rewards import worker_pool as workers
from obverse.types import GradeResult, Problem

SECONDS = 10.0  # for one completion, if nobody says otherwise
WORKER = workers.Kind("obverse.rewards.python_file")
MAX_REASON_CHARS = 200

Verifier = Callable[[Problem, str], GradeResult]

FORMS = (
    "fn(prompts, completions, completion_ids, **columns), "
    "compute_score(data_source, solution_str, ground_truth, extra_info=None) or fn(problem, text)"
)
NOT_APPLICABLE = GradeResult(None, 0.0, "not applicable")


def from_file(spec: str, seconds: float = SECONDS) -> Verifier:
    """Return the function `path/to/file.py:function` as a verifier that runs in workers; `verify` if none is named.

    `seconds` is what one completion may take; loading the file does not count. Every worker, a replaced one too, runs
    the text that was read here. A verdict without `correct` says why in its reason: `timeout`, `crash`, `raised: ...`
    (which exception) or `unusable: ...` (what was returned).

    Errors: ConfigError if the file or the function is missing, cannot be loaded, or has none of the three signatures.
    """
    path, name = parted(spec)
    code = code_of(spec)
    kind = replace(WORKER, code=code.sha256)
    load, source = (code, name, spec), (code.module, name, spec)
    try:
        flaw = workers.pool(kind).ask(load, workers.START_SECONDS)
    except workers.WorkerError as error:
        raise ConfigError(f"verifier {spec!r}: {path} cannot be loaded: {error}") from error
    if flaw:
        raise ConfigError(flaw)

    def verify(problem: Problem, text: str) -> GradeResult:
        try:
            return GradeResult(*workers.pool(kind).ask((source, problem, text), seconds, before=load))
        except workers.WorkerError as error:
            return GradeResult(None, 0.0, str(error))

    return verify


def parted(spec: str) -> tuple[str, str]:
    """The file and the function that `path/to/file.py:function` names."""
    path, _, name = spec.rpartition(":") if not spec.endswith(".py") else (spec, "", "verify")
    return path, name


def code_of(spec: str) -> Code:
    """The code behind `path/to/file.py:function`, as `user_code.read` has it. Errors: ConfigError without the file."""
    path, _ = parted(spec)
    try:
        return user_code.read(path)
    except FileNotFoundError:
        raise ConfigError(f"verifier {spec!r}: there is no file {path!r}; write path/to/file.py:function") from None
    except OSError as error:
        raise ConfigError(f"verifier {spec!r}: {path} cannot be read: {error.strerror}") from None


_codes: dict[str, Code] = {}  # in a worker: what it was given to run, by module name


def handle(task: tuple[Any, ...]) -> Any:
    """In a worker: load a function and return why it cannot be (or ""), or call it and return the verdict's fields."""
    if isinstance(task[0], Code):
        code, name, spec = task
        _codes[code.module] = code
        try:
            _function(code.module, name, spec)
        except ConfigError as error:
            return str(error)
        return ""
    source, problem, text = task
    try:
        found = _function(*source)(problem, text)
    except GraderError as error:
        found = GradeResult(None, 0.0, f"unusable: {error}")
    except Exception as error:  # noqa: BLE001  # the user's own, whatever it is: the verdict names it
        found = GradeResult(None, 0.0, f"raised: {type(error).__name__}: {error}")
    correct = None if found.correct is None else bool(found.correct)
    return [correct, float(found.reward), str(found.reason)[:MAX_REASON_CHARS], bool(found.formatted)]


@cache
def _function(module_name: str, name: str, spec: str) -> Verifier:
    """A function of the user's file, adapted. Errors: ConfigError."""
    code = _codes[module_name]
    module = _module(code)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        near = difflib.get_close_matches(name, functions, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(functions) or 'no functions'}"
        raise ConfigError(f"verifier {spec!r}: {code.path} has no function {name!r}: {hint}")
    return adapt(function, spec)


def adapt(function: Callable[..., Any], name: str) -> Verifier:
    """Return a reward function as a verifier, by the names of its parameters. Errors: ConfigError if they do not fit.

    Example:
        adapt(lambda completions, **columns: [float(len(text) < 80) for text in completions], "short")
    """
    parameters = inspect.signature(function).parameters
    if inspect.iscoroutinefunction(function):
        function = _awaited(function)
    if "completions" in parameters:
        return _from_trl(function, name, parameters)
    if "solution_str" in parameters:
        return _from_verl(function, name, parameters)
    return _from_plain(function, name, parameters)


def _awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        return asyncio.run(function(*args, **named))

    return call


def _from_plain(function: Callable[..., Any], name: str, parameters: Mapping[str, inspect.Parameter]) -> Verifier:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    given = [parameter for parameter in parameters.values() if parameter.kind in positional][:2]
    others = [parameter for parameter in parameters.values() if parameter not in given]
    if len(given) < 2 or any(other.default is other.empty and other.kind not in variadic for other in others):
        raise ConfigError(f"verifier {name!r} takes ({', '.join(map(str, parameters.values()))}): write it as {FORMS}")

    def verify(problem: Problem, text: str) -> GradeResult:
        value = function(problem, text)
        if isinstance(value, GradeResult):
            return _checked(value, name, problem)
        return _verdict(value, name, problem)

    return verify


def _from_trl(function: Callable[..., Any], name: str, parameters: Mapping[str, inspect.Parameter]) -> Verifier:
    def verify(problem: Problem, text: str) -> GradeResult:
        is_chat = not isinstance(problem.prompt, str)
        given: dict[str, Any] = {key: [value] for key, value in _columns(problem).items()} | {
            "prompts": [problem.prompt],
            "completions": [[{"role": "assistant", "content": text}]] if is_chat else [text],
            "completion_ids": [[]],
            "trainer_state": None,
            "log_extra": _ignore,
            "log_metric": _ignore,
        }
        rewards = _plain(function(**_chosen(given, name, parameters, problem)))
        if not isinstance(rewards, list | tuple) or len(rewards) != 1:
            raise GraderError(f"verifier {name!r}, problem {problem.id}: {rewards!a:.80} is no list of one reward")
        return NOT_APPLICABLE if rewards[0] is None else _verdict(rewards[0], name, problem)

    return verify


def _from_verl(function: Callable[..., Any], name: str, parameters: Mapping[str, inspect.Parameter]) -> Verifier:
    def verify(problem: Problem, text: str) -> GradeResult:
        reward_model = problem.meta.get("reward_model") or {}
        given = _columns(problem) | {
            "data_source": problem.meta.get("data_source", ""),
            "solution_str": text,
            "ground_truth": reward_model.get("ground_truth", problem.answer),
            "extra_info": problem.meta.get("extra_info"),
        }
        value = function(**_chosen(given, name, parameters, problem))
        return _verdict(value.get("score") if isinstance(value, Mapping) else value, name, problem)

    return verify


def _columns(problem: Problem) -> dict[str, Any]:
    """The row as a reward function may ask for it: what it had beyond our fields, and its answer under every name."""
    answers = dict.fromkeys(("answer", "solution", "ground_truth"), problem.answer)
    return {"id": problem.id, "demonstration": problem.demonstration_text, **problem.meta, **answers}


def _chosen(
    given: Mapping[str, Any], name: str, parameters: Mapping[str, inspect.Parameter], problem: Problem
) -> dict[str, Any]:
    """The arguments that the function takes; everything if it has **columns."""
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        chosen = dict(given)
    else:
        chosen = {key: value for key, value in given.items() if key in parameters}
    for key, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if not variadic and key not in chosen and parameter.default is parameter.empty:
            raise GraderError(
                f"verifier {name!r} asks for {key!r}, which problem {problem.id} does not have: "
                f"it has {', '.join(sorted(given))}"
            )
    return chosen


def _verdict(value: Any, name: str, problem: Problem) -> GradeResult:
    reward = _number(value, name, problem)
    return GradeResult(reward >= 1.0, reward)


def _checked(grade: GradeResult, name: str, problem: Problem) -> GradeResult:
    """A verdict of the user with plain Python values. Errors: GraderError for a field of another type."""
    correct, formatted = _plain(grade.correct), _plain(grade.formatted)
    if not isinstance(correct, bool | None) or not isinstance(formatted, bool):
        raise GraderError(
            f"verifier {name!r}, problem {problem.id}: correct={correct!a:.80}, formatted={formatted!a:.80}: they must "
            "be True or False (correct also None, for an answer that cannot be judged)"
        )
    reward = _number(grade.reward, name, problem)
    return replace(grade, correct=correct, reward=reward, formatted=formatted)


def _plain(value: Any) -> Any:
    """A NumPy or torch scalar, or array of one value or one dimension, as Python has it; all else as it is."""
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
    """Stands for TRL's logging callbacks."""


def _module(code: Code) -> ModuleType:
    """The user's file, run once. Errors: ConfigError."""
    try:
        return user_code.load(code)
    except Exception as error:  # the user's own, whatever it is: the message names it
        raise ConfigError(f"verifier file {code.path} cannot be loaded: {user_code.reason(error, code)}") from error
