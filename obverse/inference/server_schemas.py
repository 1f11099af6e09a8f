"""Schemas of a vLLM server's answers; an answer that does not match is refused with the name of its field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Version = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0)]
# a log-prob is at most 0; kernels may round it a little above
LogProb = Annotated[float, Field(le=1e-3)]


class Answer(BaseModel):
    """JSON of exact types, without NaN and infinity; fields that are not declared are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class About(Answer):
    """GET /version."""

    version: Version


class Card(Answer):
    """A served model."""

    id: Version
    max_model_len: Annotated[int, Field(gt=0)]


class Cards(Answer):
    """GET /v1/models."""

    data: Annotated[list[Card], Field(min_length=1)]


class Tokenized(Answer):
    """POST /tokenize."""

    tokens: list[TokenId]


class WeightInfo(Answer):
    """GET /weight_info."""

    weight_version: Version


class ModelSettings(Answer):
    logprobs_mode: Version


class Settings(Answer):
    of_model: ModelSettings = Field(alias="model_config")


class ServerInfo(Answer):
    """GET /server_info."""

    vllm_config: Settings


class Checksums(Answer):
    """POST /weight_checker: a checksum per weight, or one for all."""

    checksums: Annotated[dict[str, Any] | list[Any] | str, Field(min_length=1)]


class Score(Answer):
    logprob: LogProb


class Scored(Answer):
    """POST /inference/v1/generate with prompt_logprobs: scores by token id for each position but the first."""

    prompt_logprobs: Annotated[list[dict[str, Score] | None], Field(min_length=1)]


class ScoredToken(Answer):
    token_id: TokenId
    logprob: LogProb


class LogProbs(Answer):
    content: list[ScoredToken]


class Span(Answer):
    """The version of the weights that sampled a part of a completion."""

    version: Version


class Choice(Answer):
    finish_reason: Literal["stop", "length", "abort", "error"]
    token_ids: list[TokenId]
    logprobs: LogProbs | None
    weight_versions: list[Span] | None


class Completed(Answer):
    """POST /inference/v1/generate."""

    choices: Annotated[list[Choice], Field(min_length=1, max_length=1)]


class ServedModel(Answer):
    """A model of GET /v1/models; only some servers name its context length."""

    id: Version
    max_model_len: Annotated[int, Field(gt=0)] | None = None


class ServedModels(Answer):
    """GET /v1/models of any server."""

    data: list[ServedModel]


class PromptScore(Answer):
    logprob: LogProb
    decoded_token: str | None = None


class EchoedLogProbs(Answer):
    """The log-probs of an echoed prompt, with its tokens as text; the first has none."""

    tokens: list[str]
    token_logprobs: list[LogProb | None]


class ScoredPrompt(Answer):
    """A choice of POST /v1/completions with prompt_logprobs (by token id) or echo and logprobs."""

    finish_reason: str | None = None
    prompt_token_ids: list[TokenId] | None = None
    prompt_logprobs: list[dict[str, PromptScore] | None] | None = None
    logprobs: EchoedLogProbs | None = None


class ScoredPrompts(Answer):
    """POST /v1/completions."""

    choices: Annotated[list[ScoredPrompt], Field(min_length=1, max_length=1)]
