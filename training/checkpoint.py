"""Checkpoints that are whole or absent: written under another name with their own checksum, flushed to the disk, then renamed."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import whole

NAME = re.compile(r"step-\d+\.pt")
DIGEST = hashlib.sha256().digest_size  # bytes at the end of the file: of all that stands before them


@dataclass
class Checkpoint:
    """All that a run is between two steps. There is no RNG state: each step seeds its generators from (seed, step)."""

    step: int  # steps that are finished
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    ema: dict[str, Tensor] | None
    guard: dict[str, Any]
    window: list[float]  # losses since the last line of metrics.jsonl
    seconds: float  # spent in training so far
    loss: float  # of the last good step
    base: dict[str, dict[str, str]]  # identity of brain and hand
    data: dict[str, Any]  # bad rows so far, and where streams stand; what comes next is a function of the step


class Digesting:
    """A file for torch.save that takes the digest on the way. Torch's own writer turns a full disk into an error without its cause."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.failed: OSError | None = None

    def write(self, data: memoryview) -> int:
        self.digest.update(data)
        try:
            if self.failed is None:
                self.file.write(data)
        except OSError as error:
            self.failed = error
        return len(data)

    def flush(self) -> None:
        """Asked for by torch.save; whole() does it."""


def save(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write it, then remove what is older than the newest `keep`; the one that the guard would go back to stays."""
    path = path_of(folder, checkpoint.step)
    folder.mkdir(parents=True, exist_ok=True)
    with whole(path) as file:
        digesting = Digesting(file)
        torch.save({f.name: getattr(checkpoint, f.name) for f in fields(checkpoint)}, digesting)  # type: ignore[arg-type]
        if digesting.failed is not None:
            raise digesting.failed
        file.write(digesting.digest.digest())
    for old in paths(folder)[:-keep]:
        if step_of(old) != checkpoint.guard.get("anchor"):
            old.unlink()
    return path


def paths(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    if not os.path.isdir(folder):  # also where its name is too long to be asked for
        return []
    return sorted((path for path in folder.glob("step-*.pt") if NAME.fullmatch(path.name)), key=step_of)


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.pt"


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def is_whole(path: Path) -> bool:
    """Whether a file ends with the digest of what stands before it."""
    left, digest = path.stat().st_size - DIGEST, hashlib.sha256()
    with open(path, "rb") as file:
        while left > 0 and (data := file.read(min(left, 1 << 20))):
            digest.update(data)
            left -= len(data)
        return left == 0 and file.read() == digest.digest()


def set_aside_damaged(folder: Path) -> list[str]:
    """Rename what is newer than the newest whole checkpoint and damaged; a line for each. An error where none is whole."""
    found = paths(folder)
    damaged: list[Path] = []
    while found and not is_whole(found[-1]):
        damaged.append(found.pop())
    if damaged and not found:
        raise UserError(f"{folder}: no checkpoint is whole ({len(damaged)} damaged); bring back a copy, or remove the folder to begin anew")
    for path in damaged:
        path.rename(path.with_name(f"{path.name}.damaged"))
    return [f"{path}: damaged, its checksum is wrong; put aside as {path.name}.damaged, {found[-1].name} is taken" for path in damaged]


def read(path: Path) -> Checkpoint:
    """Onto the CPU, from where its tensors are copied into those that train."""
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    try:
        return Checkpoint(**state)
    except TypeError as error:
        raise UserError(f"{path}: written by another version of metabridge; finish the run with that one, or give another --out") from error


def latest(folder: Path) -> Checkpoint | None:
    return read(found[-1]) if (found := paths(folder)) else None
