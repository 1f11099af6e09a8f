"""Writing where others may write too, and where the disk may refuse. No torch here."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from obverse.errors import InUseError, StorageError

# What a system says of a disk or a path that it does not write to; anything else is a mistake of the program.
DISK_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
    | {
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ELOOP,
        errno.EMFILE,
        errno.ENFILE,
    }
)
MAX_HOLDER = 200  # bytes of a lock file that are read


@contextmanager
def storage_errors(place: Path, advice: str) -> Iterator[None]:
    """Say a disk that refuses, inside the block, in one sentence that ends in `advice`: a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRNOS:
            raise
        what = error.filename or place
        raise StorageError(f"{what!s} cannot be written: {error.strerror}; {advice}") from error


@contextmanager
def exclusive_lock(file: Path, what: str, advice: str) -> Iterator[None]:
    """Keep other programs out of what `file` guards, for the block; the system frees what a dead program held.

    InUseError names the one that is there. The lock file stays: taking it away would let two programs in.
    """
    with storage_errors(file, advice):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("a+b", buffering=0)
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{what} is in use by {lock_holder(handle)}: wait for its end, or {advice}") from None
        try:
            with suppress(OSError):  # a full disk: the lock holds all the same, without a name
                handle.truncate(0)
                handle.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode("ascii", "replace"))
            yield
        finally:
            with suppress(OSError):
                handle.truncate(0)


def lock_holder(handle: BinaryIO) -> str:
    """Who wrote a lock file, as far as it says so."""
    return os.pread(handle.fileno(), MAX_HOLDER, 0).decode("ascii", "replace").strip() or "another program"


def write_atomically(target: Path, content: bytes) -> Path:
    """A whole file at once: a reader sees the old one or the new one, and programs at the same time disturb no other.

    Raises OSError, with what was there as it was and nothing left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    return target


def sync(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
