"""A sampler that uses a stock vLLM server: it sends the policy's weights, then token ids, and receives completions.

The server must offer what `obverse serve-vllm` switches on: the endpoint for token ids (--enable-scale-out), log-probs
of the distribution that was sampled (--logprobs-mode processed_logprobs), and the development endpoints that reload
weights, stamp them with a version and return it with every completion (VLLM_SERVER_DEV_MODE=1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from obverse.errors import ConfigError, EngineError
from obverse.inference.http import Client, RequestRejected, ServerUnavailable
from obverse.inference.request_rounds import HEALTH_SECONDS, RequestRounds
from obverse.inference.server_schemas import About, Cards, Completed, ServerInfo, Tokenized
from obverse.inference.stops import SLACK, Stops
from obverse.inference.types import Completion, SamplingParams, SamplingRequest
from obverse.inference.weight_sync import WeightSync
from obverse.types import ModelInput

GENERATE = "/inference/v1/generate"
MIN_TEMPERATURE = 0.01  # vLLM raises lower ones to this


@dataclass(frozen=True)
class Job:
    """One completion to request."""

    prompt: ModelInput
    seed: int


@dataclass(frozen=True)
class ServerRequirements:
    """What a run needs of a server; a server without it is refused before the first step.

    `tokens` are the ids of `text` by the run's tokenizer; `length` is the longest prompt plus completion, in tokens.
    """

    vocab_size: int
    text: str
    tokens: Sequence[int]
    length: int


class VLLMSampler:
    """Samples from a vLLM server that holds the policy's weights after a step.

    Every completion is a request with its own seed; the server's prefix cache computes the prompt of a group once. At
    most `at_once` requests are in flight. When the server is unavailable, the sampler waits for it (`client.timeout`
    seconds), sends the weights again, and repeats the requests that were lost. `note` receives lines for the user.
    """

    def __init__(
        self,
        client: Client,
        weights: WeightSync,
        requirements: ServerRequirements,
        decode: Callable[[Sequence[int]], str] | None = None,
        at_once: int = 256,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.client, self.weights, self.requirements = client, weights, requirements
        self.decode, self.at_once, self.note = decode, at_once, note
        self.version = ""  # of vLLM
        self.max_length = 0  # tokens of prompt and completion that the server takes

    def connect(self) -> None:
        """Check the server. Raises ConfigError if it cannot serve this run, EngineError if none answers."""
        self.client.with_retries(self._check_server, self.weights.check)

    def sync_weights(self, step: int) -> None:
        """Send the server the policy's weights after `step`, unless it has them."""
        if step != self.weights.step:
            self.weights.save(step)
            if self.weights.process_group.is_first:
                self.client.with_retries(self.weights.push, self.weights.check)
            self.weights.process_group.barrier()

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        """See Sampler.sample. Raises EngineError when the server stays away or sends invalid answers."""
        if params.max_seconds is not None or params.max_call_tokens is not None:
            raise ConfigError("max_sampling_seconds: a vLLM server cannot cut a call off; leave it out")
        self._refuse_long(requests, params)
        jobs = [Job(request.prompt, seed) for request in requests for seed in request.seeds]
        rounds = RequestRounds[Job, Completed, Completion](
            self.client,
            lambda job: self._send(job, params),
            lambda job, answer: self._completion(answer, params),
            self._recover,
            self.at_once,
        )
        completions = iter(rounds.run(jobs, progress or (lambda num: None)))
        return [[next(completions) for _ in request.seeds] for request in requests]

    def _send(self, job: Job, params: SamplingParams) -> Future[Completed]:
        body = {
            "token_ids": list(job.prompt.token_ids),
            "cache_salt": self.weights.version,
            "sampling_params": vllm_params(params, job.seed),
        }
        return self.client.send(GENERATE, body, schema=Completed)

    def _completion(self, answer: Completed, params: SamplingParams) -> Completion:
        """The completion that an answer holds. Raises ServerUnavailable where it must be requested again."""
        (choice,) = answer.choices
        if choice.finish_reason not in ("stop", "length"):
            raise ServerUnavailable(f"a completion ended by {choice.finish_reason}")
        if not choice.weight_versions:
            raise self._invalid("a completion without weight_versions: its weights are unknown")
        self.weights.check_versions({span.version for span in choice.weight_versions})
        scores = choice.logprobs.content if choice.logprobs is not None else []
        if not 0 < len(choice.token_ids) <= params.max_tokens:
            raise self._invalid(f"{len(choice.token_ids)} token_ids, not 1 to {params.max_tokens} as requested")
        if choice.token_ids != [score.token_id for score in scores]:
            raise self._invalid("token_ids that differ from those of its logprobs")
        if max(choice.token_ids) >= self.requirements.vocab_size:
            raise self._invalid(f"token_ids with {max(choice.token_ids)}, beyond the vocabulary")
        if choice.finish_reason == "stop" and not params.stop_strings and choice.token_ids[-1] not in params.stop_ids:
            raise self._invalid("finish_reason stop after a token that is not a stop token")
        behavior = [score.logprob for score in scores]
        return self._truncated(choice.token_ids, behavior, choice.finish_reason == "stop", params)

    def _truncated(self, ids: list[int], behavior: list[float], stopped: bool, params: SamplingParams) -> Completion:
        """The completion, ended by the run's stop strings: the server may have sampled tokens after one."""
        if params.stop_strings:
            stops = Stops(params, self.decode)
            end = next((end for end in range(max(1, len(ids) - SLACK), len(ids) + 1) if stops.stop(ids[:end])), 0)
            ids, behavior, stopped = ids[: end or None], behavior[: end or None], stopped or end > 0
        if params.temperature == 0:  # the server returns the model's log-prob; greedy decoding has probability 1
            behavior = [0.0] * len(ids)
        return Completion(ids, behavior, "stop" if stopped else "length", self.weights.step or 0)

    def _recover(self, error: ServerUnavailable) -> None:
        """Wait until the server answers again and holds the weights."""
        self.note(f"{self.client.name} is unavailable ({error}): waiting for it")
        self.client.with_retries(self._reconnect, self.weights.check, error.retry_after)
        self.note("the vLLM server is back, and has the weights")

    def _reconnect(self) -> None:
        """Check the server as at first; a restarted one gets the weights, from the rank that notices it first."""
        self._check_server()
        if not self.weights.is_loaded():
            self.weights.reset()
            self.weights.push()

    def _refuse_long(self, requests: Sequence[SamplingRequest], params: SamplingParams) -> None:
        longest = max((len(request.prompt) for request in requests), default=0) + params.max_tokens
        if self.max_length and longest > self.max_length:
            raise ConfigError(self._too_long(longest))

    def _too_long(self, longest: int) -> str:
        return (
            f"{self.client.name} takes {self.max_length} tokens, prompt and completion need "
            f"{longest}: start it with --max_model_len {longest}, or lower --max_completion_length"
        )

    def _check_server(self) -> None:
        """Raise ConfigError unless the server meets the requirements of the run."""
        server, required = self.client.name, self.requirements
        self.version = self._server_version()
        try:
            (card, *_) = self.client.request("/v1/models", seconds=HEALTH_SECONDS, schema=Cards).data
            self.max_length = card.max_model_len
            text = {"prompt": required.text, "add_special_tokens": False}
            tokens = self.client.request("/tokenize", text, seconds=HEALTH_SECONDS, schema=Tokenized).tokens
        except RequestRejected as error:
            raise self._not_vllm(error) from None
        if tokens != list(required.tokens):
            raise ConfigError(
                f"{server} has another tokenizer than the policy: it serves {card.id}; serve the run's model"
            )
        if required.length > self.max_length:
            raise ConfigError(self._too_long(required.length))
        mode = self._logprobs_mode(server)
        if mode != "processed_logprobs":
            raise ConfigError(
                f"{server} returns {mode}, not log-probs of the distribution that it samples: start it with "
                "'obverse serve-vllm', or with --logprobs-mode processed_logprobs"
            )
        self._check_token_ids(server)

    def _server_version(self) -> str:
        try:
            return self.client.request("/version", seconds=HEALTH_SECONDS, schema=About).version
        except (RequestRejected, EngineError) as error:
            raise self._not_vllm(error) from None

    def _not_vllm(self, error: Exception) -> ConfigError:
        return ConfigError(f"the server at {self.client.url} is not a vLLM server ({error}): correct --vllm_url")

    def _logprobs_mode(self, server: str) -> str:
        """The kind of log-probs that the server returns; ConfigError if it has no endpoints for weights."""
        try:
            self.client.request("/weight_info", seconds=HEALTH_SECONDS)
            info = self.client.request("/server_info?config_format=json", seconds=60.0, schema=ServerInfo)
            return info.vllm_config.of_model.logprobs_mode
        except RequestRejected as error:
            raise ConfigError(
                f"{server} (version {self.version}) does not accept weights ({error}): start it with "
                "'obverse serve-vllm', or vLLM 0.32 or newer with VLLM_SERVER_DEV_MODE=1"
            ) from None

    def _check_token_ids(self, server: str) -> None:
        """Request one token after the last id of the vocabulary: are ids accepted, and is the vocabulary as large?"""
        last_id = self.requirements.vocab_size - 1
        params = vllm_params(SamplingParams((), 1, temperature=0.0), 0)
        body = {"token_ids": [last_id], "sampling_params": params}
        try:
            self.client.request(GENERATE, body, seconds=self.client.timeout)
        except RequestRejected as error:
            if "vocabulary" in error.detail:
                raise ConfigError(
                    f"{server} has another vocabulary: it does not know token {last_id} of the policy's "
                    f"{last_id + 1}; serve the run's model"
                ) from None
            raise ConfigError(
                f"{server} does not accept token ids ({error}): start it with 'obverse serve-vllm', or with "
                "--enable-scale-out"
            ) from None

    def _invalid(self, reason: str) -> EngineError:
        return EngineError(f"{self.client.name} (version {self.version}) sent {reason}: see docs/vllm.md")


def vllm_params(params: SamplingParams, seed: int) -> dict[str, Any]:
    """Sampling parameters by vLLM's names; ConfigError for those that vLLM samples otherwise.

    The server's own end-of-sequence token is ignored: `stop_ids` alone end a completion.
    """
    if 0 < params.temperature < MIN_TEMPERATURE:
        raise ConfigError(f"--temperature {params.temperature:g}: vLLM samples at 0 or from {MIN_TEMPERATURE:g} on")
    if params.min_p > 0 and params.top_p < 1:
        raise ConfigError("--min_p and --top_p: vLLM applies them in the other order: give one of them")
    values: dict[str, Any] = {
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
        "logprobs": 0,  # of the sampled token alone
        "detokenize": bool(params.stop_strings),
    }
    if params.stop_strings:
        values |= {
            "stop": list(params.stop_strings),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        }
    return values
