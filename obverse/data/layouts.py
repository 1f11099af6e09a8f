"""Conversion of rows of data to problems, for the common layouts of data sets. The contents are never guessed from.

The keys of a row determine its layout (null counts as absent): the first of these whose keys are all present.

    uft             prompt, reward_model, hint, answer
    verl            prompt, reward_model              LUFFY's `target` is the demonstration
    preference      chosen, rejected                  with a prompt, or after the messages that both share
    conversational  messages                          the last one is the demonstration
    own             prompt                            TRL's prompt-completion rows too
    gsm8k           question, answer                  the answer ends in `#### 72`
    problem         problem, with an answer or a solution; with both the solution is the demonstration

The answer may have any one of the names in ANSWERS, the demonstration any one in DEMONSTRATIONS. `id` and `verifier`
may be in every layout, `tools` and `chat_template_kwargs` are for the chat template, and all other keys become `meta`.
A row that cannot be used gives a list of flaws.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from math import isfinite
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

from obverse import rewards
from obverse.data.labels import read_label
from obverse.data.llama_factory_rows import with_messages
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
FOR_TEMPLATES = ("tools", "chat_template_kwargs")  # they are in `meta` too, for reward functions
DEFAULT_VERIFIER = "math"
VERIFIER_BY_SOURCE = {"countdown": "countdown", "kk_logic": "knights"}  # by verl's data_source
MAX_DEPTH = 32  # of nested lists and objects

PACKINGS = (".gz", ".bz2", ".zst", ".zstd")  # suffixes of compressed files
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
OTHER_FIELDS = (
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
)  # names that chat_template_kwargs must not have

_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_T = TypeVar("_T")


class RowLocation(NamedTuple):
    """The location of a row: the file as the user wrote it, and the line or row number, from 1."""

    file: str
    line: int


class Flaw(NamedTuple):
    """An error in a row; `str()` gives a line of the report."""

    location: RowLocation
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.location.file}:{self.location.line}: {self.field}: {self.reason}"


def read_row(row: object, location: RowLocation, verifier: str | None = None) -> Problem | list[Flaw]:
    """Return the problem of a row, or all its flaws.

    `verifier` overrides the row's own; only this one may be a user's function, and then the row needs no answer.
    Without an `id` the problem is named after its location: `train-17`.

    Example:
        read_row({"prompt": "2+2=", "answer": 4}, Place("sums.jsonl", 3))
        == Problem("sums-3", "2+2=", answer=4, verifier="math")
    """
    if not isinstance(row, dict):
        return [Flaw(location, "row", f"not an object but {kind(row)}")]
    row = with_messages({key: value for key, value in row.items() if value is not None})
    flaws = [Flaw(location, key, reason) for key, value in row.items() if (reason := _unusable(value))]
    if flaws:
        return flaws
    for required_keys, read in LAYOUTS.values():
        if required_keys <= row.keys():
            reader = RowReader(row, location, verifier)
            read(reader)
            reader.set_template()
            return reader.problem()
    return [Flaw(location, "row", _no_layout(row))]


class RowReader:
    """Reads one row: collects the fields of its problem, the keys that were used, and the flaws."""

    def __init__(self, row: Mapping[str, Any], location: RowLocation, verifier: str | None) -> None:
        self.row = row
        self.location = location
        self.verifier = verifier  # overrides the row's
        self.default_verifier = DEFAULT_VERIFIER
        self.used_keys: set[str] = {"id", "verifier"}
        self.fields: dict[str, Any] = {}
        self.template: dict[str, Any] = {}  # inputs of the chat template besides the prompt
        self.answer_key = ANSWERS[0]
        self.flaws: list[Flaw] = []

    def flaw(self, field: str, reason: str) -> None:
        self.flaws.append(Flaw(self.location, field, reason))

    def take(self, key: str, convert: Callable[[Any], _T]) -> _T | None:
        """Return the converted value of a present key; None, with a flaw, if it cannot be converted."""
        self.used_keys.add(key)
        try:
            return convert(self.row[key])
        except UnusableError as error:
            self.flaw(key, str(error))
            return None

    def one_of(self, keys: tuple[str, ...]) -> str | None:
        """Return the name that the row uses for a field with several names, None without the field."""
        present_keys = [key for key in keys if key in self.row]
        for synonym in present_keys[1:]:
            if self.row[synonym] == self.row[present_keys[0]]:
                self.used_keys.add(synonym)
            else:
                self.flaw(synonym, f"means the same as {present_keys[0]!r}, but they differ; keep one of them")
        return present_keys[0] if present_keys else None

    def set_answer(self) -> None:
        """Read the reference answer, if the row has one of its keys."""
        if key := self.one_of(ANSWERS):
            self.answer_key = key
            self.fields["answer"] = self.take(key, lambda value: value)

    def set_demonstration(self) -> None:
        """Read the demonstration, if the row has one of its keys."""
        if key := self.one_of(DEMONSTRATIONS):
            self.take_answer(key, "demonstration")

    def take_answer(self, key: str, field: str) -> None:
        """Read an assistant's response from a key, and the other keys of its message."""
        is_text = field != "demonstration" and not isinstance(self.row[key], list)
        answer = self.take(key, lambda value: ((as_response(value),), {}) if is_text else as_answer(value))
        if answer is not None:
            steps, extra = answer
            self.fields[field] = steps if field == "demonstration" else "".join(steps)
            self.template |= {field: extra} if extra else {}

    def set_template(self) -> None:
        """Read the inputs of the chat template; reject media; read the label of a single response."""
        for key in MEDIA:
            if self.row.get(key):
                self.flaw(key, "texts are all that is read; take the column out")
        if self.row.get("tools"):
            self.template["tools"] = self.take("tools", as_objects)
        if self.row.get("chat_template_kwargs"):
            variables = self.take("chat_template_kwargs", as_object) or {}
            if reserved := [name for name in OTHER_FIELDS if name in variables]:
                self.flaw("chat_template_kwargs", f"{reserved[0]} has a place of its own")
            self.template["chat_template_kwargs"] = variables
        self.template = {key: value for key, value in self.template.items() if value}
        if reason := read_label(self.row, self.fields, self.template):
            self.flaw("label", reason)

    def problem(self) -> Problem | list[Flaw]:
        """Return the problem, or the flaws if there are any."""
        name = self._verifier()
        needs_none = name is not None and all(map(_is_code, self._names(name)))
        if (
            not self.flaws
            and not self.fields.keys() & {"answer", "demonstration", "chosen", "rejected"}
            and not needs_none
        ):
            self.flaw("row", f"nothing to check or to learn from beside the prompt; its keys are {_listed(self.row)}")
        meta = {key: value for key, value in self.row.items() if key not in self.used_keys or key in FOR_TEMPLATES}
        fields = {"id": self._id(), "prompt": "", "verifier": name, "meta": meta, "template": self.template}
        problem = Problem(**{**fields, **self.fields})
        for verifier_name in self._names(name) if "answer" in self.fields else ():
            if verifier_name in rewards.NAMES and (reason := rewards.reference_error(verifier_name, problem)):
                self.flaw(self.answer_key, reason)
        return self.flaws or problem

    def _names(self, name: str | None) -> list[str]:
        """Return the names of the row's verifiers; only an option may combine several."""
        if name is None or self.verifier is None:
            return [] if name is None else [name]
        return [verifier_name for verifier_name, _ in rewards.parse_verifiers(name)]

    def _id(self) -> str:
        row_id = self.row.get("id")
        if row_id is None:
            return f"{_stem(self.location.file)}-{self.location.line}"
        if isinstance(row_id, bool) or not isinstance(row_id, str | int) or not str(row_id).strip():
            self.flaw("id", "neither text nor a whole number" if row_id != "" else "empty")
        return str(row_id)

    def _verifier(self) -> str | None:
        """Return the row's verifier: the option's, the row's own, or the layout's default."""
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


def _read_prompt_row(reader: RowReader) -> None:
    reader.fields["prompt"] = reader.take("prompt", as_prompt)
    reader.set_answer()
    reader.set_demonstration()


def _read_verl(reader: RowReader) -> None:
    reader.fields["prompt"] = reader.take("prompt", as_prompt)
    _ground_truth(reader)
    reader.set_demonstration()


def _read_uft(reader: RowReader) -> None:
    """The hints are the first steps of the demonstration if `answer` starts with them; else `answer` is one step."""
    reader.fields["prompt"] = reader.take("prompt", as_prompt)
    _ground_truth(reader)
    hints, response = reader.take("hint", as_steps), reader.take("answer", as_response)
    if hints is not None and response is not None:
        hint_text = "".join(hints)
        last_step = (response[len(hint_text) :],) if len(response) > len(hint_text) else ()
        reader.fields["demonstration"] = (*hints, *last_step) if response.startswith(hint_text) else (response,)


def _ground_truth(reader: RowReader) -> None:
    """Read verl's answer and the verifier of its `data_source`; `reward_model` stays in `meta` for users' functions."""
    reader.answer_key = "reward_model.ground_truth"
    reward_model = reader.row["reward_model"]
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    if truth is None:
        reader.flaw(reader.answer_key, "missing")
    else:
        names_target = isinstance(truth, dict) and isinstance(truth.get("target"), str)
        reader.fields["answer"] = truth["target"] if names_target else truth
    source = reader.row.get("data_source")
    reader.default_verifier = VERIFIER_BY_SOURCE.get(source, "math") if isinstance(source, str) else "math"


def _read_conversational(reader: RowReader) -> None:
    conversation = reader.take("messages", split_last)
    if conversation:
        reader.fields["prompt"], demonstration, extra = conversation
        reader.fields["demonstration"] = (demonstration,)
        reader.template |= {"demonstration": extra} if extra else {}
    if "problem" not in reader.row:
        reader.set_answer()
    elif "answer" in reader.row:  # `solution` is not the answer, as in the layout `problem`
        reader.fields["answer"] = reader.take("answer", lambda value: value)
    for key in DEMONSTRATIONS:
        if key in reader.row:
            reader.flaw(key, "the last message is the demonstration already; keep one of them")


def _read_preference(reader: RowReader) -> None:
    chosen, rejected = reader.row["chosen"], reader.row["rejected"]
    are_messages = isinstance(chosen, list) and isinstance(rejected, list)
    if are_messages and max(len(chosen), len(rejected)) > 1:
        _read_conversation_pair(reader)
    else:
        if "prompt" in reader.row:
            reader.fields["prompt"] = reader.take("prompt", as_prompt)
        else:
            reader.flaw("prompt", "missing, and chosen and rejected share no messages")
        for key in ("chosen", "rejected"):
            reader.take_answer(key, key)
    reader.set_answer()
    reader.set_demonstration()


def _read_conversation_pair(reader: RowReader) -> None:
    """Read two conversations that differ in their last message: the shared messages are the prompt."""
    chosen, rejected = reader.take("chosen", split_last), reader.take("rejected", split_last)
    if chosen is None or rejected is None:
        return
    prompt, reader.fields["chosen"], chosen_extra = chosen
    rejected_prompt, reader.fields["rejected"], rejected_extra = rejected
    reader.template |= {key: extra for key, extra in (("chosen", chosen_extra), ("rejected", rejected_extra)) if extra}
    if rejected_prompt != prompt:
        reader.flaw("rejected", "differs from chosen before the last message")
    if "prompt" in reader.row:
        row_prompt = reader.take("prompt", as_prompt)
        if row_prompt is not None and row_prompt not in (prompt, prompt[-1]["content"]):
            reader.flaw("prompt", "differs from the messages that chosen and rejected share")
    reader.fields["prompt"] = prompt


def _read_problem(reader: RowReader) -> None:
    """Read a competition row: `answer` is the final answer, `solution` the demonstration, which may end with a box."""
    reader.fields["prompt"] = reader.take("problem", as_prompt)
    if "solution" not in reader.row:
        reader.fields["answer"] = reader.take("answer", lambda value: value)
        reader.set_demonstration()
        return
    for key in DEMONSTRATIONS:
        if key in reader.row:
            reader.flaw(key, "the solution is the demonstration already; keep one of them")
    solution = reader.take("solution", as_response)
    if solution is not None:
        reader.fields["demonstration"] = (solution,)
    if "answer" in reader.row:
        reader.fields["answer"] = reader.take("answer", lambda value: value)
    elif solution is not None and (boxed := last_box(solution)) is not None:
        reader.answer_key, reader.fields["answer"] = "solution", boxed


def _read_gsm8k(reader: RowReader) -> None:
    reader.fields["prompt"] = reader.take("question", as_prompt)
    solution = reader.take("answer", as_response)
    if solution is not None:
        _, mark, answer = solution.rpartition("####")
        if not mark:
            reader.flaw("answer", "no '####' before a final answer; question and answer are read as GSM8K rows")
        reader.fields["answer"] = answer.strip()
        reader.fields["demonstration"] = tuple(_LINE.findall(solution))


LAYOUTS: dict[str, tuple[frozenset[str], Callable[[RowReader], None]]] = {
    "uft": (frozenset({"prompt", "reward_model", "hint", "answer"}), _read_uft),
    "verl": (frozenset({"prompt", "reward_model"}), _read_verl),
    "preference": (frozenset({"chosen", "rejected"}), _read_preference),
    "conversational": (frozenset({"messages"}), _read_conversational),
    "own": (frozenset({"prompt"}), _read_prompt_row),
    "gsm8k": (frozenset({"question", "answer"}), _read_gsm8k),
    "problem": (frozenset({"problem", "answer"}), _read_problem),
    "solution": (frozenset({"problem", "solution"}), _read_problem),
}


def _no_layout(row: Mapping[str, Any]) -> str:
    def closeness(name: str) -> tuple[float, int]:
        keys = LAYOUTS[name][0]
        return len(keys & row.keys()) / len(keys), -len(keys - row.keys())

    nearest = max(LAYOUTS, key=closeness)
    missing = _listed(LAYOUTS[nearest][0] - row.keys())
    return f"the keys {_listed(row)} fit no layout; the nearest, {nearest}, lacks {missing}" if row else "no keys"


def _listed(keys: Mapping[str, Any] | frozenset[str]) -> str:
    text = ", ".join(sorted(keys))
    return ascii(text)[1:-1] if len(text) <= 200 else ascii(text[:200])[1:-1] + "..."


def _unusable(value: Any, depth: int = 0) -> str | None:
    """Return why a value cannot be used in any field: invalid text, a number that is not finite, deep nesting."""
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
