"""Problems become token ids, and ids become the text that graders read. Works on a tokenizer it is given; no torch.

Prompt and response are tokenized apart, so a demonstration and a rollout follow the very same prompt ids, and what is
trained is known by its place: no mask is ever guessed from ids, and pad == eos cannot hurt.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from obverse.errors import ConfigError, DataError
from obverse.records import Message, Problem
from obverse.user_code import read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNKNOWN = "\ufffd"  # how an id reads that the tokenizer has no token for
PROBE = "Forty-two."  # stands for a message when a template is asked how it writes one
THINK = "<think>"
# Llama 3's templates print a date: today's, unless they are given one. This is the one that they fall back to
# themselves; a run that is resumed tomorrow must see the same prompts.
FIXED_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class Rendered:
    """A response as it is trained: its ids, where its steps end, and the text that a verifier reads.

    Example (steps "2+2=4" and "\\n#### 4", one id per character): `ids[:step_ends[0]]` is "2+2=4",
    `ids[:step_ends[1]]` is all but the stop token, `ids[-1]` is the stop token, `text` is "2+2=4\\n#### 4".
    """

    ids: list[int]  # [n], the stop token included
    step_ends: list[int]  # [number of steps], rising: the first token that starts at or after the step's end
    text: str


@dataclass(frozen=True)
class Layout:
    """How a prompt is written: by a Jinja chat template, or by a text with `{prompt}` in it."""

    name: str
    jinja: str | None = None
    form: str = "{prompt}"


class Renderer:
    """Prompts, demonstrations and sampled ids of one tokenizer under one chat template.

    `chat_template` is "auto" (the tokenizer's own template if it has one), "none", a text such as
    "Question: {prompt}\\nAnswer:", a path to a .jinja file, or a Layout. `eos_ids` are those of the model's generation
    config. With a chat template nothing is added to what it writes: BOS stands there if and only if it says so, as in
    every serving engine. Without one, BOS comes first if and only if the tokenizer puts it there by itself.

    Errors: ConfigError for a template that cannot be read, does not fit the messages, or leaves no stop token.

    Example:
        renderer = Renderer(tokenizer)
        prompt, answer = renderer.prompt_ids(problem), renderer.demonstration(problem).ids
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | Layout = "auto",
        system_prompt: str | None = None,
        eos_ids: int | Iterable[int] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.layout = choose_layout(tokenizer, chat_template) if isinstance(chat_template, str) else chat_template
        self._opening = opening_ids(tokenizer)
        self._anchor = "\n" if writes_leading_space(tokenizer) else ""
        self._anchor_ids = self._encode(self._anchor)
        self._takes_system = self.layout.jinja is None or self._keeps_system_messages()
        eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        eos += [eos_ids] if isinstance(eos_ids, int) else [] if eos_ids is None else list(eos_ids)
        gap, token = self._turn_end()
        if token is None and not eos:
            raise ConfigError(
                "the tokenizer names no eos token and no template ends a turn: nothing could stop an answer"
            )
        self.stop_id: int = tokenizer.convert_tokens_to_ids(token) if token is not None else eos[0]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([self.stop_id, *eos]))
        self._gap = gap  # what the template writes between an answer and its stop token
        self._ending = gap + (token or "")
        self._trailing = frozenset(self.stop_ids) | named_specials(tokenizer)

    @property
    def template_name(self) -> str:
        return self.layout.name

    def record(self) -> dict[str, Any]:
        """The template and system prompt in full, for whoever asks later how the model was spoken to."""
        return {**asdict(self.layout), "system_prompt": self.system_prompt}

    @property
    def pad_id(self) -> int:
        """A filler for padded batches; its value never matters, because masks go by position."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def describe(self) -> str:
        """One line for the start banner."""
        start = self.prompt_ids(Problem("probe", PROBE))
        bos = self.tokenizer.bos_token_id
        begins = "BOS once" if bos is not None and start[:1] == [bos] else "no BOS"
        stop = self.tokenizer.convert_ids_to_tokens(self.stop_id)
        folded = "" if self._takes_system else ", system text goes into the first user message"
        return f"{self.template_name}, {begins}, answers end with {stop}{folded}"

    def prompt_text(self, problem: Problem) -> str:
        """What the model is asked, up to where its answer begins."""
        messages = self._messages(problem)
        if self.layout.jinja is None:
            return self.layout.form.replace("{prompt}", "\n\n".join(message["content"] for message in messages))
        if messages[-1]["role"] == "assistant":
            raise ConfigError(
                f"problem {problem.id}: the prompt ends with an assistant message; end it with the user's"
            )
        return self._render(messages, where=f"problem {problem.id}", answer_next=True)

    def prompt_ids(self, problem: Problem) -> list[int]:
        """The prompt's token ids, the same for rollouts and demonstrations."""
        ids = self._encode(self.prompt_text(problem))
        if self.layout.jinja is not None or ids[: len(self._opening)] == self._opening:
            return ids
        return self._opening + ids

    def demonstration(self, problem: Problem) -> Rendered:
        """The problem's demonstration as the assistant's answer, stop token included."""
        if not problem.demonstration:
            raise DataError(f"problem {problem.id} has no demonstration")
        return self.response(problem, problem.demonstration)

    def response(self, problem: Problem, steps: Sequence[str]) -> Rendered:
        """Any text, given in steps, as the assistant's answer; the first k steps are `ids[:step_ends[k-1]]`.

        What the template writes around an answer is trained as well. Where the template would rewrite the prompt or the
        answer's own words (think blocks, usually), the answer stands as it is, followed by the stop token.
        """
        text = "".join(steps)
        prompt = self.prompt_text(problem)
        first, last = self._new_part(text, prompt)
        before, words = self._turn(problem, prompt, text[first:last])
        first += text[first:last].find(words)
        ids, starts = self._continuation(before + words + self._gap)
        places = [len(before) + min(max(end - first, 0), len(words)) for end in accumulate(map(len, steps))]
        ids.append(self.stop_id)
        return Rendered(ids, [bisect_left(starts, place) for place in places], self.decode(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response for graders: stop tokens at its end are gone, everything else survives.

        Special tokens inside are kept as text, since `<think>` or `</answer>` may be one.
        """
        end = len(ids)
        while end and ids[end - 1] in self._trailing:
            end -= 1
        return self._decode(ids[:end])

    def show(self, problem: Problem) -> list[tuple[str, int, str]]:
        """(token text, id, "prompt" or "demonstration") of everything that the model would see of `problem`."""
        parts = {"prompt": self.prompt_ids(problem)}
        if problem.demonstration:
            parts["demonstration"] = self.demonstration(problem).ids
        return [(self._decode([token]), token, name) for name, ids in parts.items() for token in ids]

    # How templates write

    def _messages(self, problem: Problem) -> list[Message]:
        """The prompt as messages, with the system prompt where the problem has none of its own."""
        prompt = problem.prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if not messages:
            raise ConfigError(f"problem {problem.id}: the prompt has no messages")
        if self.system_prompt and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        if not self._takes_system and messages[0]["role"] == "system" and len(messages) > 1:
            system, user = messages[:2]
            messages[:2] = [{**user, "content": f"{system['content']}\n\n{user['content']}"}]
        return messages

    def _render(self, messages: list[Message], *, where: str, answer_next: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self.layout.jinja,
                    add_generation_prompt=answer_next,
                    tokenize=False,
                    date_string=FIXED_DATE,
                )
            )
        except (TemplateError, TypeError, ValueError) as error:  # whatever a user's template may raise
            raise ConfigError(
                f"{where}: the chat template ({self.template_name}) refuses its messages: {error}"
            ) from error

    def _keeps_system_messages(self) -> bool:
        messages = [{"role": "system", "content": PROBE}, {"role": "user", "content": "?"}]
        try:
            return PROBE in self._render(messages, where="probe", answer_next=True)
        except ConfigError:
            return False

    def _turn_end(self) -> tuple[str, str | None]:
        """What the template writes after an answer: the text before its first control token, and that token.

        Without a template, or where it writes no control token, the token is None: eos ends the answer.
        """
        if self.layout.jinja is None:
            return "", None
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
        _, found, after = self._render(messages, where="probe", answer_next=False).rpartition(PROBE)
        if not found:
            raise ConfigError(f"the chat template ({self.template_name}) does not write the assistant's messages")
        tokens = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.content.strip()]
        places = [(after.find(token), -len(token), token) for token in tokens if token in after]
        if not places:
            return after.rstrip(), None
        place, _, token = min(places)
        return after[:place], token

    def _new_part(self, text: str, prompt: str) -> tuple[int, int]:
        """The span of `text` that is still to write: no second `<think>`, no stop token that the data spell out."""
        first, last = 0, len(text)
        asked = prompt.rstrip()
        if asked.endswith(THINK) and text.lstrip().startswith(THINK):
            first = text.index(THINK) + len(THINK)
            blank = prompt[len(asked) :]
            first += len(blank) if text.startswith(blank, first) else 0
        stop = self._decode([self.stop_id])
        if stop and text.rstrip().endswith(stop):
            last = max(first, len(text.rstrip()) - len(stop))
        return first, last

    def _turn(self, problem: Problem, prompt: str, text: str) -> tuple[str, str]:
        """What the template writes before the answer's words, and the words as it writes them (it may trim them)."""
        if self.layout.jinja is None:
            return "", text
        messages = [*self._messages(problem), {"role": "assistant", "content": text}]
        whole = self._render(messages, where=f"problem {problem.id}", answer_next=False)
        if whole.startswith(prompt):
            turn = whole[len(prompt) :]
            for words in (text, text.lstrip(), text.strip()):
                place = turn.rfind(words + self._ending)
                if place >= 0:
                    return turn[:place], words
        return "", text

    # Text and ids

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _coded(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a text and the character at which each of them starts; [n] each."""
        if not self.tokenizer.is_fast:  # gives no offsets: a token starts where the text of those before it ends
            ids = self._encode(text)
            return ids, [len(self.tokenizer.decode(ids[:n], skip_special_tokens=False)) for n in range(len(ids))]
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(coded["input_ids"]), [start for start, _ in coded["offset_mapping"]]

    def _continuation(self, text: str) -> tuple[list[int], list[int]]:
        """The same for a text that continues a prompt: its first word gets no space that it would not get there."""
        skip = len(self._anchor_ids)
        ids, starts = self._coded(self._anchor + text)
        if ids[:skip] == self._anchor_ids:
            return ids[skip:], [start - len(self._anchor) for start in starts[skip:]]
        return self._coded(text)

    @cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(self.tokenizer.get_vocab().values())

    def _decode(self, ids: Sequence[int]) -> str:
        """Every id as text, as it reads behind a prompt; an id without a token (a padded vocabulary's) as U+FFFD.

        Left out it would join what stands around it, and "4?2" would be graded as 42.
        """
        if not self._known.issuperset(ids):
            runs = groupby(ids, self._known.__contains__)
            return "".join(self._decode(list(run)) if known else UNKNOWN * len(list(run)) for known, run in runs)
        whole = self.tokenizer.decode(
            [*self._anchor_ids, *ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(whole).removeprefix(self._anchor)


def choose_layout(tokenizer: PreTrainedTokenizerBase, choice: str) -> Layout:
    """The layout that the option `chat_template` names; `\\n` typed in a shell means a new line."""
    if choice == "none" or (choice == "auto" and not tokenizer.chat_template):
        return Layout("none")
    if choice == "auto":
        try:
            return Layout("the tokenizer's own", jinja=tokenizer.get_chat_template())
        except ValueError as error:  # several named templates and no default
            raise ConfigError(f"chat_template: {error}") from error
    if choice.endswith((".jinja", ".jinja2")):
        return Layout(Path(choice).name, jinja=template_of(choice))
    if "{prompt}" in choice and "{{" not in choice and "{%" not in choice:
        form = choice.replace("\\n", "\n")
        return Layout(repr(form), form=form)
    raise ConfigError(
        f"chat_template: {choice!r} is neither auto, none, a text that holds {{prompt}}, nor a path to a .jinja file"
    )


def template_of(choice: str) -> str | None:
    """The text of the file that the option `chat_template` names, None where it names none. Errors: ConfigError."""
    if not choice.endswith((".jinja", ".jinja2")):
        return None
    try:
        return read_text(choice)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chat_template: cannot read {choice}: {error}") from error


def opening_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before every text by itself: usually BOS or nothing."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    places = [n for n in range(len(full)) if full[n : n + len(bare)] == bare]
    return full[: places[0]] if places else []


def writes_leading_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text's first word gets a space that the same word behind a prompt would not get (Llama 2's way)."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    line = tokenizer("\n", add_special_tokens=False)["input_ids"]
    return list(tokenizer("\na", add_special_tokens=False)["input_ids"]) != [*line, *alone]


def named_specials(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """BOS, eos and pad where they are tokens of their own; a pad token that is an ordinary word is text."""
    named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return frozenset(named & tokenizer.added_tokens_decoder.keys())
