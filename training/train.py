"""The training loop, from a recipe and a Bridge to a run folder. Read it top to bottom.

Run folder: recipe.yaml, metrics.jsonl, samples/, checkpoints/, bridge/ (the artifact). To resume, run the same command again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env
from torch.nn.parallel import DistributedDataParallel

from metabridge.bridge.artifact import save_bridge
from metabridge.bridge.attention import fastest_attention
from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline, as_examples
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.sheet import compose, shown
from metabridge.training import checkpoint as checkpoints
from metabridge.training.checkpoint import Checkpoint
from metabridge.training.data import Mixture
from metabridge.training.loader import Share, batches
from metabridge.training.log import RunLog
from metabridge.training.optim import EMA, adamw, learning_rate, swapped
from metabridge.training.precision import usable
from metabridge.training.run_folder import bridge_steps, claim, disk, resume
from metabridge.training.seeds import row_seed
from metabridge.training.stop import Stop

Callback = Callable[[int, Bridge], None]  # called on every process after a step, with the number of steps done
SHEET = 8  # drawings on a sample sheet


def train(recipe: Recipe, bridge: Bridge, out: Path, callbacks: Sequence[Callback] = ()) -> int:
    """Train what the recipe trains, from the newest checkpoint on. Returns the steps done: fewer than asked for after Ctrl-C."""
    settings = recipe.train
    # the first PartialState decides for the whole process, so it is asked for as Accelerator would
    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    precision = usable(settings.precision, device)
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bfloat16" else "no")
    main = accelerator.is_main_process
    mixture = Mixture(recipe, bridge.hand)
    share = Share(settings.batch_size, settings.grad_accum, accelerator.process_index, accelerator.num_processes)
    bridge.to(accelerator.device)
    if precision == "float64":
        bridge.double()
    prompts = sheet_prompts(recipe, bridge, mixture)
    with disk(out):
        if main:
            claim(recipe, out)
        accelerator.wait_for_everyone()

    weights = bridge.trained()
    optimizer = adamw(bridge, settings)
    ema = EMA(weights, settings.ema) if settings.ema else None
    averaged = ema.weights if ema else None
    base = {"brain": bridge.brain.identity, "hand": bridge.hand.identity}
    state = resume(out, base, weights, optimizer, ema, accelerator.device)
    first, window, seconds = (state.step, state.window, state.seconds) if state else (0, [], 0.0)
    # DDP would otherwise send the frozen gigabytes from the first process to all others, and their buffers at every step
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(bridge, bridge.frozen().keys())
    model = accelerator.prepare_model(bridge)  # DDP where there are several processes; it hooks forward() alone
    pipeline = BridgePipeline(bridge, recipe.name)
    log = RunLog(recipe, out, first, main, window, seconds)
    stream = batches(mixture, bridge.brain.collate, share, first, settings.steps, mixture.workers(accelerator.num_processes))

    done = first
    with disk(out), Stop() as stop, log, closing(stream):
        if precision != settings.precision:
            log.say(f"train.precision: this CPU only emulates {settings.precision}, which takes longer than {precision}; using {precision}")
        if first:
            log.say(f"{out}: {'finished already at' if first >= settings.steps else 'going on from'} step {first}")
        if main and state and first >= settings.steps and bridge_steps(out) != first:
            save_bridge(bridge, out / "bridge", recipe, metrics(first, state.loss, state.seconds), averaged)
            log.say(f"{out}/bridge: was not that of step {first}; written again from the checkpoint")
        for step in range(first, settings.steps):
            torch.manual_seed(row_seed(settings.seed, step, accelerator.process_index, "step"))
            optimizer.zero_grad(set_to_none=True)
            loss_sum = torch.zeros((), device=accelerator.device)
            for micro in range(settings.grad_accum):
                loaded = next(stream)
                with nullcontext() if micro == settings.grad_accum - 1 else accelerator.no_sync(model):
                    with fastest_attention(accelerator.device):
                        loss = model(loaded.batch).mean() / settings.grad_accum
                    accelerator.backward(loss)
                loss_sum += loss.detach()

            grad_norm = float(torch.nn.utils.clip_grad_norm_(weights.values(), settings.clip or math.inf))
            mean_loss, asked = accelerator.reduce(torch.stack([loss_sum, loss_sum.new_tensor(float(bool(stop)))]), "mean").tolist()
            if not (math.isfinite(mean_loss) and math.isfinite(grad_norm)):
                raise UserError(diverged(step + 1, mean_loss, grad_norm, out))
            lr = learning_rate(settings, step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            if ema:
                ema.update(weights, step)

            done = step + 1
            last = done == settings.steps or asked > 0
            log.step(done, mean_loss, grad_norm, lr)
            if main and due(done, settings.checkpoint_every, last, off=last):
                # the checkpoint comes last of the two: what it calls done has its bridge
                spent = log.seconds
                save_bridge(bridge, out / "bridge", recipe, metrics(done, mean_loss, spent), averaged)
                kept = Checkpoint(done, weights, optimizer.state_dict(), averaged, log.window, spent, mean_loss, base)
                checkpoints.save(out / "checkpoints", kept)
            if main and due(done, recipe.log.sample_every, done == settings.steps):
                with swapped(weights, averaged):
                    log.picture(draw_sheet(pipeline, prompts, settings.seed, out, done), done)
            for callback in callbacks:
                callback(done, bridge)
            if last:
                break
    accelerator.wait_for_everyone()
    return done


def due(step: int, every: int, last: bool, off: bool = False) -> bool:
    """Every `every` steps and at the last; where `every` is 0, as `off` says."""
    return last or step % every == 0 if every else off


def metrics(step: int, loss: float, seconds: float) -> dict[str, float]:
    """What bridge.json says of the training."""
    return {"steps": step, "loss": loss, "seconds": round(seconds, 1)}


def diverged(step: int, loss: float, grad_norm: float, out: Path) -> str:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {grad_norm}"
    kept = checkpoints.paths(out / "checkpoints")
    return f"step {step}: {what}; {f'{kept[-1]} is kept' if kept else 'there was no checkpoint yet'}; lower train.lr or train.clip"


def sheet_prompts(recipe: Recipe, bridge: Bridge, mixture: Mixture) -> list[str]:
    """The prompts of the sample sheets, read once so that a bad one is heard of before the training and not in the middle of it."""
    if not recipe.log.sample_every:
        return []
    prompts = list(recipe.log.prompts) or mixture.prompts(SHEET)
    if not prompts:
        raise UserError("log.prompts: none given, and the data has no prompt without a picture; give some, or set log.sample_every=0")
    try:
        with torch.no_grad():
            bridge.condition(bridge.brain.collate(as_examples(prompts, None)))
    except UserError as error:
        raise UserError(f"log.prompts: {error}") from error
    return prompts


def draw_sheet(pipeline: BridgePipeline, prompts: Sequence[str], seed: int, out: Path, step: int) -> Path:
    """Draw the fixed prompts with fixed seeds into samples/step-000500.png."""
    images = pipeline(list(prompts), seeds=[seed + index for index in range(len(prompts))]).images
    path = out / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(exist_ok=True)
    tiles = [shown(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
    compose(tiles, columns=4, title=f"{pipeline.name} · step {step}").save(path)
    return path
