"""The loop that the three pretrain_flatland_*.py scripts share: CPU, CUDA and several processes alike; run again to resume.

A script hands in a model whose forward(batch) is the loss, and a function (seed, rows) -> batch. Row i of step s depends on
(seed, s, i) alone, so neither a restart nor the number of processes changes what is learnt from.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from metabridge.bridge.attention import fastest_attention
from metabridge.training.seeds import row_seed


@dataclass(frozen=True)
class Settings:
    steps: int
    batch_size: int  # over all processes
    lr: float
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.998
    precision: str = "bf16"  # of the matrix work: bf16 | no
    seed: int = 0
    every: int = 50
    checkpoint_every: int = 250


def settings_from_command_line(doc: str, default: Settings) -> tuple[Path, Path, Settings, argparse.Namespace]:
    """(working folder, folder of the finished model, settings, all arguments)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and log; outside the repository")
    parser.add_argument("--out", type=Path, required=True, help="where the finished model is written")
    for name, value in asdict(default).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    return args.work, args.out, Settings(**{name: getattr(args, name) for name in asdict(default)}), args


def pretrain(
    model: nn.Module,
    make_batch: Callable[[list[int]], Any],
    settings: Settings,
    work: Path,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 1000,
) -> nn.Module:
    """Train `model` (its forward is the loss) and return it with its EMA weights."""
    accelerator = Accelerator(mixed_precision=settings.precision)
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98))
    model = model.to(accelerator.device)
    ema = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    checkpoint, first = work / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=accelerator.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        ema, first = saved["ema"], saved["step"]
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    share, rank = settings.batch_size // accelerator.num_processes, accelerator.process_index
    mean, started = torch.zeros((), device=accelerator.device), time.perf_counter()

    def log(**entry: Any) -> None:
        if accelerator.is_main_process:
            with open(work / "log.jsonl", "a") as file:
                file.write(json.dumps(entry) + "\n")
            print(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()), flush=True)

    def save(step: int) -> None:
        if accelerator.is_main_process:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema, "step": step}
            torch.save(state, work / "checkpoint.tmp")
            os.replace(work / "checkpoint.tmp", checkpoint)

    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * learning_rate_factor(step, settings)
        rows = [row_seed(settings.seed, step, i) for i in range(rank * share, (rank + 1) * share)]
        with fastest_attention(accelerator.device):
            loss = wrapped(make_batch(rows))
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        # a short memory at first, so that the average does not remember the random start
        keep = min(settings.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.values()), [p.detach() for p in model.parameters() if p.requires_grad], 1 - keep)
        mean += loss.detach()
        if (step + 1) % settings.every == 0:
            seconds = (time.perf_counter() - started) / settings.every
            log(step=step + 1, loss=float(mean) / settings.every, grad_norm=float(norm), seconds_per_step=seconds)
            mean.zero_()
            started = time.perf_counter()
        if (step + 1) % settings.checkpoint_every == 0:
            save(step + 1)
        if evaluate and (step + 1) % evaluate_every == 0 and step + 1 < settings.steps and accelerator.is_main_process:
            with averaged(model, ema):
                log(step=step + 1, **evaluate(model))
            started = time.perf_counter()
    save(settings.steps)
    model.load_state_dict(ema, strict=False)
    if evaluate:
        log(step=settings.steps, **evaluate(model))
    return model


class averaged:
    """Within the block the model holds its EMA weights."""

    def __init__(self, model: nn.Module, ema: dict[str, Tensor]) -> None:
        self.model, self.ema = model, ema

    def __enter__(self) -> None:
        self.kept = {n: p.detach().clone() for n, p in self.model.named_parameters() if n in self.ema}
        self.model.load_state_dict(self.ema, strict=False)

    def __exit__(self, *_: object) -> None:
        self.model.load_state_dict(self.kept, strict=False)


def learning_rate_factor(step: int, settings: Settings) -> float:
    """Linear warmup, constant, then linear to zero over the last third."""
    down = settings.steps // 3
    return min(1.0, (step + 1) / settings.warmup, (settings.steps - step) / down)
