"""The training loop, from a recipe and a Bridge to a run folder. Read it top to bottom.

Run folder: recipe.yaml, metrics.jsonl, samples/, checkpoints/, bridge/ (the artifact). To resume, run the same command again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from metabridge.bridge.artifact import save_bridge
from metabridge.bridge.attention import fastest_attention
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.training import bad_rows as bad
from metabridge.training import checkpoint as checkpoints
from metabridge.training.bad_rows import BadRows
from metabridge.training.data import Mixture
from metabridge.training.learner import Learner
from metabridge.training.loader import Loaded, Share, batches
from metabridge.training.log import RunLog
from metabridge.training.optim import learning_rate, swapped
from metabridge.training.run_folder import Identities, bridge_steps, claimed, disk, kept, resume, roll_back
from metabridge.training.samples import draw_sheet, save_sheet, sheet_examples
from metabridge.training.seeds import row_seed
from metabridge.training.stop import Stop
from metabridge.training.topology import Topology, join
from metabridge.training.watch import Benchmark, Watch

Callback = Callable[[int, Bridge], None]  # called on every process after a step, with the number of steps done


def train(
    recipe: Recipe,
    bridge: Bridge,
    out: Path,
    callbacks: Sequence[Callback] = (),
    stop: Stop | None = None,
    accept_changes: bool = False,
    benchmark: Benchmark | None = None,
) -> int:
    """Train what the recipe trains, from the newest checkpoint on. Returns the steps done: fewer than asked for after a signal.

    `stop`, if given, knows afterwards which signal that was. `accept_changes`: go on with other settings than the folder's run had.
    `benchmark`: what log.benchmark asks for.
    """
    assert not recipe.stages, "train_stages trains them"
    settings = recipe.train
    with disk(out), set_up(recipe, bridge, out, Stop() if stop is None else stop, accept_changes, benchmark) as run:
        learner, guard, log = run.learner, run.learner.guard, run.log
        for step in range(run.done, settings.steps):
            torch.manual_seed(row_seed(settings.seed, step, run.accelerator.process_index, "step"))
            mean_loss = gradient(run)
            norm = nn.utils.clip_grad_norm_(learner.weights.values(), settings.clip or math.inf)
            loss, grad_norm, ends = agree(run, mean_loss, norm)

            run.done = step + 1
            wrong = guard.judge(loss, grad_norm, settings)
            if wrong is None:
                learner.update(step)
                run.loss = loss
            else:
                log.say(f"step {run.done}: {wrong} (loss {loss:.4g}); skipped")
                if guard.skipped_in_row >= settings.max_skips:
                    log.say(roll_back(out, learner, wrong, run.done))
            rate = learning_rate(settings, step, settings.lr)
            log.step(run.done, loss if wrong is None else None, grad_norm, rate, **guard.counts, **run.bad_rows.counts)

            last = run.done == settings.steps or ends
            save(run, last, good=wrong is None)  # before what is measured or drawn beside the training, which may fail
            run.watch(run.done, log, run.pipeline, run.stop)
            if run.topology.draws and due(run.done, recipe.log.sample_every, run.done == settings.steps):
                sample(run)
            for callback in callbacks:
                with run.stop.side():
                    callback(run.done, bridge)
            if last:
                break
    run.accelerator.wait_for_everyone()
    return run.done


@dataclass
class Run:
    """What the loop works with."""

    recipe: Recipe
    bridge: Bridge
    out: Path
    topology: Topology
    model: nn.Module  # the bridge, in DDP where there are several processes
    learner: Learner
    stream: Iterator[Loaded]
    bad_rows: BadRows
    cursors: Mapping[int, Mapping[str, Any]]  # where streams among the sources stand
    log: RunLog
    pipeline: BridgePipeline
    shown: Sequence[Example]  # on the sample sheets
    watch: Watch
    stop: Stop
    base: Identities
    done: int  # steps
    loss: float  # of the last good step

    @property
    def accelerator(self) -> Accelerator:
        return self.topology.accelerator

    @property
    def main(self) -> bool:
        return bool(self.accelerator.is_main_process)


@contextmanager
def set_up(recipe: Recipe, bridge: Bridge, out: Path, stop: Stop, accept_changes: bool, benchmark: Benchmark | None) -> Iterator[Run]:
    """Everything that precedes the first step: what can be refused is refused here."""
    settings = recipe.train
    topology = join(recipe)
    accelerator = topology.accelerator
    main, processes = accelerator.is_main_process, accelerator.num_processes
    mixture = Mixture(recipe, bridge.hand)
    share = Share(settings.batch_size, settings.grad_accum, accelerator.process_index, processes)
    topology.place(bridge)
    shown = sheet_examples(recipe, bridge, mixture)
    learner = Learner(bridge, settings)
    watch = Watch(recipe, bridge, mixture, share, accelerator, learner, benchmark)
    base = {"brain": bridge.brain.identity, "hand": bridge.hand.identity} | ({"init": bridge.init} if bridge.init else {})

    with claimed(recipe, out, main, accept_changes) as found:
        accelerator.wait_for_everyone()  # until the first has looked through the folder
        state = resume(out, base, learner)
        first, window, seconds, loss = (state.step, state.window, state.seconds, state.loss) if state else (0, [], 0.0, math.nan)
        refuse_two_starts(first, out)
        if main:
            bad.rewind(out, first)
        model = topology.wrap(bridge)
        mixture.begin(state.data["cursors"] if state else {})
        bad_rows = BadRows(out, settings, [source.source for source in mixture.sources], state.data["bad_rows"] if state else 0)
        stream = batches(mixture, bridge.brain.collate, share, first, settings.steps, mixture.workers(processes))
        log = RunLog(recipe, out, first, main, window, seconds)
        pipeline = BridgePipeline(bridge, recipe.name)
        with stop, log, closing(stream):
            for line in (*topology.said, *found):
                log.say(line)
            if first:
                log.say(f"{out}: {'finished already at' if first >= settings.steps else 'going on from'} step {first}")
            if main and state and first >= settings.steps and bridge_steps(out) != first:
                save_bridge(bridge, out / "bridge", recipe, metrics(first, loss, seconds), learner.averaged)
                log.say(f"{out}/bridge: was not that of step {first}; written again from the checkpoint")
            yield Run(
                recipe=recipe,
                bridge=bridge,
                out=out,
                topology=topology,
                model=model,
                learner=learner,
                stream=stream,
                bad_rows=bad_rows,
                cursors={},
                log=log,
                pipeline=pipeline,
                shown=shown,
                watch=watch,
                stop=stop,
                base=base,
                done=first,
                loss=loss,
            )


def refuse_two_starts(first: int, out: Path) -> None:
    """Processes of several machines that do not see the same folder would train apart."""
    starts = sorted(set(gather_object([first])))
    if len(starts) > 1:
        raise UserError(f"{out}: the processes go on from steps {', '.join(map(str, starts))}; give a folder that all machines share")


def gradient(run: Run) -> Tensor:
    """Forward and backward over the micro-batches of a step; with the last, gradients become the mean over the processes. Mean loss."""
    parts = run.recipe.train.grad_accum
    run.learner.optimizer.zero_grad(set_to_none=True)
    loss_sum = torch.zeros((), device=run.accelerator.device)
    for micro in range(parts):
        loaded = next(run.stream)
        run.cursors = loaded.cursors
        run.bad_rows.note(run.done + 1, loaded.skipped)
        alone = nullcontext() if micro == parts - 1 else run.accelerator.no_sync(run.model)
        with alone, fastest_attention(run.accelerator.device):  # for backward too, which runs checkpointed blocks again
            loss = run.model(loaded.batch).mean() / parts
            run.accelerator.backward(loss)
        loss_sum += loss.detach()
    return loss_sum


def agree(run: Run, loss: Tensor, norm: Tensor) -> tuple[float, float, bool]:
    """Loss, norm and whether to stop, the same on every process. The one place where a step waits for the device."""
    own = [loss.new_full((), number) for number in (run.stop.interrupted, run.stop.terminated, run.bad_rows.met)]
    told = run.accelerator.reduce(torch.stack([loss, norm.to(loss), *own]), "mean")
    loss_mean, norm_mean, interrupted, terminated, bad = told.tolist()
    run.bad_rows.settle(run.done + 1, round(bad * run.accelerator.num_processes))
    return loss_mean, norm_mean, run.stop.agree(interrupted > 0, terminated > 0)


def save(run: Run, last: bool, good: bool) -> None:
    """Bridge and checkpoint where they are due. The checkpoint comes last: what it calls done has its bridge."""
    settings, learner, guard = run.recipe.train, run.learner, run.learner.guard
    ended = run.done == settings.steps
    guard.owed = guard.owed or ended or due(run.done, settings.checkpoint_every, ended)
    sound = (last or (guard.owed and good)) and learner.is_finite()
    if last and not sound:
        raise UserError(f"step {run.done}: weights are infinite or NaN, so they are not saved; {kept(run.out)}; lower train.lr")
    if not sound:
        return
    if guard.owed and good:  # the step to go back to, the same in a run that was never stopped
        guard.owed, guard.anchor = False, run.done
    if run.main:
        spent = run.log.seconds
        save_bridge(run.bridge, run.out / "bridge", run.recipe, metrics(run.done, run.loss, spent), learner.averaged)
        checkpoint = learner.checkpoint(
            run.done, run.loss, run.log.window, spent, run.base, {"bad_rows": run.bad_rows.total, "cursors": run.cursors}
        )
        checkpoints.save(run.out / "checkpoints", checkpoint, settings.keep)


def sample(run: Run) -> None:
    """A sheet of the fixed prompts, drawn as the saved bridge would; left unsaved where a signal ends it."""
    learner = run.learner
    with run.log.aside(), swapped(learner.weights, learner.averaged), run.stop.side():
        images = draw_sheet(run.pipeline, run.shown, run.recipe.train.seed, run.topology.check(run.stop))
        if run.main:
            run.log.picture(save_sheet(images, run.pipeline, run.shown, run.out, run.done), run.done)


def due(step: int, every: int, last: bool) -> bool:
    """Every `every` steps and at the last; 0 = never."""
    return every > 0 and (last or step % every == 0)


def metrics(step: int, loss: float, seconds: float) -> dict[str, float | None]:
    """What bridge.json says of the training."""
    return {"steps": step, "loss": loss if math.isfinite(loss) else None, "seconds": round(seconds, 1)}
