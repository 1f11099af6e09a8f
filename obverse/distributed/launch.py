"""How a process joins and leaves the process group: the order in which connections open and close."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from obverse.distributed.env import RankEnv, read_rank_env
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup, is_broken_connection, reason
from obverse.distributed.watchdog import Watchdog
from obverse.errors import PeerError, UserError

START_SECONDS = 300.0  # to wait for all ranks
LEAVE_SECONDS = 10.0  # that the rank with the store waits for the others to leave
# A collective may wait long for a rank with more work: the watchdog distinguishes a busy rank from a lost one.
COLLECTIVE_TIMEOUT = timedelta(hours=24)


@contextmanager
def join_process_group(timeout: float, device: str = "auto") -> Iterator[ProcessGroup]:
    """The process group of the environment, or of a single process; torch.distributed is initialized in the context.

    Raises PeerError if not all ranks join. An exception in the context is announced to the other ranks. If a rank makes
    no progress for `timeout` seconds, all ranks end.
    """
    rank_env = read_rank_env()
    if rank_env.size == 1:
        yield SINGLE_PROCESS
        return
    if is_loopback(rank_env.address):  # ranks on this machine alone: no other can connect
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    device_of_rank = rank_device(rank_env, device)
    store = open_store(rank_env, serves=rank_env.hosts_store and rank_env.is_first)
    wait_for_ranks(rank_env, store)
    watchdog = Watchdog(rank_env, lambda seconds: open_store(rank_env, seconds=seconds), timeout)
    try:
        dist.init_process_group(
            "gloo" if device_of_rank.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=dist.PrefixStore("ranks", store),  # type: ignore[attr-defined]
            rank=rank_env.rank,
            world_size=rank_env.size,
            timeout=COLLECTIVE_TIMEOUT,
        )
        process_group = ProcessGroup(rank_env.rank, rank_env.size, device_of_rank, watchdog)
        yield process_group
        if not watchdog.has_failed:
            leave_process_group(process_group, rank_env, store, watchdog)
    except BaseException as error:
        if isinstance(error, RuntimeError) and is_broken_connection(error):
            peer_error = PeerError(watchdog.failure_reason(reason(error)))
            watchdog.announce_failure(peer_error, peer_error.exit_code)
            raise peer_error from None
        watchdog.announce_failure(error, error.exit_code if isinstance(error, UserError) else 1)
        raise


def wait_for_ranks(rank_env: RankEnv, store: Any) -> None:
    """Wait until every rank has connected to the store; PeerError if not all do within START_SECONDS."""
    number, deadline = store.add("joined", 1), time.monotonic() + START_SECONDS
    while number < rank_env.size:
        if time.monotonic() > deadline:
            raise PeerError(
                f"rank {rank_env.rank}: {number} of {rank_env.size} ranks have connected to "
                f"{rank_env.address}:{rank_env.port} within {START_SECONDS:.0f} s: look for errors of the others, and "
                "start all ranks again"
            )
        time.sleep(0.05)
        number = store.add("joined", 0)


def rank_device(rank_env: RankEnv, device: str) -> torch.device:
    """The device of this rank: the CUDA device with its local rank, or the CPU without CUDA."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    cuda_device = torch.device(device if ":" in device else f"cuda:{rank_env.local_rank}")
    torch.cuda.set_device(cuda_device)  # `cuda` without a number refers to it
    return cuda_device


def open_store(rank_env: RankEnv, serves: bool = False, seconds: float = START_SECONDS) -> Any:
    """A connection to the ranks' store, with a timeout in seconds; with `serves`, this process hosts the store.

    Rank 0 hosts it, unless torchrun's agent does.
    """
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            rank_env.address,
            rank_env.port,
            rank_env.size,
            is_master=serves,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            master_listen_fd=listening_socket(rank_env) if serves else None,
        )
    except (RuntimeError, OSError) as error:
        raise PeerError(
            f"rank {rank_env.rank}: no connection to {rank_env.address}:{rank_env.port}, where rank 0 should listen: "
            f"{str(error).splitlines()[0]}; check MASTER_ADDR and MASTER_PORT, and that rank 0 was started"
        ) from None
    return dist.PrefixStore(f"obverse/{rank_env.attempt}", store)  # type: ignore[attr-defined]


def listening_socket(rank_env: RankEnv) -> int:
    """A socket that listens at the group's address only; torch's would listen at all addresses of the machine."""
    family, kind, protocol, _, address = socket.getaddrinfo(rank_env.address, rank_env.port, type=socket.SOCK_STREAM)[0]
    with closing(socket.socket(family, kind, protocol)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
        return listener.detach()


def leave_process_group(process_group: ProcessGroup, rank_env: RankEnv, store: Any, watchdog: Watchdog) -> None:
    """End a run without errors: all ranks stop their watchdogs, then close their connections.

    The rank that hosts the store leaves last.
    """
    watchdog.leave()
    process_group.barrier()
    watchdog.stop()
    dist.destroy_process_group()
    number, deadline = store.add("left", 1), time.monotonic() + LEAVE_SECONDS
    while rank_env.hosts_store and rank_env.is_first and number < rank_env.size and time.monotonic() < deadline:
        time.sleep(0.02)
        number = store.add("left", 0)


def is_loopback(address: str) -> bool:
    """Whether an address or a host's name is a loopback address of this machine."""
    try:
        return ipaddress.ip_address(socket.gethostbyname(address)).is_loopback
    except (OSError, ValueError):
        return False
