"""What a run says while it runs: a progress bar, metrics.jsonl, and wandb on request."""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole
from metabridge.bridge.recipe import Recipe


class RunLog:
    """A context manager around the loop. On other processes than the first it is silent."""

    def __init__(self, recipe: Recipe, out: Path, first: int, main: bool, window: list[float], seconds: float) -> None:
        self.recipe, self.out, self.first, self.main = recipe, out, first, main
        self.window = window  # losses since the last line; carried over a resume
        self.before = seconds  # spent by earlier runs of the same folder
        self.validation = ""  # what the bar says of it
        self.start = time.monotonic()
        self.paused = 0.0  # seconds since then in which something else than a step was done
        self.console = Console(quiet=not main, highlight=False)
        self.wandb: Any = None
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not main or not self.console.is_terminal,
        )

    def __enter__(self) -> RunLog:
        if self.main:
            self.rewind(self.first)
            if self.recipe.log.wandb != "off":
                self.wandb = self.open_wandb()
        self.progress.start()
        self.task = self.progress.add_task(self.recipe.name, total=self.recipe.train.steps, completed=self.first, numbers="")
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.wandb is not None:
            self.wandb.finish()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)

    def step(self, step: int, loss: float | None, grad_norm: float, lr: float, **counts: int) -> None:
        """After every step: the bar; every `log.every` steps, and at the last, a line with the mean loss since the line before.

        `loss` is None where the step was skipped; `counts` (skipped, rollbacks, bad_rows) are from the start of the run.
        """
        every, last = self.recipe.log.every, step == self.recipe.train.steps
        if not every:
            self.window.clear()  # no line is due: the bar shows the last loss
        if loss is not None:
            self.window.append(loss)
        spent = max(1e-9, time.monotonic() - self.start)
        rate = (step - self.first) / max(1e-9, spent - self.paused)
        mean = sum(self.window) / len(self.window) if self.window else None
        numbers = "  ".join(
            [
                "loss -" if mean is None else f"loss {mean:.4f}",
                f"grad norm {grad_norm:.3f}",
                *([self.validation] if self.validation else []),
                *(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()),
                f"{rate:.2f} steps/s",
            ]
        )
        self.progress.update(self.task, completed=step, numbers=numbers)
        if not every or (step % every and not last):
            return
        throughput = round(rate * self.recipe.train.batch_size, 2)
        row = {"loss": mean, "grad_norm": grad_norm if math.isfinite(grad_norm) else None, "lr": lr, **counts}
        self.record(step, row, rows_per_second=throughput)
        self.window.clear()
        if self.progress.disable and (last or self.lines_due(step)):
            left = (self.recipe.train.steps - step) * spent / (step - self.first)  # with what comes between the steps
            self.say(f"{self.recipe.name} {step}/{self.recipe.train.steps}  {numbers}  ETA {left:.0f} s")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around what is measured or drawn between two steps: no part of the training's rate."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.paused += time.monotonic() - start

    def record(self, step: int, values: Mapping[str, float | None], **last: float) -> None:
        """A line of metrics.jsonl, and the same to wandb. What was measured beside the training has lines of its own."""
        if "validation_loss" in values:
            self.validation = f"validation {values['validation_loss']:.4f}"
        if not self.main:
            return
        row = {"step": step, **values, "seconds": round(self.seconds, 3), **last}
        with open(self.out / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.wandb is not None:
            self.wandb.log(row)

    def lines_due(self, step: int) -> bool:
        """Without a terminal there is no bar: about twenty lines a run instead."""
        every = self.recipe.log.every
        return step % max(every, self.recipe.train.steps // 20 // every * every) == 0

    def picture(self, path: Path, step: int) -> None:
        if self.wandb is not None:
            import wandb

            self.wandb.log({"step": step, "samples": wandb.Image(str(path))})

    def rewind(self, step: int) -> None:
        """Drop what a killed run logged after its last checkpoint: those steps are run again."""
        path = self.out / "metrics.jsonl"
        if not path.exists():
            return
        rows = read_metrics(path)
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step).encode())

    def open_wandb(self) -> Any:
        """A run folder is one run of wandb, however many times it was resumed."""
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        mode, path = self.recipe.log.wandb, self.out / "wandb/run-id"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_whole(path, secrets.token_hex(4).encode())
        try:
            run = wandb.init(
                project="metabridge",
                name=self.recipe.name,
                dir=self.out,
                mode=mode,  # type: ignore[arg-type]
                config=self.recipe.to_dict(),
                id=path.read_text(),
                resume="allow" if mode == "online" else None,  # offline, wandb only warns that it cannot know
                allow_val_change=True,  # log.* and train.steps may have
            )
        except wandb.errors.Error as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"log.wandb: {mode} given, but wandb cannot begin ({said}); run wandb login, or set log.wandb=offline"
            ) from error
        # wandb's own step never goes back, but a run that was killed takes the steps since its last checkpoint again
        run.define_metric("*", step_metric="step")
        return run


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
