"""Sends the policy's weights to a vLLM server through a shared folder, and verifies that the server loaded them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.errors import ConfigError, EngineError
from obverse.inference.http import Client, RequestRejected, Schema, ServerUnavailable
from obverse.inference.server_schemas import Checksums, Scored, WeightInfo

INITIAL_VERSION = "default"  # vLLM's version before the first reload of weights
# Mean |difference| of the log-probs of a reference text by server and policy above which these are not the same
# weights; in nats per token. bfloat16 against float32 differs by some hundredths.
MAX_GAP = 0.25
MAX_UNCHANGED = 8  # pushes of new weights after which the server's must have changed; bfloat16 may round a small change


class WeightSource(Protocol):
    """The policy, as far as a server needs it. With several ranks, every rank calls both methods."""

    def save(self, folder: Path) -> None:
        """Write the current weights as safetensors that transformers loads."""

    def log_probs(self, ids: Sequence[int]) -> list[float]:
        """The policy's log-prob of each id but the first, given the ids before it."""


class WeightSync:
    """Makes a server load the policy's weights after a step, under a version that names the run and the step.

    `folder` must have the same path on the server; it holds the newest weights only. `name` is unique to the run;
    After every push the log-probs of `reference_ids` by server and policy are compared. `check` is called
    in every pause and may raise.
    """

    def __init__(
        self,
        client: Client,
        source: WeightSource,
        folder: Path,
        name: str,
        reference_ids: Sequence[int],
        process_group: ProcessGroup = SINGLE_PROCESS,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.client, self.source, self.folder, self.name = client, source, folder.resolve(), name
        self.reference_ids, self.process_group, self.check = list(reference_ids), process_group, check
        self.step: int | None = None  # of the weights in the folder
        self.gap = 0.0  # of the last push, see MAX_GAP
        self._expected: list[float] = []  # the policy's log-probs of `reference_ids`
        self._checksums: tuple[str, Any] | None = None  # of the weights file and of the server, after the last push
        self._num_unchanged = 0
        self._is_verified = False

    @property
    def version(self) -> str:
        """The version that the server returns with completions by these weights."""
        return f"{self.name}-{self.step}"

    @property
    def path(self) -> Path:
        """The folder of the current weights."""
        return self.folder / f"step-{self.step}"

    def save(self, step: int) -> None:
        """Write the current weights, those after `step`, in place of the former."""
        previous, self.step = (self.path if self.step is not None else None), step
        self.source.save(self.path)
        self._expected = self.source.log_probs(self.reference_ids)
        if previous is not None and self.process_group.is_first:
            shutil.rmtree(previous, ignore_errors=True)

    def push(self) -> None:
        """Make the server load the saved weights and verify that it did. Raises ServerUnavailable and ConfigError."""
        self._request("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(self.path)}})
        self._request("/reset_prefix_cache", {})
        self._request("/update_weight_version", {"new_version": self.version})
        if not self.is_loaded():  # it was restarted meanwhile, or another run uses it too
            raise ServerUnavailable("it lost the version of its weights")
        self._compare_log_probs()
        self._compare_checksums()

    def is_loaded(self) -> bool:
        """Whether the server has these weights."""
        return self.client.request("/weight_info", seconds=60.0, schema=WeightInfo).weight_version == self.version

    def reset(self) -> None:
        """Forget the checksums: the server was restarted."""
        self._checksums, self._is_verified, self._num_unchanged = None, False, 0

    def check_versions(self, versions: Iterable[str]) -> None:
        """Check the versions that a completion names.

        Raises ServerUnavailable for those of a restarted server, EngineError for those of another run.
        """
        for version in versions:
            if version != self.version:
                if version != INITIAL_VERSION and not version.startswith(self.name):
                    raise EngineError(
                        f"another run sends its weights to {self.client.name} (version "
                        f"{version!r}): give each run a server of its own"
                    )
                raise ServerUnavailable(f"it sampled from weights {version!r}")

    def _request(self, path: str, body: Any, schema: type[Schema] | None = None) -> Schema | Any:
        try:
            return self.client.request(path, body, self.client.timeout, schema=schema)
        except RequestRejected as error:
            self.client.request("/health", seconds=10.0)  # raises ServerUnavailable if it is shutting down
            raise ConfigError(
                f"{self.client.name} did not take the policy's weights ({error}): it must serve the "
                f"run's model, and see {self.path} on its own disks"
            ) from None

    def _compare_log_probs(self) -> None:
        """Raise ConfigError unless the server's log-probs of the reference text are those of the policy."""
        params = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        path = "/inference/v1/generate"
        body = {"token_ids": self.reference_ids, "sampling_params": params}
        rows = self._request(path, body, Scored).prompt_logprobs
        if len(rows) != len(self.reference_ids):
            raise self.client.invalid(
                path, f"prompt_logprobs: {len(rows)} entries for {len(self.reference_ids)} tokens"
            )
        scores = [row and row.get(str(number)) for row, number in zip(rows, self.reference_ids, strict=True)][1:]
        if None in scores:
            raise self.client.invalid(path, f"prompt_logprobs.{scores.index(None) + 1}: no log-prob of its token")
        log_probs = [score.logprob for score in scores if score]
        self.gap = fmean(abs(a - b) for a, b in zip(log_probs, self._expected, strict=True))
        if not self.gap <= MAX_GAP:
            raise ConfigError(
                f"{self.client.name} loaded the weights, and its log-probs of a reference text "
                f"differ from the policy's by {self.gap:.3g} nats per token: serve the run's model"
            )

    def _compare_checksums(self) -> None:
        """Once per server: when the policy's weights have changed, so must the server's have."""
        if self._is_verified:
            return
        local = digest(self.path)
        remote = self._request("/weight_checker", {"action": "checksum"}, Checksums).checksums
        if self._checksums is not None and self._checksums[0] != local:
            self._is_verified = self._checksums[1] != remote
            self._num_unchanged += 1
            if not self._is_verified and self._num_unchanged >= MAX_UNCHANGED:
                raise ConfigError(
                    f"{self.client.name} reports that it reloads weights, but after "
                    f"{self._num_unchanged} updates they have not changed: see its log"
                )
        self._checksums = (local, remote)


def digest(folder: Path) -> str:
    """sha256 of a folder's safetensors."""
    checksum = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(2**22):
                checksum.update(block)
    return checksum.hexdigest()
