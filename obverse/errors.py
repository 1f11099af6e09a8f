"""What can go wrong outside our code, each with the exit code that the command line ends with."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: one sentence that says what, where and what to do. Never a traceback."""

    exit_code = 2


class ConfigError(UserError):
    """A wrong option, value or combination (exit 2)."""


class DataError(UserError):
    """A data set that cannot be read or has bad rows (exit 3)."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or does not fit the run (exit 4)."""

    exit_code = 4


class DamageError(CheckpointError):
    """A stored file that is not what was written: changed, cut off or taken from elsewhere (exit 4)."""


class DivergedError(UserError):
    """Training produced numbers that are not finite, or sampler and trainer mean different policies (exit 5)."""

    exit_code = 5


class StorageError(UserError):
    """The run folder cannot be written (exit 6)."""

    exit_code = 6


class InUseError(UserError):
    """Another run writes to the folder (exit 7)."""

    exit_code = 7


class PeerError(UserError):
    """Another process of the run failed, hangs or is gone (exit 8)."""

    exit_code = 8


class GraderError(UserError):
    """Verifiers fail or return something that is no reward (exit 9)."""

    exit_code = 9


class EngineError(UserError):
    """The server that samples does not answer, or answers what cannot be (exit 10)."""

    exit_code = 10
