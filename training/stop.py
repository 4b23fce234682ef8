"""Ctrl-C and SIGTERM: the step is finished, the run saved, and then the loop ends."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Stop:
    """True once a signal has asked for the end. A second Ctrl-C does not wait for the step."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.asked

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
