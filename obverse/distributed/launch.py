"""How a process joins its team, and how it leaves: in which order connections open and close."""

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

from obverse.distributed.env import RankEnv, find_place
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup, is_broken_connection, reason
from obverse.distributed.watchdog import Watchdog
from obverse.errors import PeerError, UserError

START_SECONDS = 300.0  # that ranks may come later than the first one
LEAVE_SECONDS = 10.0  # that the rank which serves the store waits for the others to be gone
# A collective may wait long for a rank that has more to do: the watchdog knows a busy rank from a lost one.
COLLECTIVE = timedelta(hours=24)


@contextmanager
def joined(timeout: float, device: str = "auto") -> Iterator[ProcessGroup]:
    """The team that the environment names, a team of one without it; inside, torch.distributed works.

    Raises PeerError when the others do not come. What is raised inside is told to the others before it goes on. After
    `timeout` seconds in which a rank does not get on, all end.
    """
    place = find_place()
    if place.size == 1:
        yield SINGLE_PROCESS
        return
    if is_loopback(place.address):  # nobody outside is asked, so nobody outside is let in
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    where = own_device(place, device)
    store = open_store(place, serves=place.hosts_store and place.is_first)
    meet(place, store)
    watchdog = Watchdog(place, lambda seconds: open_store(place, seconds=seconds), timeout)
    try:
        dist.init_process_group(
            "gloo" if where.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=dist.PrefixStore("ranks", store),  # type: ignore[attr-defined]
            rank=place.rank,
            world_size=place.size,
            timeout=COLLECTIVE,
        )
        process_group = ProcessGroup(place.rank, place.size, where, watchdog)
        yield process_group
        if not watchdog.has_failed:
            leave(process_group, place, store, watchdog)
    except BaseException as error:
        if isinstance(error, RuntimeError) and is_broken_connection(error):
            lost = PeerError(watchdog.lost(reason(error)))
            watchdog.fail(lost, lost.exit_code)
            raise lost from None
        watchdog.fail(error, error.exit_code if isinstance(error, UserError) else 1)
        raise


def meet(place: RankEnv, store: Any) -> None:
    """Wait until every rank has come to the store; PeerError if they do not within START_SECONDS."""
    number, deadline = store.add("here", 1), time.monotonic() + START_SECONDS
    while number < place.size:
        if time.monotonic() > deadline:
            raise PeerError(
                f"rank {place.rank}: {number} of {place.size} ranks have come to {place.address}:{place.port} within "
                f"{START_SECONDS:.0f} s: look for the errors of those that have not, and start all of them anew"
            )
        time.sleep(0.05)
        number = store.add("here", 0)


def own_device(place: RankEnv, device: str) -> torch.device:
    """The device of this rank: the CUDA device of its number on the machine where there are any, else the CPU."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    own = torch.device(device if ":" in device else f"cuda:{place.local_rank}")
    torch.cuda.set_device(own)  # `cuda` without a number is this one from now on
    return own


def open_store(place: RankEnv, serves: bool = False, seconds: float = START_SECONDS) -> Any:
    """A connection to the ranks' common store, which answers within so many seconds; with `serves` the store itself.

    The first rank serves it, unless torchrun's agent does.
    """
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            place.address,
            place.port,
            place.size,
            is_master=serves,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            master_listen_fd=listening(place) if serves else None,
        )
    except (RuntimeError, OSError) as error:
        raise PeerError(
            f"rank {place.rank}: no connection to {place.address}:{place.port}, where rank 0 should be: "
            f"{str(error).splitlines()[0]}; check MASTER_ADDR and MASTER_PORT, and that rank 0 was started"
        ) from None
    return dist.PrefixStore(f"obverse/{place.attempt}", store)  # type: ignore[attr-defined]


def listening(place: RankEnv) -> int:
    """A socket that listens at the team's own address, and at no other; torch's would listen at all of the machine."""
    family, kind, protocol, _, address = socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM)[0]
    with closing(socket.socket(family, kind, protocol)) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(1024)
        return opened.detach()


def leave(process_group: ProcessGroup, place: RankEnv, store: Any, watchdog: Watchdog) -> None:
    """The order of a good end: all ranks are done, nobody is watched any more, each closes its connections.

    Who serves the store is the last to go.
    """
    watchdog.leave()
    process_group.barrier()
    watchdog.stop()
    dist.destroy_process_group()
    number, deadline = store.add("left", 1), time.monotonic() + LEAVE_SECONDS
    while place.hosts_store and place.is_first and number < place.size and time.monotonic() < deadline:
        time.sleep(0.02)
        number = store.add("left", 0)


def is_loopback(address: str) -> bool:
    """Whether an address or a host's name means this machine and is reached from nowhere else."""
    try:
        return ipaddress.ip_address(socket.gethostbyname(address)).is_loopback
    except (OSError, ValueError):
        return False
