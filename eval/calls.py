"""Calls of a model that someone else runs: how many there may be, and what may become of one."""

from __future__ import annotations

from threading import Lock


class Failed(Exception):
    """This call got no answer that can be used, for a reason that is not the model's: timeout, outage, budget. Others may."""


class Again(Exception):
    """What may pass: the same call may be answered the next time."""

    def __init__(self, reason: str, after: float | None = None, empty: bool = False, away: bool = False) -> None:
        super().__init__(reason)
        self.after = after  # seconds the server asks to wait
        self.empty = empty  # an answer came that holds nothing, which it does again more often than not
        self.away = away  # nobody who could answer is there


class Stop(Exception):
    """What would be the same for every call."""


class Unauthorized(Stop):
    """The key is missing or wrong."""


class Budget:
    """Counts calls, repeated ones among them. `most` None: without end. `spent`: how to say that they are used up."""

    def __init__(self, most: int | None = None, spent: str = "that were allowed are used up; allow more") -> None:
        self._most, self._spent, self._used, self._lock = most, spent, 0, Lock()

    def take(self) -> None:
        with self._lock:
            if self._most is not None and self._used >= self._most:
                raise Failed(f"budget: the {self._most} calls {self._spent}")
            self._used += 1


def one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:200]
