"""Problems become token ids, and ids become the text that graders read. Works on a tokenizer it is given; no torch.

Prompt and response are tokenized apart, so a demonstration and a rollout follow the very same prompt ids, and what is
trained is known by its place: no mask is ever guessed from ids, and pad == eos cannot hurt. A control token that a row
spells out stays text (obverse.data.control_tokens), and what the template would not write of a row is refused.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from obverse.data import portable_template as portable
from obverse.data.assistant_turn import Turn, align, as_it_stands
from obverse.data.chat_template import FIXED_DATE, Layout, choose_layout
from obverse.data.control_tokens import Control, free_mark, texts_in
from obverse.data.template_rendering import LINKS, PROBE, Writer
from obverse.data.tokenization import Coder, named_specials
from obverse.errors import ConfigError, DataError
from obverse.types import GenerationRequest, ModelInput, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK, THOUGHT = "<think>", "</think>"


@dataclass(frozen=True)
class Rendered:
    """A response as it is trained: its ids, where its steps end, and the text that a verifier reads.

    Example (steps "2+2=4" and "\\n#### 4", one id per character): `ids[:step_ends[0]]` is "2+2=4",
    `ids[:step_ends[1]]` is all but the stop token, `ids[-1]` is the stop token, `text` is "2+2=4\\n#### 4".
    """

    ids: list[int]  # [n], the stop token included
    step_ends: list[int]  # [number of steps], rising: the first token that starts at or after the step's end
    text: str
    as_written: bool = True  # by the chat template, or there is none; else it would rewrite the answer or the prompt


class Speech(Protocol):
    """The options that decide how a model is spoken to."""

    @property
    def chat_template(self) -> str: ...
    @property
    def system_prompt(self) -> str | None: ...
    @property
    def chat_template_kwargs(self) -> Mapping[str, Any]: ...
    @property
    def parse_special_tokens(self) -> bool: ...


class Renderer:
    """Prompts, demonstrations and sampled ids of one tokenizer under one chat template.

    `chat_template` is "auto" (the tokenizer's own template if it has one), "none", a text such as
    "Question: {prompt}\\nAnswer:", a path to a .jinja file, or a Layout. `eos_ids` are those of the model's generation
    config, `variables` are given to the template (`enable_thinking`), a row's own come on top. With a chat template
    nothing is added to what it writes: BOS stands there if and only if it says so, as in every serving engine. Without
    one, BOS comes first if and only if the tokenizer puts it there by itself. A control token that a row spells out is
    text unless `parse_special_tokens`.

    Errors: ConfigError for a template that cannot be read, does not fit the messages, or leaves no stop token;
    DataError for a row of which the template would leave something out.

    Example:
        renderer = Renderer(tokenizer)
        prompt, answer = renderer.prompt(problem), renderer.demonstration(problem).ids
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | Layout = "auto",
        system_prompt: str | None = None,
        eos_ids: int | Iterable[int] | None = None,
        variables: Mapping[str, Any] | None = None,
        parse_special_tokens: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.variables = dict(variables or {})
        self.parse_special_tokens = parse_special_tokens
        self.layout = choose_layout(tokenizer, chat_template) if isinstance(chat_template, str) else chat_template
        self.writer = Writer(tokenizer, self.layout, system_prompt, self.variables)
        self.coder = Coder(tokenizer)
        eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        eos += [eos_ids] if isinstance(eos_ids, int) else [] if eos_ids is None else list(eos_ids)
        gap, token = self.writer.turn_end()
        if token is None and not eos:
            raise ConfigError(
                "the tokenizer names no eos token and no template ends a turn: nothing could stop an answer"
            )
        self.stop_id: int = tokenizer.convert_tokens_to_ids(token) if token is not None else eos[0]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([self.stop_id, *eos]))
        self._gap = gap  # what the template writes between an answer and its stop token
        self._ending = gap + (token or "")
        self._trailing = frozenset(self.stop_ids) | named_specials(tokenizer)
        self._stops = [text for text in map(self.coder.decode, ([number] for number in self.stop_ids)) if text.strip()]
        self.control = Control(tokenizer, self.writer.written())
        if not parse_special_tokens and (spelled := self.control.spelled([system_prompt or ""])):
            raise ConfigError(
                f"system_prompt: it spells out the control token {spelled[0]!r}, which other programs would read as "
                "one: leave it out, or give --parse_special_tokens"
            )

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, options: Speech, eos_ids: int | Iterable[int] | None) -> Renderer:
        """As the options of a command say it."""
        return cls(
            tokenizer,
            options.chat_template,
            options.system_prompt,
            eos_ids,
            options.chat_template_kwargs,
            options.parse_special_tokens,
        )

    @classmethod
    def recorded(
        cls, tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any], eos_ids: int | Iterable[int] | None
    ) -> Renderer:
        """As a checkpoint's `record` says it."""
        return cls(
            tokenizer,
            recorded_layout(record),
            record.get("system_prompt"),
            eos_ids,
            record.get("chat_template_kwargs"),
            record.get("parse_special_tokens", False),
        )

    @property
    def template_name(self) -> str:
        return self.layout.name

    def record(self) -> dict[str, Any]:
        """All that decides how the model is spoken to; what is as it always was is left out."""
        layout = {name: value for name, value in asdict(self.layout).items() if name != "jinja_tools" or value}
        more = {"chat_template_kwargs": self.variables, "parse_special_tokens": self.parse_special_tokens}
        template = self.writer.template()
        more["date"] = (
            self.variables.get("date_string", FIXED_DATE) if template is not None and template.reads_clock else None
        )
        return {**layout, "system_prompt": self.system_prompt, **{name: value for name, value in more.items() if value}}

    @property
    def pad_id(self) -> int:
        """A filler for padded batches; its value never matters, because masks go by position."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def describe(self) -> str:
        """One line for the start banner."""
        start = self.prompt(Problem("probe", PROBE)).token_ids
        bos = self.tokenizer.bos_token_id
        begins = "BOS once" if bos is not None and start[:1] == (bos,) else "no BOS"
        stop = self.tokenizer.convert_ids_to_tokens(self.stop_id)
        folded = "" if self.writer.takes_system else ", system text goes into the first user message"
        date = self.record().get("date")
        dated = f", its date is always {date}" if date else ""
        return f"{self.template_name}, {begins}, answers end with {stop}{folded}{dated}"

    def prompt_text(self, problem: Problem) -> str:
        """What the model is asked, up to where its answer begins."""
        mark = self._mark(problem)
        text = self._prompt(problem, mark)
        return text.replace(mark, "") if mark else text

    def prompt(self, problem: Problem) -> ModelInput:
        """The prompt as the model reads it, the same for rollouts and demonstrations."""
        mark = self._mark(problem)
        ids = self.coder.encode(self._prompt(problem, mark), mark)
        if self.layout.jinja is not None or ids[: len(self.coder.opening)] == self.coder.opening:
            return ModelInput(tuple(ids))
        return ModelInput((*self.coder.opening, *ids))

    def demonstration(self, problem: Problem) -> Rendered:
        """The problem's demonstration as the assistant's answer, stop token included."""
        if not problem.demonstration:
            raise DataError(f"problem {problem.id} has no demonstration")
        return self.response(problem, problem.demonstration, "demonstration")

    def response(self, problem: Problem, steps: Sequence[str], kind: str = "") -> Rendered:
        """Any text, given in steps, as the assistant's answer; the first k steps are `ids[:step_ends[k-1]]`.

        What the template writes around an answer is trained as well. Where the template would rewrite the prompt or the
        answer's own words (think blocks, usually), the answer stands as it is, followed by the stop token. `kind` names
        the row's message (demonstration, chosen or rejected) that may have more than a text: reasoning, tool calls.
        """
        text = "".join(steps)
        mark = self._mark(problem, text)
        prompt = self._prompt(problem, mark)
        first, last = self._new_part(text, prompt)
        words = self.control.shield(text[first:last], mark)
        turn = self._turn(problem, prompt, words, kind, mark)
        ids, starts = self.coder.continuation(turn.text, mark)
        marks = [place for place, letter in enumerate(words) if letter == mark] if mark else []
        plain = [place - number for number, place in enumerate(marks)]  # places in the words without marks
        ends = [min(max(end - first, 0), last - first) for end in accumulate(map(len, steps))]
        places = [turn.place(end + bisect_left(plain, end)) for end in ends]
        ids.append(self.stop_id)
        return Rendered(ids, [bisect_left(starts, place) for place in places], self.decode(ids), turn.as_written)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a response for graders: stop tokens at its end are gone, everything else survives.

        Special tokens inside are kept as text, since `<think>` or `</answer>` may be one.
        """
        end = len(ids)
        while end and ids[end - 1] in self._trailing:
            end -= 1
        return self.coder.decode(ids[:end])

    def show(self, problem: Problem) -> list[tuple[str, int, str]]:
        """(token text, id, "prompt" or "demonstration") of everything that the model would see of `problem`."""
        parts: dict[str, Sequence[int]] = {"prompt": self.prompt(problem).token_ids}
        if problem.demonstration:
            parts["demonstration"] = self.demonstration(problem).ids
        return [(self.coder.decode([token]), token, name) for name, ids in parts.items() for token in ids]

    def spelled(self, problem: Problem) -> list[str]:
        """The control tokens that a row spells out in what the model reads of it; a stop token at an end is none."""
        answers = ("".join(problem.demonstration), problem.chosen or "", problem.rejected or "")
        texts = [text[: self._new_part(text, "")[1]] for text in answers]
        return self.control.spelled([*texts_in(problem.prompt), *texts_in(problem.template), *texts])

    def tokenizer_to_save(self) -> PreTrainedTokenizerBase:
        """The tokenizer to keep with a model: its chat template writes the prompts of this renderer anywhere.

        It is the tokenizer itself where its own template does, or where no template can.
        """
        text = self.portable()
        if text is None or text == self.tokenizer.chat_template:
            return self.tokenizer
        kept = copy(self.tokenizer)
        stored = kept.chat_template
        kept.chat_template = {**stored, "default": text} if isinstance(stored, dict) else text
        return kept

    def portable(self) -> str | None:
        """The chat template that writes these prompts without obverse; None where there is none that was seen to."""
        template = self.writer.template()
        if template is not None:
            candidates = [portable.chat(template, self.system_prompt, self.writer.takes_system, self.variables)]
        else:
            opening = "".join(self.tokenizer.convert_ids_to_tokens(self.coder.opening))
            form = self.layout.form
            candidates = [portable.plain(opening + gap, form, self.system_prompt) for gap in ("", " ")]
        wanted = list(self.prompt(Problem("probe", PROBE)).token_ids)
        messages = [{"role": "user", "content": PROBE}]
        for text in filter(None, candidates):
            if self.coder.encode(self.writer.render_by(text, messages)) == wanted:
                return text
        return None

    def _prompt(self, problem: Problem, mark: str) -> str:
        """The prompt's text, with marks in the control tokens that the row spells out."""
        messages, values = self.writer.messages(problem), self.writer.values(problem)
        if self.layout.jinja is None:
            if beside := next((key for message in messages for key in message if key not in LINKS), ""):
                raise DataError(f"problem {problem.id}: {beside} of a message needs a chat template, and there is none")
            text = "\n\n".join(message["content"] for message in messages)
            opening = self.coder.decode(self.coder.opening)
            opening = opening if opening and text.startswith(opening) else ""  # it would stand there anyway
            return self.layout.form.replace("{prompt}", opening + self.control.shield(text[len(opening) :], mark))
        if messages[-1]["role"] == "assistant":
            raise ConfigError(
                f"problem {problem.id}: the prompt ends with an assistant message; end it with the user's"
            )
        messages, values = self.control.shielded(messages, mark), self.control.shielded(values, mark)
        where = f"problem {problem.id}"
        text = self.writer.render(messages, values, where=where, answer_next=True)
        self.writer.refuse_left_out(messages, values, text, where)
        return text

    def _new_part(self, text: str, prompt: str) -> tuple[int, int]:
        """The span of `text` that is still to write: no second `<think>`, no stop token that the data spell out."""
        first, last = 0, len(text)
        asked = prompt.rstrip()
        if asked.endswith(THINK) and text.lstrip().startswith(THINK):
            first = text.index(THINK) + len(THINK)
            blank = prompt[len(asked) :]
            first += len(blank) if text.startswith(blank, first) else 0
        for stop in self._stops:
            if text[:last].rstrip().endswith(stop):
                last = max(first, len(text[:last].rstrip()) - len(stop))
        return first, last

    def _turn(self, problem: Problem, prompt: str, words: str, kind: str, mark: str) -> Turn:
        """The answer as the template writes it behind the prompt."""
        beside: Mapping[str, Any] = problem.template.get(kind, {})
        if self.layout.jinja is None and not beside:
            return Turn(words, lambda at: at)
        where, values = f"problem {problem.id}", self.control.shielded(self.writer.values(problem), mark)
        if self.layout.jinja is not None:
            messages = self.control.shielded(self.writer.messages(problem), mark)
            last = {"role": "assistant", "content": words, **self.control.shielded(beside, mark)}
            whole = self.writer.render([*messages, last], values, where=where, answer_next=False)
            if whole.startswith(prompt) and (
                turn := align(whole[len(prompt) :], words, self._ending, self._gap, bool(beside))
            ):
                for key in beside:
                    less = {name: value for name, value in last.items() if name != key}
                    if not self.writer.differs([*messages, less], values, whole, where=where, answer_next=False):
                        raise DataError(f"{where}: the assistant's {key}: the chat template does not write it")
                return turn
        if beside:
            raise DataError(
                f"{where}: the assistant's {', '.join(beside)}: the chat template does not write it behind the prompt: "
                "take it out, or give another template"
            )
        if kind and prompt.rstrip().endswith(THOUGHT) and words.lstrip().startswith(THINK):
            raise DataError(
                f"{where}: the prompt has closed its thought, and the demonstration begins with {THINK}: take the "
                "thought out, or let the template think (enable_thinking)"
            )
        return as_it_stands(words, self._gap)

    def _mark(self, problem: Problem, *answers: str) -> str:
        """A character to keep spelled control tokens apart with; none where the row spells none out."""
        if self.parse_special_tokens:
            return ""
        texts = [*answers, *texts_in(problem.prompt), *texts_in(problem.template)]
        return free_mark(texts) if self.control.spelled(texts) else ""


def recorded_layout(record: Mapping[str, Any]) -> Layout:
    """The layout of a checkpoint's record."""
    return Layout(**{name: record[name] for name in ("name", "jinja", "form", "jinja_tools") if name in record})


def hint_tokens(rendered: Rendered | None, request: GenerationRequest) -> list[int]:
    """The tokens of the demonstration's first part: a share `wish.hint` of its steps, rounded, or of its tokens.

    A hint in tokens is rounded down and leaves at least one token to write.
    """
    if rendered is None or not request.hint:
        return []
    if request.hint_in == "tokens":
        return rendered.ids[: min(int(request.hint * len(rendered.ids)), len(rendered.ids) - 1)]
    num_steps = round(request.hint * len(rendered.step_ends))
    return rendered.ids[: rendered.step_ends[num_steps - 1]] if num_steps else []
