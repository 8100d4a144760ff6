"""What the lab raises for things that are not its own mistakes: the command line shows them as one clear line."""

from __future__ import annotations

__all__ = ["Interrupted", "LabError", "RunError", "UsageError", "WriteError"]


class LabError(Exception):
    """Base of the lab's errors; `code` is the exit code of the command line."""

    code = 1


class RunError(LabError):
    """Something went wrong while running: a full disk, a damaged file, a folder that belongs to another run."""


class WriteError(RunError):
    """A file could not be written: a full disk, a read-only folder. What stood there before still does."""


class UsageError(LabError):
    """The request itself makes no sense: an unknown name, a setting that does not exist."""

    code = 2


class Interrupted(LabError):
    """A signal stopped the work after its last part was stored; `code` is what shells expect (128 + signal)."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.code = 128 + signal_number
