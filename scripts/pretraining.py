"""The loop that the three pretrain_flatland_*.py scripts share: CPU, CUDA and several processes alike; run again to resume.

A script hands in a model whose forward(batch) is the loss, and a function rows -> batch. Row i of step s depends on (seed, s, i)
alone, so neither a restart nor the number of processes changes what is learnt from. Noise that the model draws depends on
(seed, s, process): a restart does not change it either, another number of processes does.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env
from PIL import Image
from torch import Tensor, nn

from metabridge.bridge.attention import fastest_attention
from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole
from metabridge.bridge.model import in_range
from metabridge.bridge.settings import Train
from metabridge.training.log import read_metrics
from metabridge.training.optim import EMA, adamw, copy, swapped
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


@dataclass(frozen=True)
class Row:
    index: int  # in the batch of all processes
    seed: int


def settings_from_command_line(doc: str, default: Settings) -> tuple[Path, Path, Settings]:
    """(working folder, folder of the finished model, settings)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and log; outside the repository")
    parser.add_argument("--out", type=Path, required=True, help="where the finished model is written")
    for name, value in asdict(default).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    return args.work, args.out, Settings(**{name: getattr(args, name) for name in asdict(default)})


def pretrain(
    model: nn.Module,
    make_batch: Callable[[Sequence[Row]], Any],
    settings: Settings,
    work: Path,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 1000,
) -> dict[str, float]:
    """Train `model` (its forward is the loss) and leave it with its EMA weights. Their scores; {} on other processes than the first."""
    processes()
    accelerator = Accelerator(mixed_precision=settings.precision)
    rank, own = accelerator.process_index, own_rows(settings, accelerator.process_index, accelerator.num_processes)
    model = model.to(accelerator.device)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer, ema = make_optimizer(model, settings), EMA(weights, settings.ema)
    first = restore(work, model, optimizer, ema)
    log = Log(work / "log.jsonl", accelerator, first, settings.steps)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * learning_rate_factor(step, settings)
        torch.manual_seed(row_seed(settings.seed, step, rank, "step"))
        batch = make_batch([Row(i, row_seed(settings.seed, step, i)) for i in own])
        with fastest_attention(accelerator.device):
            loss = wrapped(batch)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(weights, step)
        log.add(loss)
        done, last = step + 1, step + 1 == settings.steps
        if last or done % settings.every == 0:
            log.line(done, float(norm))
        if evaluate and not last and done % evaluate_every == 0:
            with swapped(weights, ema.weights):
                log.scores(done, evaluate, model)
        if accelerator.is_main_process and (last or done % settings.checkpoint_every == 0):
            save(work, model, optimizer, ema, done)
    copy(ema.weights, weights)
    return log.scores(settings.steps, evaluate, model) if evaluate else {}


def processes() -> PartialState:
    """This process among all; to be asked before Accelerate is used, which without a GPU takes each process for the only one."""
    return PartialState(cpu=not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"))


def own_rows(settings: Settings, process: int, processes: int) -> range:
    """Which rows of the batch are this process's."""
    share, rest = divmod(settings.batch_size, processes)
    if rest:
        raise UserError(f"--batch-size: {settings.batch_size} does not divide by {processes} processes; make it a multiple of {processes}")
    return range(process * share, (process + 1) * share)


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    optimizer = adamw(model, Train(lr=settings.lr, weight_decay=settings.weight_decay))
    for group in optimizer.param_groups:
        group["betas"] = (0.9, 0.98)  # runs of a few thousand steps: the squares may forget sooner
    return optimizer


def learning_rate_factor(step: int, settings: Settings) -> float:
    """Linear warmup, constant, then linear to zero over the last third."""
    return min(1.0, (step + 1) / max(1, settings.warmup), (settings.steps - step) / max(1, settings.steps // 3))


def restore(work: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA) -> int:
    """Take up the checkpoint, if there is one; the number of finished steps."""
    path = work / "checkpoint.pt"
    if not path.exists():
        return 0
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    copy(saved["ema"], ema.weights)
    return int(saved["step"])


def save(work: Path, model: nn.Module, optimizer: Any, ema: EMA, step: int) -> None:
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.weights, "step": step}, buffer)
    write_whole(work / "checkpoint.pt", buffer.getvalue())


class Log:
    """log.jsonl: the mean loss every so many steps, and the scores. Other processes than the first do not write."""

    def __init__(self, path: Path, accelerator: Accelerator, first: int, steps: int) -> None:
        self.path, self.accelerator = path, accelerator
        if accelerator.is_main_process and path.exists():
            # what a killed run logged after its checkpoint is done again, and the last scores are taken again in any case
            rows = [row for row in read_metrics(path) if row["step"] <= first and ("loss" in row or row["step"] < steps)]
            write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.restart()

    def restart(self) -> None:
        self.loss, self.count, self.started = torch.zeros((), device=self.accelerator.device), 0, time.perf_counter()

    def add(self, loss: Tensor) -> None:
        self.loss, self.count = self.loss + loss.detach(), self.count + 1

    def line(self, step: int, grad_norm: float) -> None:
        loss = self.accelerator.reduce(self.loss / self.count, "mean")
        seconds = (time.perf_counter() - self.started) / self.count
        self.write(step=step, loss=float(loss), grad_norm=grad_norm, seconds_per_step=seconds)
        self.restart()

    def scores(self, step: int, evaluate: Callable[[nn.Module], dict[str, float]], model: nn.Module) -> dict[str, float]:
        """Evaluate on the first process while the others wait."""
        before, scores = time.perf_counter(), {}
        if self.accelerator.is_main_process:
            scores = evaluate(model)
            self.write(step=step, **scores)
        self.accelerator.wait_for_everyone()
        self.started += time.perf_counter() - before  # not a step's time
        return scores

    def write(self, **entry: Any) -> None:
        if self.accelerator.is_main_process:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            print(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()), flush=True)


def pixels_of(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size -> [B, 3, H, W] in [-1, 1]."""
    return in_range(torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2))


def once(path: Path, write: Callable[[Path], object]) -> Path:
    """The file or folder `path`; if it is not there yet, the first process writes it whole while the others wait."""
    with processes().main_process_first():
        if not path.exists():
            draft = path.with_name(f"{path.name}.tmp")
            write(draft)
            os.replace(draft, path)
    return path


def finish(work: Path, out: Path, settings: Settings, scores: dict[str, float], write: Callable[[Path], object]) -> None:
    """On the first process: `write(out)`, and beside the model its log, and scores.json with the settings and the training's seconds."""
    state = processes()
    if state.is_main_process:
        write(out)
        rows = [row for row in read_metrics(work / "log.jsonl") if "loss" in row]
        steps = [0, *(row["step"] for row in rows)]
        seconds = sum(row["seconds_per_step"] * (row["step"] - before) for row, before in zip(rows, steps, strict=False))
        summary = {"scores": scores, "settings": asdict(settings), "seconds": round(seconds)}
        write_whole(out / "scores.json", (json.dumps(summary, indent=2) + "\n").encode())
        write_whole(out / "log.jsonl", (work / "log.jsonl").read_bytes())
        print(f"saved {out}")
    state.wait_for_everyone()
    state.destroy_process_group()
