"""A row of data, in any of the layouts that people already have, becomes a Problem. Nothing is guessed from contents.

The keys of a row decide its layout, null counting as absent: the first of these whose keys are all there.

    uft             prompt, reward_model, hint, answer
    verl            prompt, reward_model              LUFFY's `target` is the demonstration
    preference      chosen, rejected                  with a prompt, or after the messages that both share
    conversational  messages                          the last one is the demonstration
    own             prompt                            TRL's prompt-completion rows too
    gsm8k           question, answer                  the answer ends in `#### 72`
    problem         problem, with an answer or a solution; with both the solution is the demonstration

The answer may be called by any one of ANSWERS, the demonstration by any one of DEMONSTRATIONS, `id` and `verifier` may
stand in every layout, `tools` and `chat_template_kwargs` are for the chat template, and what is left is kept as `meta`.
A row that cannot be used comes back as a list of flaws.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from math import isfinite
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

from obverse import rewards
from obverse.data.messages import (
    UnusableError,
    as_answer,
    as_object,
    as_objects,
    as_prompt,
    as_response,
    as_steps,
    kind,
    split_last,
)
from obverse.rewards.answer_extraction import last_box
from obverse.types import Problem

ANSWERS = ("answer", "solution", "ground_truth")
DEMONSTRATIONS = ("demonstration", "completion", "target", "hint")
FOR_TEMPLATES = ("tools", "chat_template_kwargs")  # reward functions find them in meta as well
DEFAULT_VERIFIER = "math"
VERIFIER_BY_SOURCE = {"countdown": "countdown", "kk_logic": "knights"}  # by verl's data_source
MAX_DEPTH = 32  # lists and objects in each other

PACKINGS = (".gz", ".bz2", ".zst", ".zstd")  # ends of the names of packed files
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
GIVEN_ELSEWHERE = ("messages", "tools", "documents", "add_generation_prompt")  # no names in chat_template_kwargs

_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_T = TypeVar("_T")


class Place(NamedTuple):
    """Where a row stands: a file as the user wrote it and a line, or row, counted from 1."""

    file: str
    line: int


class Flaw(NamedTuple):
    """One thing that is wrong with a row; as text, a line of the report."""

    place: Place
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place.file}:{self.place.line}: {self.field}: {self.reason}"


def read_row(row: object, place: Place, verifier: str | None = None) -> Problem | list[Flaw]:
    """Return the problem that a row holds, or all that is wrong with it.

    A `verifier` given here judges the problem whatever the row says; only it may be a function of the user, and then
    the row needs no answer. Without an `id` the problem is called after its place: `train-17`.

    Example:
        read_row({"prompt": "2+2=", "answer": 4}, Place("sums.jsonl", 3))
        == Problem("sums-3", "2+2=", answer=4, verifier="math")
    """
    if not isinstance(row, dict):
        return [Flaw(place, "row", f"not an object but {kind(row)}")]
    row = {key: value for key, value in row.items() if value is not None}
    flaws = [Flaw(place, key, reason) for key, value in row.items() if (reason := _unusable(value))]
    if flaws:
        return flaws
    for keys, read in LAYOUTS.values():
        if keys <= row.keys():
            reading = Reading(row, place, verifier)
            read(reading)
            reading.set_template()
            return reading.problem()
    return [Flaw(place, "row", _no_layout(row))]


class Reading:
    """One row on its way to a problem: the fields found so far, the keys they came from, and the flaws."""

    def __init__(self, row: Mapping[str, Any], place: Place, verifier: str | None) -> None:
        self.row = row
        self.place = place
        self.verifier = verifier  # the one that overrides the row's
        self.default_verifier = DEFAULT_VERIFIER
        self.taken: set[str] = {"id", "verifier"}
        self.fields: dict[str, Any] = {}
        self.template: dict[str, Any] = {}  # what the chat template is given beside the prompt
        self.answer_key = ANSWERS[0]
        self.flaws: list[Flaw] = []

    def flaw(self, field: str, reason: str) -> None:
        self.flaws.append(Flaw(self.place, field, reason))

    def take(self, key: str, convert: Callable[[Any], _T]) -> _T | None:
        """Return the value of a key that is there, converted; None and a flaw if it cannot be."""
        self.taken.add(key)
        try:
            return convert(self.row[key])
        except UnusableError as error:
            self.flaw(key, str(error))
            return None

    def one_of(self, keys: tuple[str, ...]) -> str | None:
        """Return which of several names for one field the row uses."""
        given = [key for key in keys if key in self.row]
        for other in given[1:]:
            if self.row[other] == self.row[given[0]]:
                self.taken.add(other)
            else:
                self.flaw(other, f"means the same as {given[0]!r}, but they differ; keep one of them")
        return given[0] if given else None

    def set_answer(self) -> None:
        """Take the answer from whichever key holds it, if any does."""
        if key := self.one_of(ANSWERS):
            self.answer_key = key
            self.fields["answer"] = self.take(key, lambda value: value)

    def set_demonstration(self) -> None:
        """Take the demonstration from whichever key holds it, if any does."""
        if key := self.one_of(DEMONSTRATIONS):
            self.take_answer(key, "demonstration")

    def take_answer(self, key: str, field: str) -> None:
        """Take what the assistant said from a key; with it what its message has beside a text."""
        is_text = field != "demonstration" and not isinstance(self.row[key], list)
        answer = self.take(key, lambda value: ((as_response(value),), {}) if is_text else as_answer(value))
        if answer is not None:
            steps, beside = answer
            self.fields[field] = steps if field == "demonstration" else "".join(steps)
            self.template |= {field: beside} if beside else {}

    def set_template(self) -> None:
        """Take what the chat template is given; refuse what no model would see, and answers that are marked as bad."""
        for key in MEDIA:
            if self.row.get(key):
                self.flaw(key, "texts are all that is read; take the column out")
        if self.row.get("tools"):
            self.template["tools"] = self.take("tools", as_objects)
        if self.row.get("chat_template_kwargs"):
            variables = self.take("chat_template_kwargs", as_object) or {}
            if taken := [name for name in GIVEN_ELSEWHERE if name in variables]:
                self.flaw("chat_template_kwargs", f"{taken[0]} has a place of its own")
            self.template["chat_template_kwargs"] = variables
        self.template = {key: value for key, value in self.template.items() if value}
        label = self.row.get("label")
        is_bad = label is False or ("completion" in self.row and str(label).strip().lower() in ("false", "0", "0.0"))
        if is_bad and "demonstration" in self.fields:
            self.flaw("label", "false: what is marked as bad is no demonstration; take the row or its completion out")

    def problem(self) -> Problem | list[Flaw]:
        """Return the problem if nothing was wrong with the row, else its flaws."""
        name = self._verifier()
        needs_none = name is not None and all(map(_is_code, self._names(name)))
        if not self.flaws and not self.fields.keys() & {"answer", "demonstration", "chosen"} and not needs_none:
            self.flaw("row", f"nothing to check or to learn from beside the prompt; its keys are {_listed(self.row)}")
        meta = {key: value for key, value in self.row.items() if key not in self.taken or key in FOR_TEMPLATES}
        fields = {"id": self._id(), "prompt": "", "verifier": name, "meta": meta, "template": self.template}
        problem = Problem(**{**fields, **self.fields})
        for verifier_name in self._names(name) if "answer" in self.fields else ():
            if verifier_name in rewards.NAMES and (reason := rewards.reference_error(verifier_name, problem)):
                self.flaw(self.answer_key, reason)
        return self.flaws or problem

    def _names(self, name: str | None) -> list[str]:
        """The verifiers that judge this row: only one that is given as an option may stand for several."""
        if name is None or self.verifier is None:
            return [] if name is None else [name]
        return [verifier_name for verifier_name, _ in rewards.parse_verifiers(name)]

    def _id(self) -> str:
        given = self.row.get("id")
        if given is None:
            return f"{_stem(self.place.file)}-{self.place.line}"
        if isinstance(given, bool) or not isinstance(given, str | int) or not str(given).strip():
            self.flaw("id", "neither text nor a whole number" if given != "" else "empty")
        return str(given)

    def _verifier(self) -> str | None:
        """Which verifier judges this row: the user's, the row's own, or the layout's."""
        name = self.row.get("verifier") if self.verifier is None else self.verifier
        has_answer = "answer" in self.fields
        if name is None:
            if has_answer and self.default_verifier == "math" and isinstance(self.fields["answer"], dict | list):
                self.flaw("verifier", f"missing, and {self.answer_key!r} is {kind(self.fields['answer'])}; name one")
                return None
            return self.default_verifier if has_answer else None
        if not isinstance(name, str):
            self.flaw("verifier", f"not a name but {kind(name)}")
        elif self.verifier is None and ".py" in name:
            self.flaw("verifier", "a data file may not name code to run; give file.py:function as an option instead")
        elif unknown := [
            verifier_name
            for verifier_name in self._names(name)
            if not _is_code(verifier_name) and verifier_name not in rewards.NAMES
        ]:
            self.flaw("verifier", f"unknown name {unknown[0][:40]!a}: {rewards.suggest_name(unknown[0])}")
        elif not all(map(_is_code, self._names(name))) and not has_answer and not self.flaws:
            self.flaw(self.answer_key, f"missing, although the verifier {name!r} is named")
        return str(name)


def _own(reading: Reading) -> None:
    reading.fields["prompt"] = reading.take("prompt", as_prompt)
    reading.set_answer()
    reading.set_demonstration()


def _verl(reading: Reading) -> None:
    reading.fields["prompt"] = reading.take("prompt", as_prompt)
    _ground_truth(reading)
    reading.set_demonstration()


def _uft(reading: Reading) -> None:
    """The hints are the demonstration's first steps, where `answer` goes on after them; else `answer` is one step."""
    reading.fields["prompt"] = reading.take("prompt", as_prompt)
    _ground_truth(reading)
    hints, whole = reading.take("hint", as_steps), reading.take("answer", as_response)
    if hints is not None and whole is not None:
        head = "".join(hints)
        rest = (whole[len(head) :],) if len(whole) > len(head) else ()
        reading.fields["demonstration"] = (*hints, *rest) if whole.startswith(head) else (whole,)


def _ground_truth(reading: Reading) -> None:
    """Take verl's answer, and its verifier by `data_source`; `reward_model` stays in meta for the user's functions."""
    reading.answer_key = "reward_model.ground_truth"
    reward_model = reading.row["reward_model"]
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    if truth is None:
        reading.flaw(reading.answer_key, "missing")
    else:
        names_target = isinstance(truth, dict) and isinstance(truth.get("target"), str)
        reading.fields["answer"] = truth["target"] if names_target else truth
    source = reading.row.get("data_source")
    reading.default_verifier = VERIFIER_BY_SOURCE.get(source, "math") if isinstance(source, str) else "math"


def _conversational(reading: Reading) -> None:
    found = reading.take("messages", split_last)
    if found:
        reading.fields["prompt"], demonstration, beside = found
        reading.fields["demonstration"] = (demonstration,)
        reading.template |= {"demonstration": beside} if beside else {}
    if "problem" not in reading.row:
        reading.set_answer()
    elif "answer" in reading.row:  # its solution is a text, as in the layout `problem`
        reading.fields["answer"] = reading.take("answer", lambda value: value)
    for key in DEMONSTRATIONS:
        if key in reading.row:
            reading.flaw(key, "the last message is the demonstration already; keep one of them")


def _preference(reading: Reading) -> None:
    chosen, rejected = reading.row["chosen"], reading.row["rejected"]
    both = isinstance(chosen, list) and isinstance(rejected, list)
    if both and max(len(chosen), len(rejected)) > 1:
        _after_shared_messages(reading)
    else:
        if "prompt" in reading.row:
            reading.fields["prompt"] = reading.take("prompt", as_prompt)
        else:
            reading.flaw("prompt", "missing, and chosen and rejected share no messages")
        for key in ("chosen", "rejected"):
            reading.take_answer(key, key)
    reading.set_answer()
    reading.set_demonstration()


def _after_shared_messages(reading: Reading) -> None:
    """Whole conversations that differ in their last message: what they share is the prompt."""
    chosen, rejected = reading.take("chosen", split_last), reading.take("rejected", split_last)
    if chosen is None or rejected is None:
        return
    prompt, reading.fields["chosen"], better = chosen
    other, reading.fields["rejected"], worse = rejected
    reading.template |= {key: beside for key, beside in (("chosen", better), ("rejected", worse)) if beside}
    if other != prompt:
        reading.flaw("rejected", "differs from chosen before the last message")
    if "prompt" in reading.row:
        given = reading.take("prompt", as_prompt)
        if given is not None and given not in (prompt, prompt[-1]["content"]):
            reading.flaw("prompt", "differs from the messages that chosen and rejected share")
    reading.fields["prompt"] = prompt


def _problem(reading: Reading) -> None:
    """Competition rows: `answer` is the final one, `solution` the way to it; alone it ends in the answer in a box."""
    reading.fields["prompt"] = reading.take("problem", as_prompt)
    if "solution" not in reading.row:
        reading.fields["answer"] = reading.take("answer", lambda value: value)
        reading.set_demonstration()
        return
    for key in DEMONSTRATIONS:
        if key in reading.row:
            reading.flaw(key, "the solution is the demonstration already; keep one of them")
    solution = reading.take("solution", as_response)
    if solution is not None:
        reading.fields["demonstration"] = (solution,)
    if "answer" in reading.row:
        reading.fields["answer"] = reading.take("answer", lambda value: value)
    elif solution is not None and (boxed := last_box(solution)) is not None:
        reading.answer_key, reading.fields["answer"] = "solution", boxed


def _gsm8k(reading: Reading) -> None:
    reading.fields["prompt"] = reading.take("question", as_prompt)
    solution = reading.take("answer", as_response)
    if solution is not None:
        _, mark, answer = solution.rpartition("####")
        if not mark:
            reading.flaw("answer", "no '####' before a final answer; question and answer are read as GSM8K rows")
        reading.fields["answer"] = answer.strip()
        reading.fields["demonstration"] = tuple(_LINE.findall(solution))


LAYOUTS: dict[str, tuple[frozenset[str], Callable[[Reading], None]]] = {
    "uft": (frozenset({"prompt", "reward_model", "hint", "answer"}), _uft),
    "verl": (frozenset({"prompt", "reward_model"}), _verl),
    "preference": (frozenset({"chosen", "rejected"}), _preference),
    "conversational": (frozenset({"messages"}), _conversational),
    "own": (frozenset({"prompt"}), _own),
    "gsm8k": (frozenset({"question", "answer"}), _gsm8k),
    "problem": (frozenset({"problem", "answer"}), _problem),
    "solution": (frozenset({"problem", "solution"}), _problem),
}


def _no_layout(row: Mapping[str, Any]) -> str:
    def closeness(name: str) -> tuple[float, int]:
        keys = LAYOUTS[name][0]
        return len(keys & row.keys()) / len(keys), -len(keys - row.keys())

    near = max(LAYOUTS, key=closeness)
    lacking = _listed(LAYOUTS[near][0] - row.keys())
    return f"the keys {_listed(row)} fit no layout; the nearest, {near}, lacks {lacking}" if row else "no keys"


def _listed(keys: Mapping[str, Any] | frozenset[str]) -> str:
    text = ", ".join(sorted(keys))
    return ascii(text)[1:-1] if len(text) <= 200 else ascii(text[:200])[1:-1] + "..."


def _unusable(value: Any, depth: int = 0) -> str | None:
    """Why a value cannot be used wherever it stands: text that no file or tokenizer takes, or bottomless nesting."""
    if isinstance(value, str):
        if "\0" in value:
            return "holds a NUL character"
        return "holds a lone surrogate" if not value.isascii() and _SURROGATE.search(value) else None
    if isinstance(value, float) and not isfinite(value):
        return "holds a number that is not finite"
    if not isinstance(value, list | dict):
        return None
    if depth == MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} deep"
    parts = value if isinstance(value, list) else value.values()
    return next((reason for part in parts if (reason := _unusable(part, depth + 1))), None)


@cache
def _stem(file: str) -> str:
    return PurePath(next((file.removesuffix(end) for end in PACKINGS if file.endswith(end)), file)).stem


def _is_code(verifier: str) -> bool:
    return ".py" in verifier
