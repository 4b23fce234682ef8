"""Checkpoints that are whole or absent: serialised, written under another name, flushed to the disk, then renamed."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole

KEEP = 2  # the newest, and the one before it


@dataclass
class Checkpoint:
    """All that a run is between two steps. There is no RNG state: each step seeds its generators from (seed, step)."""

    step: int  # steps that are finished
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    ema: dict[str, Tensor] | None
    window: list[float]  # losses since the last line of metrics.jsonl
    seconds: float  # spent in training so far
    loss: float  # of the last step
    base: dict[str, dict[str, str]]  # identity of brain and hand


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    path = folder / f"step-{checkpoint.step:06d}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()  # serialised before the file is touched: torch's own writer does not say that a disk is full
    torch.save(asdict(checkpoint), buffer)
    write_whole(path, buffer.getvalue())
    for old in paths(folder)[:-KEEP]:
        old.unlink()
    return path


def paths(folder: Path) -> Sequence[Path]:
    """The checkpoints of a run, oldest first."""
    if not os.path.isdir(folder):  # also where its name is too long to be asked for
        return []
    return sorted(folder.glob("step-*.pt"), key=lambda path: int(path.stem.removeprefix("step-")))


def latest(folder: Path, device: torch.device) -> Checkpoint | None:
    if not (found := paths(folder)):
        return None
    try:
        return Checkpoint(**torch.load(found[-1], map_location=device, weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, OSError) as error:
        raise UserError(f"checkpoint {found[-1]}: cannot be read; remove it to go on from the one before, or give another --out") from error
