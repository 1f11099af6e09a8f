"""A stock vLLM server as sampler: it is given the policy's weights, then token ids, and gives token ids and log-probs.

What it must offer, and `obverse serve-vllm` switches on: the token endpoint (--enable-scale-out), log-probs of the law
that was sampled (--logprobs-mode processed_logprobs), and the development endpoints that reload weights, stamp them
with a version and tell it with every completion (VLLM_SERVER_DEV_MODE=1).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from obverse.errors import ConfigError, EngineError
from obverse.inference.http import Client, Gone, Late, Refused
from obverse.inference.server_schemas import About, Cards, Completed, ServerInfo, Tokenized
from obverse.inference.stops import SLACK, Stops
from obverse.inference.types import Completion, SamplingParams, SamplingRequest
from obverse.inference.weight_sync import Delivery, Voice

GENERATE = "/inference/v1/generate"
NEWS_SECONDS = 1.0  # how often a caller who waits hears of progress, and a signal is looked at
HEALTH_SECONDS = 10.0  # without a completion for so long, the server is asked whether it lives
MAX_FRUITLESS = 5  # calls in a row that bring nothing although the server came back
LEAST_TEMPERATURE = 0.01  # vLLM raises what is below it


@dataclass(frozen=True)
class Job:
    """One completion to ask for: the request and where its answer goes."""

    request: int
    number: int
    prompt_ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Needs:
    """What the run needs of a server, to be refused before the first step if it has it not.

    `tokens` is what the run's tokenizer makes of `text`; `length` the longest prompt plus completion, in tokens.
    """

    vocab_size: int
    text: str
    tokens: Sequence[int]
    length: int


class VLLMSampler:
    """Samples from a vLLM server that holds the policy's weights as they are after a step.

    Every completion is a request of its own with its own seed; a group's prompt is computed once by the server's prefix
    cache. `at_once` bounds the requests on their way. A server that goes away is waited for (`client.timeout`), given
    the weights again, and asked again for what it owed.
    """

    def __init__(
        self,
        client: Client,
        delivery: Delivery,
        needs: Needs,
        decode: Callable[[Sequence[int]], str] | None = None,
        at_once: int = 256,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.client, self.delivery, self.needs = client, delivery, needs
        self.decode, self.at_once, self.note = decode, at_once, note
        self.version = ""  # of vLLM
        self.max_length = 0  # tokens of prompt and completion that the server takes

    def meet(self) -> None:
        """Ask the server what it is. Raises ConfigError for one that cannot serve this run, EngineError for none."""
        self.client.patiently(self._meet, self.delivery.check)

    def follow(self, step: int) -> None:
        """Give the server the policy's weights as they are after `step`; nothing where it has them."""
        if step != self.delivery.step:
            self.delivery.pack(step)
            if self.delivery.process_group.is_first:
                self.client.patiently(self.delivery.push, self.delivery.check)
            self.delivery.process_group.barrier()

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        """See Sampler.sample. Raises EngineError when the server stays away or its answers make no sense."""
        if params.max_seconds is not None or params.max_call_tokens is not None:
            raise ConfigError("max_sampling_seconds: a vLLM server cannot cut a call off; leave it out")
        self._refuse_long(requests, params)
        jobs = [
            Job(i, n, request.prompt_ids, seed)
            for i, request in enumerate(requests)
            for n, seed in enumerate(request.seeds)
        ]
        found: dict[tuple[int, int], Completion] = {}
        fruitless, since = 0, time.monotonic()
        while len(found) < len(jobs):
            before, waiting = len(found), [job for job in jobs if (job.request, job.number) not in found]
            lost = self._round(waiting, params, found, progress or (lambda num: None))
            if lost is None:
                continue
            if len(found) > before:
                fruitless, since = 0, time.monotonic()
            elif lost.wait is None:
                fruitless += 1
            is_over = lost.wait is not None and time.monotonic() - since > self.client.timeout
            if isinstance(lost, Late) or fruitless > MAX_FRUITLESS or is_over:
                raise EngineError(f"the vLLM server at {self.client.url} answers nothing: {lost}: read its log")
            self._recover(lost)
        return [[found[i, n] for n in range(len(request.seeds))] for i, request in enumerate(requests)]

    def _round(
        self,
        jobs: Sequence[Job],
        params: SamplingParams,
        found: dict[tuple[int, int], Completion],
        progress: Callable[[int], None],
    ) -> Gone | None:
        """Ask for all jobs, `at_once` at a time; what came back is in `found`. Why something did not, if so."""
        todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            todo.put(job)
        done: queue.SimpleQueue[tuple[Job, Completion | Exception]] = queue.SimpleQueue()
        stop = threading.Event()
        work = partial(self._work, todo, done, stop, params)
        for _ in range(min(self.at_once, len(jobs))):
            threading.Thread(target=work, daemon=True).start()
        left, heard = len(jobs), time.monotonic()
        lost: Gone | None = None
        try:
            while left:
                try:
                    job, answer = done.get(timeout=NEWS_SECONDS)
                except queue.Empty:
                    self._look(heard)
                else:
                    left, heard = left - 1, time.monotonic()
                    if isinstance(answer, Gone):
                        lost = answer
                    elif isinstance(answer, Exception):
                        raise answer
                    else:
                        found[job.request, job.number] = answer
                progress(len(found))
        finally:
            stop.set()
            if left:  # an error, or a signal: nobody waits for the rest
                self.client.hang_up()
        return lost

    def _work(
        self,
        todo: queue.SimpleQueue[Job],
        done: queue.SimpleQueue[tuple[Job, Completion | Exception]],
        stop: threading.Event,
        params: SamplingParams,
    ) -> None:
        """A thread that asks for one completion after another, on one connection."""
        while not stop.is_set():
            try:
                job = todo.get_nowait()
            except queue.Empty:
                break
            try:
                done.put((job, self._complete(job, params)))
            except Exception as error:  # noqa: BLE001 - it is raised where the call was made
                done.put((job, error))
        self.client.close()

    def _complete(self, job: Job, params: SamplingParams) -> Completion:
        """One completion by the server; Gone where it has to be asked again, with the weights in place."""
        stamp = self.delivery.stamp
        body = {"token_ids": list(job.prompt_ids), "cache_salt": stamp, "sampling_params": parameters(params, job.seed)}
        try:
            (choice,) = self.client.ask(GENERATE, body, schema=Completed).choices
        except Refused as error:
            if error.status >= 500:  # its engine is dying, or was told to end
                raise Gone(str(error)) from None
            raise EngineError(f"the vLLM server at {self.client.url} refused a body: {error}") from None
        if choice.finish_reason not in ("stop", "length"):
            raise Gone(f"a completion ended by {choice.finish_reason}")
        if not choice.weight_versions:
            raise self._nonsense("a completion without weight_versions: nothing says which weights wrote it")
        self.delivery.refuse_other({span.version for span in choice.weight_versions})
        scores = choice.logprobs.content if choice.logprobs is not None else []
        if not 0 < len(choice.token_ids) <= params.max_tokens:
            raise self._nonsense(f"{len(choice.token_ids)} token_ids where 1 to {params.max_tokens} were asked for")
        if choice.token_ids != [score.token_id for score in scores]:
            raise self._nonsense("token_ids that are not those of its logprobs")
        if max(choice.token_ids) >= self.needs.vocab_size:
            raise self._nonsense(f"token_ids with {max(choice.token_ids)}, beyond the vocabulary")
        if choice.finish_reason == "stop" and not params.stop_strings and choice.token_ids[-1] not in params.stop_ids:
            raise self._nonsense("finish_reason stop behind a token that stops nothing")
        behavior = [score.logprob for score in scores]
        return self._ended(choice.token_ids, behavior, choice.finish_reason == "stop", params)

    def _ended(self, ids: list[int], behavior: list[float], stopped: bool, params: SamplingParams) -> Completion:
        """The completion, which ends where the law says; the server may have read on behind a stop string."""
        if params.stop_strings:
            stops = Stops(params, self.decode)
            end = next((end for end in range(max(1, len(ids) - SLACK), len(ids) + 1) if stops.stop(ids[:end])), 0)
            ids, behavior, stopped = ids[: end or None], behavior[: end or None], stopped or end > 0
        if params.temperature == 0:  # the server scores greedy tokens by the model, the law gives them probability 1
            behavior = [0.0] * len(ids)
        return Completion(ids, behavior, "stop" if stopped else "length", self.delivery.step or 0)

    def _look(self, heard: float) -> None:
        """Ask a server that is silent whether it lives; one that is gone without a word is hung up on in time."""
        silent = time.monotonic() - heard
        if silent >= HEALTH_SECONDS:
            try:
                self.client.ask("/health", seconds=HEALTH_SECONDS)
            except (Gone, Refused):
                if silent >= self.client.timeout:
                    self.client.hang_up()

    def _recover(self, lost: Gone) -> None:
        """Wait for the server, as long as it asks for, see that it is the same, and that it has the weights."""
        self.note(f"the vLLM server at {self.client.url} is gone ({lost}): waiting for it")
        self.client.patiently(self._again, self.delivery.check, lost.wait)
        self.note("the vLLM server is back, and has the weights")

    def _again(self) -> None:
        """Greet the server as at first; one that was started again gets the weights, by whichever rank comes first."""
        self._meet()
        if not self.delivery.is_there():
            self.delivery.forget()
            self.delivery.push()

    def _refuse_long(self, requests: Sequence[SamplingRequest], params: SamplingParams) -> None:
        longest = max((len(request.prompt_ids) for request in requests), default=0) + params.max_tokens
        if self.max_length and longest > self.max_length:
            raise ConfigError(self._too_short(longest))

    def _too_short(self, longest: int) -> str:
        return (
            f"the vLLM server at {self.client.url} takes {self.max_length} tokens, prompt and completion need "
            f"{longest}: start it with --max_model_len {longest}, or lower --max_completion_length"
        )

    def _meet(self) -> None:
        """What the server is, against what the run needs."""
        who, needs = f"the vLLM server at {self.client.url}", self.needs
        try:
            self.version = self._greeted()
            (card, *_) = self.client.ask("/v1/models", seconds=HEALTH_SECONDS, schema=Cards).data
            self.max_length = card.max_model_len
            text = {"prompt": needs.text, "add_special_tokens": False}
            written = self.client.ask("/tokenize", text, seconds=HEALTH_SECONDS, schema=Tokenized).tokens
        except Refused as error:
            raise ConfigError(
                f"no vLLM server answers at {self.client.url}, but something else does ({error})"
            ) from None
        if written != list(needs.tokens):
            raise ConfigError(
                f"{who} has another tokenizer than the policy: it serves {card.id}; serve the run's model"
            )
        if needs.length > self.max_length:
            raise ConfigError(self._too_short(needs.length))
        mode = self._setting(who)
        if mode != "processed_logprobs":
            raise ConfigError(
                f"{who} tells {mode}, not the log-probs of the law it samples: start it with 'obverse serve-vllm', "
                "or with --logprobs-mode processed_logprobs"
            )
        self._try_ids(who)

    def _greeted(self) -> str:
        """The version that it says; ConfigError where what answers is no vLLM server."""
        try:
            return self.client.ask("/version", seconds=HEALTH_SECONDS, schema=About).version
        except EngineError as error:
            raise ConfigError(
                f"no vLLM server answers at {self.client.url}, but something else does ({error})"
            ) from None

    def _setting(self, who: str) -> str:
        """The kind of log-probs that it tells; ConfigError where it has no door for weights."""
        try:
            self.client.ask("/weight_info", seconds=HEALTH_SECONDS)
            told = self.client.ask("/server_info?config_format=json", seconds=60.0, schema=ServerInfo)
            return told.vllm_config.of_model.logprobs_mode
        except Refused as error:
            raise ConfigError(
                f"{who} (version {self.version}) takes no weights ({error}): start it with 'obverse serve-vllm', "
                "or vLLM 0.32 or newer with VLLM_SERVER_DEV_MODE=1"
            ) from None

    def _try_ids(self, who: str) -> None:
        """One token behind the vocabulary's last id, which shows whether ids are taken and whether it is as large."""
        params = SamplingParams((), 1, temperature=0.0)
        try:
            asked = {"token_ids": [self.needs.vocab_size - 1], "sampling_params": parameters(params, 0)}
            self.client.ask(GENERATE, asked, seconds=self.client.timeout)
        except Refused as error:
            if "vocabulary" in error.said:
                raise ConfigError(
                    f"{who} has another vocabulary: it does not know token {self.needs.vocab_size - 1} of the policy's "
                    f"{self.needs.vocab_size}; serve the run's model"
                ) from None
            raise ConfigError(
                f"{who} takes no token ids ({error}): start it with 'obverse serve-vllm', or with --enable-scale-out"
            ) from None

    def _nonsense(self, what: str) -> EngineError:
        return EngineError(
            f"the vLLM server at {self.client.url} (version {self.version}) sent {what}: see docs/vllm.md"
        )


def parameters(params: SamplingParams, seed: int) -> dict[str, Any]:
    """The law in vLLM's names; its own eos is ignored: the law says what stops. ConfigError for one it cannot draw."""
    if 0 < params.temperature < LEAST_TEMPERATURE:
        raise ConfigError(f"temperature {params.temperature:g}: vLLM draws at 0 or from {LEAST_TEMPERATURE:g} on")
    if params.min_p > 0 and params.top_p < 1:
        raise ConfigError("min_p and top_p: vLLM cuts by them in the other order, another law: give one of them")
    found: dict[str, Any] = {
        "n": 1,
        "seed": seed,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": params.max_tokens,
        "stop_token_ids": list(params.stop_ids),
        "ignore_eos": True,
        "logprobs": 0,  # of the token that was drawn alone
        "detokenize": bool(params.stop_strings),
    }
    if params.stop_strings:
        shown = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
        found |= {"stop": list(params.stop_strings), "include_stop_str_in_output": True, **shown}
    return found


__all__ = ["Delivery", "Needs", "VLLMSampler", "Voice", "parameters"]
