"""Ctrl-C and SIGTERM: the step is finished, the run saved, and then the loop ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class Stopped(Exception):
    """What is drawn or measured beside the training is not worth waiting for."""


class Stop:
    """True once a signal has asked for the end. A second Ctrl-C does not wait for the step."""

    def __init__(self) -> None:
        self.number = 0  # the signal, 0 = none; of several processes all end by the same one
        self.received = False  # by this process itself: it may have been told of the others' before
        self.before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.number != 0

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number, self.received = number, True

    @property
    def interrupted(self) -> bool:
        return self.number == signal.SIGINT

    @property
    def terminated(self) -> bool:
        return self.number == signal.SIGTERM

    def agree(self, interrupted: bool, terminated: bool) -> bool:
        """What the processes have told each other; whether the run is to end with this step."""
        if interrupted or terminated:
            self.number = signal.SIGINT if interrupted else signal.SIGTERM
        return interrupted or terminated

    def check(self, *_: object) -> None:
        """A place where work on the side can be left, as a callback_on_step_end. Never where processes wait for each other."""
        if self:
            raise Stopped

    @contextmanager
    def side(self) -> Iterator[None]:
        """Around such work: a check() that finds a signal ends it, and the loop goes on to save."""
        with suppress(Stopped):
            yield

    @property
    def code(self) -> int:
        """The exit code: a preempted run that is saved has not failed."""
        return 130 if self.number == signal.SIGINT else 0
