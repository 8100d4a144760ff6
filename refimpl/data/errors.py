"""What can go wrong with data: a file is not what it should be, a set is not there, a download failed."""

from __future__ import annotations

__all__ = ["DataError", "DataNotFound", "DownloadError"]


class DataError(ValueError):
    """A file does not hold what its format promises. The text names the file, what was found, what was expected."""


class DataNotFound(DataError, FileNotFoundError):
    """A data set (or one file of it) is in none of the folders searched.

    It is a `DataError`, so one `except` serves everything that can be wrong with data, and a `FileNotFoundError`, so
    code that knows only Python's own errors treats it rightly.
    """


class DownloadError(DataError):
    """No address delivered the expected file. The text lists each address and its reason. Nothing was put in place."""
