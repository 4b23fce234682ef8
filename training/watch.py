"""What is measured beside the training: held-out loss, whether the hand listens, a benchmark. None of it changes the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

import torch
from accelerate import Accelerator

from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.training.data import Mixture
from metabridge.training.diagnostics import diagnose, fixed_pairs, warning
from metabridge.training.fixed import FixedRows
from metabridge.training.learner import Learner
from metabridge.training.loader import Share
from metabridge.training.log import RunLog
from metabridge.training.optim import swapped
from metabridge.training.stop import Stop
from metabridge.training.validation import held_out, validate

# Called on the first process with the steps done, a pipeline, and what to call at places where it can be left; scores by name
Benchmark = Callable[[int, BridgePipeline, Callable[..., None]], Mapping[str, float]]
PATIENCE = 500  # steps after the warmup before the hand has to listen


class Watch:
    """Called by all processes after a step. Everything is measured with the averaged weights where there are any: they are what ships."""

    def __init__(
        self,
        recipe: Recipe,
        bridge: Bridge,
        mixture: Mixture,
        share: Share,
        accelerator: Accelerator,
        learner: Learner,
        benchmark: Benchmark | None,
    ) -> None:
        self.recipe, self.bridge, self.accelerator, self.learner, self.benchmark = recipe, bridge, accelerator, learner, benchmark
        log, steps = recipe.log, recipe.train.steps
        if (benchmark is None) != (log.benchmark == "none"):
            raise UserError(f"log.benchmark: {log.benchmark} given, and {'no' if benchmark is None else 'a'} benchmark handed to train()")
        # read now: the rows come from the start of the data, and a bad source is heard of before the training
        self.validation = held_out(recipe, mixture, bridge, share) if log.validate_every else None
        self.pairs = fixed_pairs(recipe, mixture, bridge, share) if 0 < log.diagnose_every <= steps else None
        # others wait for the first process on a group of their own: the default one gives up after minutes
        self.waiting = (
            torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30)) if benchmark and share.processes > 1 else None
        )

    def __call__(self, step: int, log: RunLog, pipeline: BridgePipeline, stop: Stop) -> None:
        settings, last = self.recipe.log, step == self.recipe.train.steps
        validation = self.validation if settings.validate_every and (step % settings.validate_every == 0 or last) else None
        pairs = self.pairs if (listen := settings.diagnose_every and step % settings.diagnose_every == 0) else None
        if listen and not pairs:
            log.say(f"step {step}: whether the hand listens cannot be told, the data has too few prompts; set log.diagnose_every=0")
        benchmark = self.benchmark if step % settings.benchmark_every == 0 or last else None
        if not (validation or pairs or benchmark):
            return
        with log.aside(), swapped(self.learner.weights, self.learner.averaged):
            with self.accelerator.autocast():
                if validation:
                    log.record(step, validate(self.bridge, validation))
                if pairs:
                    self.listen(step, log, pairs)
            if benchmark:
                self.score(step, log, benchmark, pipeline, stop)

    def listen(self, step: int, log: RunLog, pairs: FixedRows) -> None:
        found = diagnose(self.bridge, pairs)
        log.record(step, found.metrics())
        if found.ignored and step >= self.recipe.train.warmup + PATIENCE:
            log.say(f"warning: step {step}: {warning(found, self.recipe)}")

    def score(self, step: int, log: RunLog, benchmark: Benchmark, pipeline: BridgePipeline, stop: Stop) -> None:
        scores: Mapping[str, float] = {}
        if self.accelerator.is_main_process:
            with stop.side():
                stop.check()
                scores = benchmark(step, pipeline, stop.check)
                log.record(step, scores)
        if self.waiting is not None:
            torch.distributed.barrier(self.waiting)
        if scores:
            log.say(f"step {step}: {self.recipe.log.benchmark}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
        elif stop:
            log.say(f"step {step}: {self.recipe.log.benchmark} was left, as the run is to stop")
