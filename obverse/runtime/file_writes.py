"""Atomic writes, locks between processes, and disk errors as StorageError. Does not import torch."""

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

# Errors of a disk or a path that cannot be written; any other one is a bug of the program.
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
def storage_errors(path: Path, advice: str) -> Iterator[None]:
    """Convert disk errors inside the block into a StorageError, whose message ends with `advice`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRNOS:
            raise
        failed = error.filename or path
        raise StorageError(f"{failed!s} cannot be written: {error.strerror}; {advice}") from error


@contextmanager
def exclusive_lock(file: Path, resource: str, advice: str) -> Iterator[None]:
    """Hold the lock `file` inside the block; the system releases the lock of a dead process.

    InUseError names the process that holds it. The lock file is not removed: two processes could then hold the lock.
    """
    with storage_errors(file, advice):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("a+b", buffering=0)
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{resource} is in use by {lock_holder(handle)}: wait for its end, or {advice}") from None
        try:
            with suppress(OSError):  # a full disk: the lock is held, without a name in its file
                handle.truncate(0)
                handle.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode("ascii", "replace"))
            yield
        finally:
            with suppress(OSError):
                handle.truncate(0)


def lock_holder(handle: BinaryIO) -> str:
    """The process that wrote a lock file, as the file names it."""
    return os.pread(handle.fileno(), MAX_HOLDER, 0).decode("ascii", "replace").strip() or "another program"


def write_atomically(target: Path, content: bytes) -> Path:
    """Write a file atomically, also against concurrent writers: a reader sees the old content or the new one.

    Raises OSError, and then leaves the old file and no other.
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
    """Flush a file, or the entries of a folder, to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
