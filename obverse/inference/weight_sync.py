"""The policy's weights on their way to a vLLM server: a folder that both see, and proof that they arrived."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.errors import ConfigError, EngineError
from obverse.inference.http import Client, Form, Gone, Refused
from obverse.inference.server_schemas import Checksums, Scored, WeightInfo

UNTOUCHED = "default"  # the version that vLLM stamps before anybody gave it weights
# Mean |difference| of the log-probs of a known text, by server and policy, above which these are not the same weights;
# in nats per token. bfloat16 against float32 is some hundredths apart.
MAX_GAP = 0.25
MAX_STILL = 8  # pushes of new weights after which the server's must have moved; bfloat16 may swallow a small one


class Voice(Protocol):
    """The policy as a server gets to know it. On several ranks every one calls both methods."""

    def save(self, folder: Path) -> None:
        """Write the weights as they are now, as safetensors that transformers would load."""

    def scores(self, ids: Sequence[int]) -> list[float]:
        """The policy's log-prob of every id but the first, given those before it."""


class Delivery:
    """Hands the weights after a step to the server, under a stamp that names the run and the step.

    `folder` is the run's, on a disk that the server sees under the same path; it holds the newest weights only. `name`
    is the run's, no other's; `known` are token ids by whose log-probs server and policy are compared after every push.
    """

    def __init__(
        self,
        client: Client,
        voice: Voice,
        folder: Path,
        name: str,
        known: Sequence[int],
        process_group: ProcessGroup = SINGLE_PROCESS,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.client, self.voice, self.folder, self.name, self.known = client, voice, folder.resolve(), name, list(known)
        self.process_group, self.check = process_group, check
        self.step: int | None = None  # after which the weights stand
        self.gap = 0.0  # of the last push, see MAX_GAP
        self._expected: list[float] = []
        self._last: tuple[str, Any] | None = None  # weights file and server's checksums after the last push
        self._num_still = 0
        self._is_proven = False

    @property
    def stamp(self) -> str:
        """What the server stamps on completions by these weights."""
        return f"{self.name}-{self.step}"

    @property
    def path(self) -> Path:
        """Where the weights lie."""
        return self.folder / f"step-{self.step}"

    def pack(self, step: int) -> None:
        """Write the weights as they are after `step`, in place of the former."""
        before, self.step = (self.path if self.step is not None else None), step
        self.voice.save(self.path)
        self._expected = self.voice.scores(self.known)
        if before is not None and self.process_group.is_first:
            shutil.rmtree(before, ignore_errors=True)

    def push(self) -> None:
        """Make the server load what was packed, and see that it did. Raises Gone, and ConfigError where it cannot."""
        self._tell("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(self.path)}})
        self._tell("/reset_prefix_cache", {})
        self._tell("/update_weight_version", {"new_version": self.stamp})
        if not self.is_there():  # it was started again meanwhile, or is somebody else's too
            raise Gone("it forgot whose weights it has")
        self._compare()
        self._prove()

    def is_there(self) -> bool:
        """Whether the server has these weights."""
        return self.client.ask("/weight_info", seconds=60.0, schema=WeightInfo).weight_version == self.stamp

    def forget(self) -> None:
        """The server is a new one: what its weights were before says nothing."""
        self._last, self._is_proven, self._num_still = None, False, 0

    def refuse_other(self, versions: Iterable[str]) -> None:
        """Raise Gone for a completion by the weights of a server that was started again, EngineError by others'."""
        for version in versions:
            if version != self.stamp:
                if version != UNTOUCHED and not version.startswith(self.name):
                    raise EngineError(
                        f"another run gives its weights to the vLLM server at {self.client.url} (version {version!r}): "
                        "give each run a server of its own"
                    )
                raise Gone(f"it answered by weights {version!r}")

    def _tell(self, path: str, body: Any, schema: type[Form] | None = None) -> Form | Any:
        try:
            return self.client.ask(path, body, self.client.timeout, schema=schema)
        except Refused as error:
            self.client.ask("/health", seconds=10.0)  # Gone, if it refused because it dies
            raise ConfigError(
                f"the vLLM server at {self.client.url} did not take the policy's weights ({error}): it must serve the "
                f"run's model, and see {self.path} on its own disks"
            ) from None

    def _compare(self) -> None:
        """The log-probs of a known text must be those of the policy."""
        asked = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        path = "/inference/v1/generate"
        places = self._tell(path, {"token_ids": self.known, "sampling_params": asked}, Scored).prompt_logprobs
        if len(places) != len(self.known):
            raise self._cannot_be(path, f"prompt_logprobs: {len(places)} places for {len(self.known)} tokens")
        told = [place and place.get(str(number)) for place, number in zip(places, self.known, strict=True)][1:]
        if None in told:
            raise self._cannot_be(path, f"prompt_logprobs.{told.index(None) + 1}: no score of its token")
        scores = [score.logprob for score in told if score]
        self.gap = fmean(abs(a - b) for a, b in zip(scores, self._expected, strict=True))
        if not self.gap <= MAX_GAP:
            raise ConfigError(
                f"the vLLM server at {self.client.url} took the weights, and scores a known text {self.gap:.3g} "
                "nats per token apart from the policy: it serves another model; serve the run's"
            )

    def _prove(self) -> None:
        """Once in a server's life: weights that moved here must have moved there."""
        if self._is_proven:
            return
        here = digest(self.path)
        there = self._tell("/weight_checker", {"action": "checksum"}, Checksums).checksums
        if self._last is not None and self._last[0] != here:
            self._is_proven = self._last[1] != there
            self._num_still += 1
            if not self._is_proven and self._num_still >= MAX_STILL:
                raise ConfigError(
                    f"the vLLM server at {self.client.url} says that it reloads weights, and after {self._num_still} "
                    "updates they are what they were: see its log"
                )
        self._last = (here, there)

    def _cannot_be(self, path: str, what: str) -> EngineError:
        return EngineError(f"the vLLM server at {self.client.url} sent at {path} what cannot be: {what}")


def digest(folder: Path) -> str:
    """sha256 of a folder's safetensors."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(2**22):
                found.update(block)
    return found.hexdigest()
