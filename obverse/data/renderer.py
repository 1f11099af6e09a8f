"""Conversion of problems to token ids and of sampled ids to the text that verifiers read. No torch.

Prompt and response are tokenized separately, so that demonstrations and rollouts follow identical prompt ids and
trained tokens are known by their position: no mask is derived from ids, and a padding token equal to EOS does no harm.
Control tokens in a row's text stay text (obverse.data.control_tokens), and rows that the template would not write
completely are rejected.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from obverse.data import portable_template as portable
from obverse.data.assistant_turn import AssistantTurn, align, verbatim
from obverse.data.chat_template import FIXED_DATE, PromptFormat, choose_prompt_format
from obverse.data.control_tokens import ControlTokens, free_mark, texts_in
from obverse.data.template_rendering import LINKS, PROBE, TemplateRenderer
from obverse.data.tokenization import TokenCodec, named_specials
from obverse.errors import ConfigError, DataError
from obverse.types import GenerationRequest, ModelInput, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK, THOUGHT = "<think>", "</think>"
BLANK_LINE = re.compile(r"\n\n")


@dataclass(frozen=True)
class RenderedResponse:
    """A response as it is trained: its ids, the ends of its steps, and the text that a verifier reads.

    Example (steps "2+2=4" and "\\n#### 4", one id per character): `ids[:step_ends[0]]` is "2+2=4",
    `ids[:step_ends[1]]` is all but the stop token, `ids[-1]` is the stop token, `text` is "2+2=4\\n#### 4".
    """

    ids: list[int]  # [n], the stop token included
    step_ends: list[int]  # [number of steps], rising: the first token that starts at or after the step's end
    text: str
    as_written: bool = True  # False if the chat template would rewrite the answer or the prompt
    blank_line_ends: Sequence[int] = ()  # rising: the first token that starts at or after the end of each blank line


class TemplateOptions(Protocol):
    """The options of chat templates."""

    @property
    def chat_template(self) -> str: ...
    @property
    def system_prompt(self) -> str | None: ...
    @property
    def chat_template_kwargs(self) -> Mapping[str, Any]: ...
    @property
    def parse_special_tokens(self) -> bool: ...


class Renderer:
    """Renders prompts and demonstrations as token ids, and decodes sampled ids, with one tokenizer and chat template.

    With a chat template, its text is the whole prompt: BOS is only in it if the template writes it, as in serving
    engines. Without one, the prompt starts with BOS if the tokenizer adds it.

    Args:
        tokenizer: The tokenizer.
        chat_template: "auto" (the tokenizer's template, if any), "none", a text such as
            "Question: {prompt}\\nAnswer:", a path to a .jinja file, or a PromptFormat.
        system_prompt: System message of prompts without one.
        eos_ids: EOS ids of the model's generation config.
        variables: Variables of the template (`enable_thinking`); a row's own variables override them.
        parse_special_tokens: Read control tokens in a row's text as tokens rather than as text.

    Errors: ConfigError for a template that cannot be read, rejects the messages, or gives no stop token; DataError for
    a row that the template does not write completely.

    Example:
        renderer = Renderer(tokenizer)
        prompt, answer = renderer.prompt(problem), renderer.demonstration(problem).ids
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | PromptFormat = "auto",
        system_prompt: str | None = None,
        eos_ids: int | Iterable[int] | None = None,
        variables: Mapping[str, Any] | None = None,
        parse_special_tokens: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self.variables = dict(variables or {})
        self.parse_special_tokens = parse_special_tokens
        self.layout = (
            choose_prompt_format(tokenizer, chat_template) if isinstance(chat_template, str) else chat_template
        )
        self.writer = TemplateRenderer(tokenizer, self.layout, system_prompt, self.variables)
        self.coder = TokenCodec(tokenizer)
        eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        eos += [eos_ids] if isinstance(eos_ids, int) else [] if eos_ids is None else list(eos_ids)
        gap, stop_token = self.writer.turn_end()
        if stop_token is None and not eos:
            raise ConfigError(
                "the tokenizer names no eos token and no template ends a turn: nothing could stop an answer"
            )
        self.stop_id: int = tokenizer.convert_tokens_to_ids(stop_token) if stop_token is not None else eos[0]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([self.stop_id, *eos]))
        self._gap = gap  # what the template writes between an answer and its stop token
        self._ending = gap + (stop_token or "")
        self._trailing = frozenset(self.stop_ids) | named_specials(tokenizer)
        self._stops = [text for text in map(self.coder.decode, ([number] for number in self.stop_ids)) if text.strip()]
        self.control = ControlTokens(tokenizer, self.writer.template_text())
        if not parse_special_tokens and (spelled := self.control.spelled([system_prompt or ""])):
            raise ConfigError(
                f"system_prompt: it spells out the control token {spelled[0]!r}, which other programs would read as "
                "one: leave it out, or give --parse_special_tokens"
            )

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, eos_ids: int | Iterable[int] | None
    ) -> Renderer:
        """Return the renderer of a command's options."""
        return cls(
            tokenizer,
            options.chat_template,
            options.system_prompt,
            eos_ids,
            options.chat_template_kwargs,
            options.parse_special_tokens,
        )

    @classmethod
    def from_record(
        cls, tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any], eos_ids: int | Iterable[int] | None
    ) -> Renderer:
        """Return the renderer of a checkpoint's `record`."""
        return cls(
            tokenizer,
            recorded_prompt_format(record),
            record.get("system_prompt"),
            eos_ids,
            record.get("chat_template_kwargs"),
            record.get("parse_special_tokens", False),
        )

    @property
    def template_name(self) -> str:
        return self.layout.name

    def record(self) -> dict[str, Any]:
        """Return all settings that determine prompts; settings with default values are omitted."""
        layout = {name: value for name, value in asdict(self.layout).items() if name != "jinja_tools" or value}
        settings = {"chat_template_kwargs": self.variables, "parse_special_tokens": self.parse_special_tokens}
        template = self.writer.template()
        settings["date"] = (
            self.variables.get("date_string", FIXED_DATE) if template is not None and template.reads_clock else None
        )
        return {
            **layout,
            "system_prompt": self.system_prompt,
            **{name: value for name, value in settings.items() if value},
        }

    @property
    def pad_id(self) -> int:
        """The id for padding; its value has no effect, because masks are defined by positions."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    def describe(self) -> str:
        """Return a line for the start banner."""
        prompt_start = self.prompt(Problem("probe", PROBE)).token_ids
        bos = self.tokenizer.bos_token_id
        bos_text = "BOS once" if bos is not None and prompt_start[:1] == (bos,) else "no BOS"
        stop_token = self.tokenizer.convert_ids_to_tokens(self.stop_id)
        system_text = "" if self.writer.takes_system else ", system text goes into the first user message"
        date = self.record().get("date")
        date_text = f", its date is always {date}" if date else ""
        return f"{self.template_name}, {bos_text}, answers end with {stop_token}{system_text}{date_text}"

    def prompt_text(self, problem: Problem) -> str:
        """Return the prompt's text up to the start of the answer."""
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

    def demonstration(self, problem: Problem) -> RenderedResponse:
        """Return the problem's demonstration as the assistant's answer, with the stop token."""
        if not problem.demonstration:
            raise DataError(f"problem {problem.id} has no demonstration")
        return self.response(problem, problem.demonstration, "demonstration")

    def response(self, problem: Problem, steps: Sequence[str], kind: str = "") -> RenderedResponse:
        """Return a text, given in steps, as the assistant's answer; the first k steps are `ids[:step_ends[k-1]]`.

        Text that the template writes around an answer is trained too. If the template would rewrite the prompt or the
        answer (usually think blocks), the answer is used verbatim, followed by the stop token. `kind` is the row's
        message (demonstration, chosen or rejected) whose other keys are rendered too: reasoning, tool calls.
        """
        text = "".join(steps)
        mark = self._mark(problem, text)
        prompt = self._prompt(problem, mark)
        first, last = self._new_span(text, prompt)
        answer = self.control.shield(text[first:last], mark)
        turn = self._turn(problem, prompt, answer, kind, mark)
        ids, starts = self.coder.continuation(turn.text, mark)
        mark_positions = [position for position, character in enumerate(answer) if character == mark] if mark else []
        positions = [position - count for count, position in enumerate(mark_positions)]  # in the answer without marks
        ends = [min(max(end - first, 0), last - first) for end in accumulate(map(len, steps))]
        end_positions = [turn.map_position(end + bisect_left(positions, end)) for end in ends]
        ids.append(self.stop_id)
        return RenderedResponse(
            ids,
            [bisect_left(starts, position) for position in end_positions],
            self.decode(ids),
            turn.as_written,
            [bisect_left(starts, line.end()) for line in BLANK_LINE.finditer(turn.text)],
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a response for verifiers, without stop tokens at its end.

        Other special tokens stay in the text, since `<think>` or `</answer>` may be one.
        """
        end = len(ids)
        while end and ids[end - 1] in self._trailing:
            end -= 1
        return self.coder.decode(ids[:end])

    def show(self, problem: Problem) -> list[tuple[str, int, str]]:
        """Return (token text, id, "prompt" or "demonstration") of all tokens that the model reads of `problem`."""
        parts: dict[str, Sequence[int]] = {"prompt": self.prompt(problem).token_ids}
        if problem.demonstration:
            parts["demonstration"] = self.demonstration(problem).ids
        return [(self.coder.decode([token]), token, name) for name, ids in parts.items() for token in ids]

    def spelled(self, problem: Problem) -> list[str]:
        """Return the control tokens in a row's texts that the model reads, except for stop tokens at the end."""
        answers = ("".join(problem.demonstration), problem.chosen or "", problem.rejected or "")
        texts = [text[: self._new_span(text, "")[1]] for text in answers]
        return self.control.spelled([*texts_in(problem.prompt), *texts_in(problem.template), *texts])

    def tokenizer_to_save(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer to save with a model, with a chat template that writes this renderer's prompts.

        It is the tokenizer itself if its own template writes them, or if no template can.
        """
        text = self.portable()
        if text is None or text == self.tokenizer.chat_template:
            return self.tokenizer
        tokenizer = copy(self.tokenizer)
        templates = tokenizer.chat_template
        tokenizer.chat_template = {**templates, "default": text} if isinstance(templates, dict) else text
        return tokenizer

    def portable(self) -> str | None:
        """Return a chat template that writes these prompts in other programs; None if none could be verified."""
        template = self.writer.template()
        if template is not None:
            candidates = [
                portable.with_run_settings(template, self.system_prompt, self.writer.takes_system, self.variables)
            ]
        else:
            opening = "".join(self.tokenizer.convert_ids_to_tokens(self.coder.opening))
            form = self.layout.form
            candidates = [portable.plain_template(opening + gap, form, self.system_prompt) for gap in ("", " ")]
        expected_ids = list(self.prompt(Problem("probe", PROBE)).token_ids)
        messages = [{"role": "user", "content": PROBE}]
        for text in filter(None, candidates):
            if self.coder.encode(self.writer.render_by(text, messages)) == expected_ids:
                return text
        return None

    def _prompt(self, problem: Problem, mark: str) -> str:
        """Return the prompt's text, with marks in the control tokens that the row contains as text."""
        messages, values = self.writer.messages(problem), self.writer.values(problem)
        if self.layout.jinja is None:
            if extra_key := next((key for message in messages for key in message if key not in LINKS), ""):
                raise DataError(
                    f"problem {problem.id}: {extra_key} of a message needs a chat template, and there is none"
                )
            text = "\n\n".join(message["content"] for message in messages)
            opening = self.coder.decode(self.coder.opening)
            opening = (
                opening if opening and text.startswith(opening) else ""
            )  # the text starts with the opening already
            return self.layout.form.replace("{prompt}", opening + self.control.shield(text[len(opening) :], mark))
        if messages[-1]["role"] == "assistant":
            raise ConfigError(
                f"problem {problem.id}: the prompt ends with an assistant message; end it with the user's"
            )
        messages, values = self.control.shielded(messages, mark), self.control.shielded(values, mark)
        location = f"problem {problem.id}"
        text = self.writer.render(messages, values, where=location, answer_next=True)
        self.writer.check_nothing_omitted(messages, values, text, location)
        return text

    def _new_span(self, text: str, prompt: str) -> tuple[int, int]:
        """Return the span of `text` without a `<think>` that the prompt has already and without a final stop token."""
        first, last = 0, len(text)
        stripped_prompt = prompt.rstrip()
        if stripped_prompt.endswith(THINK) and text.lstrip().startswith(THINK):
            first = text.index(THINK) + len(THINK)
            white_space = prompt[len(stripped_prompt) :]
            first += len(white_space) if text.startswith(white_space, first) else 0
        for stop in self._stops:
            if text[:last].rstrip().endswith(stop):
                last = max(first, len(text[:last].rstrip()) - len(stop))
        return first, last

    def _turn(self, problem: Problem, prompt: str, answer: str, kind: str, mark: str) -> AssistantTurn:
        """Return the answer as the template writes it after the prompt."""
        extra: Mapping[str, Any] = problem.template.get(kind, {})
        if self.layout.jinja is None and not extra:
            return AssistantTurn(answer, lambda position: position)
        location, values = f"problem {problem.id}", self.control.shielded(self.writer.values(problem), mark)
        if self.layout.jinja is not None:
            messages = self.control.shielded(self.writer.messages(problem), mark)
            message = {"role": "assistant", "content": answer, **self.control.shielded(extra, mark)}
            text = self.writer.render([*messages, message], values, where=location, answer_next=False)
            if text.startswith(prompt) and (
                turn := align(text[len(prompt) :], answer, self._ending, self._gap, bool(extra))
            ):
                for key in extra:
                    reduced_message = {name: value for name, value in message.items() if name != key}
                    if not self.writer.differs(
                        [*messages, reduced_message], values, text, where=location, answer_next=False
                    ):
                        raise DataError(f"{location}: the assistant's {key}: the chat template does not write it")
                return turn
        if extra:
            raise DataError(
                f"{location}: the assistant's {', '.join(extra)}: the chat template does not write it after the "
                "prompt: take it out, or give another template"
            )
        if kind and prompt.rstrip().endswith(THOUGHT) and answer.lstrip().startswith(THINK):
            raise DataError(
                f"{location}: the prompt has closed its thought, and the demonstration begins with {THINK}: take the "
                "thought out, or let the template think (enable_thinking)"
            )
        return verbatim(answer, self._gap)

    def _mark(self, problem: Problem, *answers: str) -> str:
        """Return a mark for control tokens in the row's text, "" if there are none."""
        if self.parse_special_tokens:
            return ""
        texts = [*answers, *texts_in(problem.prompt), *texts_in(problem.template)]
        return free_mark(texts) if self.control.spelled(texts) else ""


def recorded_prompt_format(record: Mapping[str, Any]) -> PromptFormat:
    """Return the prompt format of a checkpoint's record."""
    return PromptFormat(**{name: record[name] for name in ("name", "jinja", "form", "jinja_tools") if name in record})


def hint_tokens(rendered: RenderedResponse | None, request: GenerationRequest) -> list[int]:
    """Return the tokens of a hint: the fraction `request.hint` of the demonstration's steps, rounded, or of its tokens.

    A hint in tokens is rounded down and leaves at least one token to generate. With `request.hint_margin` it ends at
    the first blank line at or after that length, if it is at most this fraction of the demonstration later.
    """
    if rendered is None or not request.hint:
        return []
    if request.hint_in == "tokens":
        length = len(rendered.ids)
        num_tokens = min(int(request.hint * length), length - 1)
        latest = min(num_tokens + int(request.hint_margin * length), length - 1)
        later = (end for end in rendered.blank_line_ends if num_tokens <= end <= latest)
        return rendered.ids[: next(later, num_tokens) if request.hint_margin else num_tokens]
    num_steps = round(request.hint * len(rendered.step_ends))
    return rendered.ids[: rendered.step_ends[num_steps - 1]] if num_steps else []
