"""A progress bar with the time left, on standard error, where that is a terminal; silent elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

__all__ = ["Bar", "say"]

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed} < {remaining} left{postfix}"


class Bar:
    """`total` units of work of about equal length; parts of a unit count as fractions.

    `done` units were done earlier and do not enter the estimate of the time left.
    """

    def __init__(self, total: float, done: float = 0.0, show: bool = True):
        self._bar: Any = None
        self._at, self._show, self._shown = done, show, 0.0
        if show and sys.stderr is not None and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            # smoothing 0: the estimate comes from the mean rate, so that it does not jump between fast and slow units
            self._bar = tqdm(
                total=total,
                initial=done,
                bar_format=_FORMAT,
                smoothing=0,
                dynamic_ncols=True,
                leave=False,
                file=sys.stderr,
            )

    def at(self, position: float, what: str | None = None, note: str = "") -> None:
        """Move to `position`, say what is being done (None: as before), and a short note behind the bar."""
        position = max(position, self._at)
        if self._bar is None:
            self._at = position
            return
        news = what is not None and what != self._bar.desc
        if news:
            self._bar.set_description_str(what, refresh=False)
        self._bar.set_postfix_str(note, refresh=False)
        # never past the end: sums of fractions may exceed it by a rounding
        position = min(position, self._bar.total)
        self._bar.update(position - self._at)
        self._at = position
        if news or time.monotonic() - self._shown > 0.1:  # at once: the next part of the work may take long
            self.tick()

    def tick(self) -> None:
        """Show the time that has passed."""
        if self._bar is not None:
            self._bar.refresh()
            self._shown = time.monotonic()

    def skip_to(self, position: float, what: str | None = None) -> None:
        """What lies before `position` was done earlier: it does not enter the estimate of the time left."""
        if self._bar is not None:
            self._bar.initial += max(0.0, position - self._at)
        self.at(position, what)

    @property
    def position(self) -> float:
        """Where it stands."""
        return self._at

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is None:
            say(line)
        else:
            self._bar.write(line, file=sys.stderr)

    def finished(self, line: str) -> None:
        """A part is done: a line where there is no bar to tell it (a log file)."""
        if self._bar is None and self._show:
            say(line)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def say(line: str) -> None:
    """A line on standard error. Where nobody reads it (closed, its reader gone, a full disk) it is lost, and the work
    it tells of is not; nor is it where a signal handler speaks while a line is being written (RuntimeError)."""
    if sys.stderr is not None:
        with suppress(OSError, RuntimeError, ValueError):
            print(line, file=sys.stderr, flush=True)
