"""Scores tokens by a teacher behind a server: vLLM, or another OpenAI-compatible one that returns a prompt's log-probs.

A request has the token ids of the teacher's prompt and of the response; the answer has a log-prob for each of them, at
temperature 1. The server needs no other endpoint than /v1/completions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import fmean

from obverse.errors import ConfigError, EngineError
from obverse.inference.http import Client, RequestRejected, ServerRole, ServerUnavailable
from obverse.inference.prompt_scores import (
    FORMS,
    TOP,
    NotLogProbs,
    ScoreForm,
    Scores,
    UnusableScores,
    first_other_token,
    is_incomplete,
)
from obverse.inference.request_rounds import HEALTH_SECONDS, RequestRounds
from obverse.inference.scoring import ScoringRequest
from obverse.inference.server_schemas import ScoredPrompts, ServedModels, Tokenized
from obverse.inference.tokenizer_probe import TokenizerProbe

COMPLETIONS, TOKENIZE, MODELS = "/v1/completions", "/tokenize", "/v1/models"
ROLE = ServerRole("teacher server", "--teacher_url", ("TEACHER_API_KEY", "VLLM_API_KEY"), "start it")
# With a vLLM server as sampler, VLLM_API_KEY is that server's key.
ROLE_BESIDE_SAMPLER = ServerRole("teacher server", "--teacher_url", ("TEACHER_API_KEY",), "start it")
AT_ONCE = 64  # requests in flight
TRUNCATED = -9999.0  # vLLM's number in place of minus infinity
MAX_CHANGE = 0.25  # nats per token by which a restarted server's scores of a text may differ from those before
DEFAULT_LENGTH = 512  # tokens of a probe where the server does not name its context length


@dataclass(frozen=True)
class TeacherRequirements:
    """What a run needs of the teacher's server; a server without it is refused before the first step.

    `length` is the longest prompt plus completion that is scored, in tokens, as far as it is known at the start.
    """

    probe: TokenizerProbe
    length: int
    stop_ids: Sequence[int] = ()


class TeacherServer:
    """A `TokenScorer` behind a server.

    Args:
        client: The client of the server.
        requirements: What `connect` checks.
        model: The served model's name; "": the only one of /v1/models.
        note: Receives lines for the user.
        check: Called while the run waits for the server; may raise.
    """

    num_parameters = 0  # unknown

    def __init__(
        self,
        client: Client,
        requirements: TeacherRequirements,
        model: str = "",
        note: Callable[[str], None] = lambda text: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.client, self.requirements, self.model = client, requirements, model
        self.note, self.check = note, check
        self.max_length: int | None = None  # context length in tokens; None: the server does not name it
        self.form: ScoreForm = FORMS[0]
        self._reference: list[float] | None = None  # the server's scores of a text when the run began

    def connect(self) -> None:
        """Check the server. Raises ConfigError if it cannot be the teacher of this run, EngineError if none answers."""
        self.client.with_retries(self._check_server, self.check)

    def score(
        self, requests: Sequence[ScoringRequest], progress: Callable[[int], None] | None = None
    ) -> list[list[float]]:
        """See `TokenScorer.score`. Raises EngineError when the server stays away or sends invalid answers."""
        self._refuse_long(max((request.num_tokens for request in requests), default=0))
        scored = [request for request in requests if request.ids]
        rounds = RequestRounds[ScoringRequest, ScoredPrompts, list[float]](
            self.client, self._send, self._log_probs, self._recover, AT_ONCE
        )
        log_probs = iter(rounds.run(scored, progress or (lambda num: None)))
        return [next(log_probs) if request.ids else [] for request in requests]

    def _send(self, request: ScoringRequest) -> Future[ScoredPrompts]:
        return self._send_ids([*request.prompt.token_ids, *request.ids])

    def _send_ids(self, token_ids: Sequence[int], top: int = 0) -> Future[ScoredPrompts]:
        body = {"model": self.model, **self.form.body(token_ids, top)}
        return self.client.send(COMPLETIONS, body, schema=ScoredPrompts)

    def _log_probs(self, request: ScoringRequest, answer: ScoredPrompts) -> list[float]:
        """The log-probs of a request's response. Raises ServerUnavailable where it must be sent again."""
        (choice,) = answer.choices
        if choice.finish_reason in ("abort", "error"):
            raise ServerUnavailable(f"a request ended by {choice.finish_reason}")
        token_ids = [*request.prompt.token_ids, *request.ids]
        try:
            scores = self.form.scores(choice, token_ids)
        except (UnusableScores, NotLogProbs) as error:
            raise self.client.invalid(COMPLETIONS, str(error)) from None
        if (position := first_other_token(scores, token_ids, self.requirements.probe.texts_of)) is not None:
            raise self.client.invalid(
                COMPLETIONS, f"token {position} is {scores.texts[position]!r:.40}, not token {token_ids[position]}"
            )
        return [_finite(score) for score in scores.log_probs[len(request.prompt) :] if score is not None]

    def _recover(self, error: ServerUnavailable) -> None:
        """Wait until the server answers again, and check it as at first."""
        self.note(f"{self.client.name} is unavailable ({error}): waiting for it")
        self.client.with_retries(self._check_server, self.check, error.retry_after)
        self.note("the teacher server is back")

    def _refuse_long(self, length: int) -> None:
        if self.max_length is not None and length + self.form.num_generated > self.max_length:
            needed = length + self.form.num_generated
            raise ConfigError(
                f"{self.client.name} takes {self.max_length} tokens, the teacher's prompt and a completion need "
                f"{needed}: serve it with a context length of {needed} (vLLM: --max-model-len), or lower "
                "--max_completion_length"
            )

    def _check_server(self) -> None:
        """Raise ConfigError unless the server meets the requirements of the run."""
        self.model, self.max_length = self._served_model()
        texts = self.requirements.probe.texts(max(16, (self.max_length or DEFAULT_LENGTH) // 8))
        token_ids = [*self.requirements.probe.ids(texts[0]), *self.requirements.stop_ids]
        scores = self._scores_in_a_form(token_ids)
        self._refuse_long(self.requirements.length)
        if not self._is_tokenizer_verified(texts):
            self._verify_decoded(token_ids, scores)
            self._refuse_without_texts(scores)
            for text in texts[1:]:
                if len(ids := self.requirements.probe.ids(text)) > 1:
                    self._verify_decoded(ids, self._scores(ids))
        log_probs = [score for score in scores.log_probs if score is not None]
        if self._reference is None:
            self._reference = log_probs
        elif not (change := fmean(abs(a - b) for a, b in zip(log_probs, self._reference, strict=True))) <= MAX_CHANGE:
            raise ConfigError(
                f"{self.client.name} has another model than when the run began: its log-probs of a text differ by "
                f"{change:.3g} nats per token; serve the former one"
            )

    def _served_model(self) -> tuple[str, int | None]:
        """The name of the model to request, and its context length in tokens if the server names it."""
        try:
            models = self.client.request(MODELS, seconds=HEALTH_SECONDS, schema=ServedModels).data
        except RequestRejected as error:
            if error.status in (401, 403):
                raise ConfigError(f"{self.client.name} refuses the key ({error}): {self._key_remedy()}") from None
            if self.model:
                return self.model, None
            raise ConfigError(f"{self.client.name} does not list its models ({error}): give --teacher_name") from None
        lengths = {model.id: model.max_model_len for model in models}
        names = ", ".join(lengths) or "no model"
        if not self.model and len(lengths) != 1:
            raise ConfigError(f"{self.client.name} serves {names:.300}: choose the teacher by --teacher_name")
        if self.model and self.model not in lengths:
            raise ConfigError(f"--teacher_name {self.model}: {self.client.name} serves {names:.300}")
        name = self.model or next(iter(lengths))
        return name, lengths[name]

    def _key_remedy(self) -> str:
        return f"put it into the environment variable {self.client.role.keys[0]}"

    def _scores_in_a_form(self, token_ids: Sequence[int]) -> Scores:
        """The scores of `token_ids`, in the first form that the server offers, which is kept."""
        forms = FORMS if self._reference is None else (self.form,)
        reasons = []
        for form in forms:
            self.form = form
            try:
                return self._scores(token_ids, TOP)
            except UnusableScores as error:
                reasons.append(str(error))
            except RequestRejected as error:
                if error.status in (401, 403):
                    raise ConfigError(f"{self.client.name} refuses the key ({error}): {self._key_remedy()}") from None
                reasons.append(str(error))
        raise ConfigError(
            f"{self.client.name} returns no log-probs of a prompt of token ids, neither by prompt_logprobs nor by echo "
            f"and logprobs ({'; '.join(dict.fromkeys(reasons)):.300}): serve the teacher with vLLM"
        )

    def _scores(self, token_ids: Sequence[int], top: int = 0) -> Scores:
        """The scores of a probe. Raises RequestRejected, UnusableScores, and ConfigError for other numbers."""
        body = {"model": self.model, **self.form.body(token_ids, top)}
        answer = self.client.request(COMPLETIONS, body, self.client.timeout, schema=ScoredPrompts)
        try:
            return self.form.scores(answer.choices[0], token_ids)
        except NotLogProbs as error:
            raise ConfigError(
                f"{self.client.name} returns no log-probs ({error}): start vLLM without --logprobs-mode raw_logits or "
                "processed_logits"
            ) from None

    def _is_tokenizer_verified(self, texts: Sequence[str]) -> bool:
        """Compare the ids of texts by the server's /tokenize; False if it has no such endpoint. Raises ConfigError."""
        for text in texts:
            body = {"model": self.model, "prompt": text, "add_special_tokens": False}
            try:
                tokens = self.client.request(TOKENIZE, body, seconds=self.client.timeout, schema=Tokenized).tokens
            except (RequestRejected, EngineError):
                return False
            if not tokens:  # of another interface
                return False
            if tokens != self.requirements.probe.ids(text):
                raise self._other_tokenizer(f"{text[:40]!r} is {_shortened(tokens)} there")
        return True

    def _verify_decoded(self, token_ids: Sequence[int], scores: Scores) -> None:
        """Raise ConfigError unless the tokens of an answer, as text, are those of the run's tokenizer."""
        texts_of = self.requirements.probe.texts_of
        if (position := first_other_token(scores, token_ids, texts_of)) is not None:
            raise self._other_tokenizer(f"token {token_ids[position]} is {scores.texts[position]!r:.40} there")

    def _refuse_without_texts(self, scores: Scores) -> None:
        """Raise ConfigError for the scores of a text of whole characters in which no token is shown as text."""
        if not any(text and not is_incomplete(text) for text in scores.texts[1:]):
            raise ConfigError(
                f"{self.client.name} shows neither token ids of a text (/tokenize) nor its tokens as text, so that its "
                "tokenizer cannot be compared with the policy's: serve the teacher with vLLM"
            )

    def _other_tokenizer(self, difference: str) -> ConfigError:
        return ConfigError(
            f"{self.client.name} has another tokenizer than the policy: it serves {self.model}, and {difference}; "
            "choose a teacher with the policy's tokenizer"
        )


def _finite(score: float) -> float:
    """A log-prob of at most 0; -inf where the server has cut it off."""
    return float("-inf") if score <= TRUNCATED else min(score, 0.0)


def _shortened(tokens: Sequence[int]) -> str:
    return f"{', '.join(map(str, tokens[:8]))}{', ...' if len(tokens) > 8 else ''}"
