"""Rows that could not be used: each in a line of bad_rows.jsonl, counted over all processes, and too many of them end the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole
from metabridge.bridge.settings import Train
from metabridge.training.data import Skipped
from metabridge.training.log import read_metrics

FILE = "bad_rows.jsonl"
ENOUGH = 200  # rows before their share is judged


class BadRows:
    def __init__(self, out: Path, settings: Train, sources: Sequence[str], total: int) -> None:
        self.path, self.settings, self.sources = out / FILE, settings, sources
        self.total = total  # over all processes, so far
        self.met = 0  # by this process, since the last settle()

    def note(self, step: int, skipped: Sequence[Skipped]) -> None:
        """What this process met on the way to a batch of `step`."""
        self.met += len(skipped)
        if skipped:
            with open(self.path, "a", encoding="utf-8") as file:  # in one piece: other processes write there too
                file.write("".join(json.dumps({"step": step, **asdict(row), "source": self.sources[row.source]}) + "\n" for row in skipped))

    def settle(self, step: int, found: int) -> None:
        """All that all processes met in `step`, told to each alike; an error where there are too many."""
        self.met = 0
        self.total += found
        rows, limit = step * self.settings.batch_size, self.settings.max_bad_rows
        if found and rows >= ENOUGH and self.total > limit * rows:
            last = read_metrics(self.path)[-1]
            raise UserError(
                f"data: {self.total} of {rows} rows cannot be used, more than train.max_bad_rows={limit:g} of them; the last is "
                f"{last['source']} {last['where']}: {last['reason']}; {self.path} names all: mend them, or raise the limit"
            )

    @property
    def counts(self) -> dict[str, int]:
        """For metrics.jsonl: nothing where all rows are good."""
        return {"bad_rows": self.total} if self.total else {}


def rewind(out: Path, step: int) -> None:
    """Forget what was met after `step`: those rows are met again."""
    path = out / FILE
    if path.exists():
        write_whole(path, "".join(json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] <= step).encode())
