"""Errors that a user can fix, each with the exit code of the command line."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can fix, printed without traceback: one sentence that says what, where, what to do."""

    exit_code = 2


class ConfigError(UserError):
    """An invalid option, value or combination (exit 2)."""


class DataError(UserError):
    """A data set that cannot be read or has bad rows (exit 3)."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or does not fit the run (exit 4)."""

    exit_code = 4


class DamageError(CheckpointError):
    """A stored file that differs from what was written: modified, truncated or from another run (exit 4)."""


class DivergedError(UserError):
    """Training produced numbers that are not finite, or sampler and trainer compute different policies (exit 5)."""

    exit_code = 5


class StorageError(UserError):
    """The run folder cannot be written (exit 6)."""

    exit_code = 6


class InUseError(UserError):
    """Another run writes to the folder (exit 7)."""

    exit_code = 7


class PeerError(UserError):
    """Another process of the run failed, hangs or exited (exit 8)."""

    exit_code = 8


class GraderError(UserError):
    """Graders failed, or returned something that is no reward (exit 9)."""

    exit_code = 9


class EngineError(UserError):
    """The server that samples or scores does not respond, or its response is invalid (exit 10)."""

    exit_code = 10


class HubError(UserError):
    """The hub cannot be reached, refuses, or has a repository with other content (exit 11)."""

    exit_code = 11
