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

from obverse.dist.place import Place, find_place
from obverse.dist.team import ALONE, Team
from obverse.errors import PeerError

START_SECONDS = 300.0  # that ranks may come later than the first one
LEAVE_SECONDS = 10.0  # that the rank which serves the store waits for the others to be gone


@contextmanager
def joined(timeout: float, device: str = "auto") -> Iterator[Team]:
    """The team that the environment names, a team of one without it; inside, torch.distributed works.

    Raises PeerError when the others do not come.
    """
    place = find_place()
    if place.size == 1:
        yield ALONE
        return
    if is_loopback(place.address):  # nobody outside is asked, so nobody outside is let in
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    where = own_device(place, device)
    store = open_store(place, timeout)
    team = Team(place.rank, place.size, where)
    try:
        dist.init_process_group(
            "gloo" if where.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=dist.PrefixStore("ranks", store),  # type: ignore[attr-defined]
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=timeout),
        )
        yield team
        leave(team, place, store)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def own_device(place: Place, device: str) -> torch.device:
    """The device of this rank: the CUDA device of its number on the machine where there are any, else the CPU."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    own = torch.device(device if ":" in device else f"cuda:{place.local_rank}")
    torch.cuda.set_device(own)  # `cuda` without a number is this one from now on
    return own


def open_store(place: Place, timeout: float) -> Any:
    """A connection to the ranks' common store; the first rank serves it, unless torchrun's agent does."""
    serves = place.hosts_store and place.is_first
    try:
        listener = listening(place) if serves else None
        store = dist.TCPStore(  # type: ignore[attr-defined]
            place.address,
            place.port,
            place.size,
            is_master=serves,
            timeout=timedelta(seconds=max(timeout, START_SECONDS)),
            wait_for_workers=False,
            master_listen_fd=listener,
        )
    except (RuntimeError, OSError) as error:
        raise PeerError(
            f"rank {place.rank}: no connection to {place.address}:{place.port}, where rank 0 should be: "
            f"{str(error).splitlines()[0]}; check MASTER_ADDR and MASTER_PORT, and that rank 0 was started"
        ) from None
    return dist.PrefixStore(f"obverse/{place.attempt}", store)  # type: ignore[attr-defined]


def listening(place: Place) -> int:
    """A socket that listens at the team's own address, and at no other; torch's would listen at all of the machine."""
    family, kind, protocol, _, address = socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM)[0]
    with closing(socket.socket(family, kind, protocol)) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(1024)
        return opened.detach()


def leave(team: Team, place: Place, store: Any) -> None:
    """The order of a good end: all ranks are done, each closes its connections, who serves the store is the last."""
    team.barrier()
    dist.destroy_process_group()
    number = store.add("left", 1)
    if place.hosts_store and place.is_first:
        waited = 0.0
        while number < place.size and waited < LEAVE_SECONDS:
            waited += 0.02
            time.sleep(0.02)
            number = store.add("left", 0)


def is_loopback(address: str) -> bool:
    """Whether an address or a host's name means this machine and is reached from nowhere else."""
    try:
        return ipaddress.ip_address(socket.gethostbyname(address)).is_loopback
    except (OSError, ValueError):
        return False
