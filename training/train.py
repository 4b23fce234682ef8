"""The training loop, from a recipe and a Bridge to a run folder. Read it top to bottom.

Run folder: recipe.yaml, metrics.jsonl, samples/, checkpoints/, bridge/ (the artifact). To resume, run the same command again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from metabridge.bridge.artifact import save_bridge
from metabridge.bridge.attention import fastest_attention
from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.training import checkpoint as checkpoints
from metabridge.training.checkpoint import Checkpoint
from metabridge.training.data import Mixture, Share, batches
from metabridge.training.log import RunLog
from metabridge.training.optim import EMA, adamw, learning_rate, swapped
from metabridge.training.run_folder import claim, disk, resume
from metabridge.training.seeds import row_seed
from metabridge.training.sheet import sheet
from metabridge.training.stop import Stop

Callback = Callable[[int, Bridge], None]  # called on every process after a step, with the number of steps done
SHEET = 8  # drawings on a sample sheet


def train(recipe: Recipe, bridge: Bridge, out: Path, callbacks: Sequence[Callback] = ()) -> int:
    """Train what the recipe trains, from the newest checkpoint on. Returns the steps done: fewer than asked for after Ctrl-C."""
    settings = recipe.train
    accelerator = Accelerator(mixed_precision="bf16" if settings.precision == "bfloat16" else "no")
    main = accelerator.is_main_process
    mixture = Mixture(recipe)
    share = Share(settings.batch_size, settings.grad_accum, accelerator.process_index, accelerator.num_processes)
    with disk(out):
        if main:
            claim(recipe, out)
        accelerator.wait_for_everyone()

    bridge.to(accelerator.device)
    if settings.precision == "float64":
        bridge.double()
    weights = bridge.trained()
    optimizer = adamw(bridge, settings)
    ema = EMA(weights, settings.ema) if settings.ema else None
    state = resume(out, weights, optimizer, ema, accelerator.device)
    first, window, seconds = (state.step, state.window, state.seconds) if state else (0, [], 0.0)
    # DDP would otherwise send the frozen gigabytes from the first process to all others, and their buffers at every step
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(bridge, bridge.frozen().keys())
    model = accelerator.prepare_model(bridge)  # DDP where there are several processes; it hooks forward() alone
    prompts = list(recipe.log.prompts) or (mixture.prompts(SHEET) if recipe.log.sample_every else [])
    log = RunLog(recipe, out, first, main, window, seconds)
    stream = batches(mixture, bridge.brain.collate, bridge.hand.default_size, share, first, settings.steps)

    done = first
    with disk(out), Stop() as stop, log, closing(stream):
        if first:
            log.say(f"{out}: {'finished already at' if first >= settings.steps else 'going on from'} step {first}")
        for step in range(first, settings.steps):
            torch.manual_seed(row_seed(settings.seed, step, accelerator.process_index, "step"))
            optimizer.zero_grad(set_to_none=True)
            loss_sum = torch.zeros((), device=accelerator.device)
            for micro in range(settings.grad_accum):
                batch = next(stream)
                with nullcontext() if micro == settings.grad_accum - 1 else accelerator.no_sync(model):
                    with fastest_attention(accelerator.device):
                        loss = model(batch).mean() / settings.grad_accum
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
            averaged = ema.weights if ema else None
            log.step(done, mean_loss, grad_norm, lr)
            if main and due(done, recipe.log.sample_every, done == settings.steps):
                with swapped(weights, averaged):
                    log.picture(draw_sheet(recipe, bridge, prompts, out, done), done)
            if main and due(done, settings.checkpoint_every, last, off=last):
                checkpoints.save(out / "checkpoints", Checkpoint(done, weights, optimizer.state_dict(), averaged, log.window, log.seconds))
                metrics = {"steps": done, "loss": mean_loss, "seconds": round(log.seconds, 1)}
                save_bridge(bridge, out / "bridge", recipe, metrics, weights=averaged)
            for callback in callbacks:
                callback(done, bridge)
            if last:
                break
    accelerator.wait_for_everyone()
    return done


def due(step: int, every: int, last: bool, off: bool = False) -> bool:
    """Every `every` steps and at the last; where `every` is 0, as `off` says."""
    return last or step % every == 0 if every else off


def diverged(step: int, loss: float, grad_norm: float, out: Path) -> str:
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {grad_norm}"
    kept = checkpoints.paths(out / "checkpoints")
    return f"step {step}: {what}; {f'{kept[-1]} is kept' if kept else 'there was no checkpoint yet'}; lower train.lr or train.clip"


def draw_sheet(recipe: Recipe, bridge: Bridge, prompts: Sequence[str], out: Path, step: int) -> Path:
    """Draw the fixed prompts with fixed seeds into samples/step-000500.png."""
    pipeline = BridgePipeline(bridge, recipe.name)
    images = pipeline(list(prompts), seeds=[recipe.train.seed + index for index in range(len(prompts))]).images
    path = out / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(exist_ok=True)
    sheet(images, prompts, f"{recipe.name} · step {step}").save(path)
    return path
