"""Stopping in good order: the first Ctrl-C (or SIGTERM) lets the unit of work in hand end, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from refimpl.lab.progress import say

__all__ = ["Stop"]


class Stop:
    """`with Stop() as stop: ... if stop.signal: store and leave`. Outside the main thread it never fires."""

    def __init__(self, unit: str = "this unit of training") -> None:
        self.unit = unit
        self.signal = 0  # the signal that came, 0 before
        self._before: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        say(f"\nStopping after {self.unit} (Ctrl-C again stops at once).")

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # else it stays ignored
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
