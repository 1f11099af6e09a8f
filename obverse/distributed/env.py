"""The rank of this process, from the environment variables of torchrun or accelerate launch. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from obverse.errors import ConfigError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class RankEnv:
    """Process `rank` of `size`, `local_rank` on its machine; the processes' store is at `address:port`."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    hosts_store: bool = True  # rank 0 serves the store itself; under torchrun the agent does
    attempt: str = "0"  # of torchrun's --max-restarts

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def read_rank_env(environ: Mapping[str, str] | None = None) -> RankEnv:
    """The values of RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; a single process without WORLD_SIZE.

    Raises ConfigError if some of them are missing or invalid.
    """
    environ = os.environ if environ is None else environ
    try:
        size = int(environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise ConfigError(f"WORLD_SIZE is {environ['WORLD_SIZE']!r}, not a number of processes") from None
    if size == 1:
        return RankEnv()
    missing = [name for name in NAMES if name not in environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {size} and {', '.join(missing)} is not set: start with torchrun, accelerate launch, or a "
            "launcher that sets all of them"
        )
    try:
        rank, local_rank, port = (int(environ[name]) for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"))
    except ValueError:
        raise ConfigError("RANK, LOCAL_RANK and MASTER_PORT must be numbers") from None
    if not 0 <= rank < size or local_rank < 0:
        raise ConfigError(f"RANK is {rank} and LOCAL_RANK {local_rank} of WORLD_SIZE {size} processes")
    hosts_store = environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return RankEnv(rank, size, local_rank, environ["MASTER_ADDR"], port, hosts_store, attempt)


def launcher(environ: Mapping[str, str] | None = None) -> str:
    """The beginning of a command that starts as many processes as this run has: obverse, or torchrun.

    With several machines the command is run on each of them.
    """
    environ = os.environ if environ is None else environ
    size = int(environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return "obverse"
    local = int(environ.get("LOCAL_WORLD_SIZE", size))
    nodes = size // max(local, 1)
    if nodes == 1:
        return f"torchrun --nproc-per-node {local} -m obverse"
    rendezvous = f"--rdzv-backend c10d --rdzv-endpoint {environ.get('MASTER_ADDR', 'HOST')}"
    return f"torchrun --nnodes {nodes} --nproc-per-node {local} {rendezvous} -m obverse"
