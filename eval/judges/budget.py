"""How many calls a run may make."""

from __future__ import annotations

from threading import Lock

from metabridge.eval.judges import JudgeError


class Budget:
    """Counts calls, repeated ones among them. `most` None: without end."""

    def __init__(self, most: int | None = None) -> None:
        self.most, self.used = most, 0
        self._lock = Lock()

    def take(self) -> None:
        with self._lock:
            if self.most is not None and self.used >= self.most:
                raise JudgeError(f"budget: the {self.most} calls of --max-judge-calls are used up; run again with more")
            self.used += 1
