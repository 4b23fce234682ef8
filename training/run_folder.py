"""The folder of a run: whose it is, what it holds, and how a run goes on from it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from torch import Tensor

from metabridge.bridge.artifact import read_artifact
from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole
from metabridge.bridge.recipe import Recipe
from metabridge.training import checkpoint as checkpoints
from metabridge.training.checkpoint import Checkpoint
from metabridge.training.optim import EMA, copy

Identities = Mapping[str, Mapping[str, str]]  # brain and hand -> repo, revision, fingerprint
FREE = {"train.steps", "train.checkpoint_every", "name"}  # what may change between the parts of one run, beside log.*


@contextmanager
def disk(out: Path) -> Iterator[None]:
    """A disk that is full or a folder that cannot be written to is one line, not a traceback."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WHY:
            raise
        kept = checkpoints.paths(out / "checkpoints")
        advice = (
            f"{kept[-1]} is kept; make room and run the same command again"
            if kept
            else "nothing was saved; give another --out or make room"
        )
        raise UserError(f"{error.filename or out}: cannot be written ({_WHY[error.errno]}); {advice}") from error


_WHY = {
    errno.ENOSPC: "the disk is full",
    errno.EFBIG: "the file is too large for this disk or its limit",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is no folder",
    errno.EEXIST: "it is no folder",
    errno.ENOENT: "its folder is gone",
    errno.EISDIR: "a folder is in its place",
    errno.ENAMETOOLONG: "the name is too long",
}


def claim(recipe: Recipe, out: Path) -> None:
    """Make the folder this recipe's, or find that it is already."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "recipe.yaml"
    if path.exists():
        same_run(Recipe.load(path), recipe, out)
    elif any(out.iterdir()):
        raise UserError(f"{out}: not empty, and no run folder (it has no recipe.yaml); give another --out")
    write_whole(path, recipe.dump().encode())


def same_run(before: Recipe, now: Recipe, out: Path) -> None:
    """Going on with other settings would make a run that no recipe describes."""
    old, new = flat(before.to_dict()), flat(now.to_dict())
    for key in sorted(old | new):
        if key not in FREE and not key.startswith("log.") and old.get(key) != new.get(key):
            raise UserError(
                f"{out}: holds a run with {key}={show(old.get(key))}, this one has {show(new.get(key))}; use the same, or another --out"
            )


def flat(tree: object, prefix: str = "") -> dict[str, object]:
    """{"train": {"lr": 1}} -> {"train.lr": 1}."""
    if isinstance(tree, list) and all(isinstance(row, dict) for row in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {name: value for key, below in tree.items() for name, value in flat(below, f"{prefix}.{key}" if prefix else str(key)).items()}


def show(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def same_base(before: Identities, now: Identities, out: Path) -> None:
    """Weights that learnt beside one brain or hand mean nothing beside another, whatever the recipe's words."""
    for kind, given in now.items():
        began = before[kind]
        if began["fingerprint"] != given["fingerprint"]:
            raise UserError(
                f"{out}: holds a run on the {kind} {began['repo']}@{began['revision']} (fingerprint {began['fingerprint'][:12]}), "
                f"but {given['repo']}@{given['revision']} has {given['fingerprint'][:12]} now; "
                f"give the {kind} it began with, or another --out"
            )


def resume(
    out: Path, base: Identities, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, ema: EMA | None, device: torch.device
) -> Checkpoint | None:
    """Put the newest checkpoint into weights, optimizer and EMA; None where there is none."""
    state = checkpoints.latest(out / "checkpoints", device)
    if state is None:
        return None
    same_base(state.base, base, out)
    copy(state.weights, weights)
    optimizer.load_state_dict(state.optimizer)
    if ema is not None and state.ema is not None:
        copy(state.ema, ema.weights)
    return state


def bridge_steps(out: Path) -> int | None:
    """The steps that the run's saved bridge has seen; None where there is none that can be read."""
    try:
        steps: int | None = read_artifact(out / "bridge").config["metrics"].get("steps")
    except UserError:
        return None
    return steps
