"""The folder of a run: whose it is, what it holds, and how a run goes on from it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import yaml

from metabridge.bridge.artifact import read_artifact
from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole
from metabridge.bridge.recipe import Recipe
from metabridge.training import checkpoint as checkpoints
from metabridge.training import lock
from metabridge.training.checkpoint import Checkpoint
from metabridge.training.guard import ROLLBACKS, Guard
from metabridge.training.learner import Learner

Identities = Mapping[str, Mapping[str, str]]  # brain and hand -> repo, revision, fingerprint; init -> path, content_hash
# what may change between the parts of one run, beside log.*
FREE = {"train.steps", "train.checkpoint_every", "train.keep", "train.workers", "train.shard", "name"}


@contextmanager
def disk(out: Path) -> Iterator[None]:
    """A disk that is full or a folder that cannot be written to is one line, not a traceback."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WHY:
            raise
        saved = checkpoints.paths(out / "checkpoints")
        advice = f"{kept(out)}; make room and run the same command again" if saved else "nothing was saved; give another --out or make room"
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


@contextmanager
def claimed(recipe: Recipe, out: Path, main: bool, accept_changes: bool) -> Iterator[list[str]]:
    """Make the folder this recipe's, or find that it is already, and hold it. Yields what was found and mended on the way."""
    if not main:  # the first process does it for all
        yield []
        return
    out.mkdir(parents=True, exist_ok=True)
    path = out / "recipe.yaml"
    if not path.exists() and is_foreign(out):
        raise UserError(f"{out}: not empty, and no run folder (it has no recipe.yaml); give another --out")
    with lock.locked(out):
        changes = same_run(Recipe.load(path), recipe, out, accept_changes) if path.exists() else []
        clear_leftovers(out)
        damaged = checkpoints.set_aside_damaged(out / "checkpoints")
        if changes:
            keep_recipe(path, out)
        write_whole(path, recipe.dump().encode())
        yield [*changes, *damaged]


def is_foreign(out: Path) -> bool:
    """Whether a folder holds anything but what a run leaves that was killed before its recipe was written."""
    return any(below.name != lock.NAME and not fnmatch(below.name, ".*.tmp") for below in out.iterdir())


def same_run(before: Recipe, now: Recipe, out: Path, accept_changes: bool) -> list[str]:
    """Going on with other settings makes a run that no single recipe describes: only where that is asked for, and said."""
    old, new = flat(before.to_dict()), flat(now.to_dict())
    keys = [key for key in sorted(old | new) if key not in FREE and not key.startswith("log.") and old.get(key) != new.get(key)]
    if keys and not accept_changes:
        told = ", ".join(f"{key}={show(old.get(key))} (here {show(new.get(key))})" for key in keys)
        raise UserError(f"{out}: holds a run with {told}; use the same, give another --out, or go on with these by --accept-changes")
    return [f"{key}: was {show(old.get(key))}, is {show(new.get(key))} from here on" for key in keys]


def keep_recipe(path: Path, out: Path) -> None:
    """The recipe of the steps so far, as recipe.step-000123.yaml."""
    done = checkpoints.paths(out / "checkpoints")
    kept = path.with_name(f"recipe.step-{checkpoints.step_of(done[-1]) if done else 0:06d}.yaml")
    if not kept.exists():  # else it is that of another change since the same step
        write_whole(kept, path.read_bytes())


def clear_leftovers(out: Path) -> None:
    """What a killed run was writing."""
    for folder in (out, out / "checkpoints", out / "samples"):
        for path in folder.glob(".*.tmp"):
            path.unlink()
    shutil.rmtree(out / ".bridge.new", ignore_errors=True)


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
    for kind in ("brain", "hand"):
        began, given = before[kind], now[kind]
        if began["fingerprint"] != given["fingerprint"]:
            raise UserError(
                f"{out}: holds a run on the {kind} {began['repo']}@{began['revision']} (fingerprint {began['fingerprint'][:12]}), "
                f"but {given['repo']}@{given['revision']} has {given['fingerprint'][:12]} now; "
                f"give the {kind} it began with, or another --out"
            )
    started, starts = (base.get("init", {}) for base in (before, now))
    if started.get("content_hash") != starts.get("content_hash"):
        was, now_is = (f"{start['path']} ({start['content_hash'][:12]})" if start else "nothing" for start in (started, starts))
        raise UserError(f"{out}: holds a run that started from {was}, this one starts from {now_is}; give another --out")


def resume(out: Path, base: Identities, learner: Learner) -> Checkpoint | None:
    """Put the newest checkpoint into the learner; None where there is none."""
    state = checkpoints.latest(out / "checkpoints")
    if state is None:
        return None
    same_base(state.base, base, out)
    learner.take(state)
    learner.guard = Guard(**state.guard)
    return state


def kept(out: Path) -> str:
    """What of the run outlives an error."""
    saved = checkpoints.paths(out / "checkpoints")
    return f"{saved[-1]} is kept" if saved else "there was no checkpoint yet"


def roll_back(out: Path, learner: Learner, wrong: str, step: int) -> str:
    """Weights, optimizer and EMA of the last good checkpoint; the data goes on from where it is. Returns what to say, or gives up."""
    guard = learner.guard
    advice = "look at the rows of these steps, lower train.lr or train.clip" + (", or raise train.spike" if "usual" in wrong else "")
    if guard.anchor is None:
        raise UserError(f"step {step}: {wrong} (bad steps in a row: {guard.skipped_in_row}); {kept(out)}; {advice}")
    path = checkpoints.path_of(out / "checkpoints", guard.anchor)
    often = guard.rollbacks_in_row >= ROLLBACKS
    if often or not (path.is_file() and checkpoints.is_whole(path)):
        raise UserError(
            f"step {step}: {wrong} (bad steps in a row: {guard.skipped_in_row}); "
            f"going back to {path} {f'{ROLLBACKS} times did not help' if often else 'is not possible: it is gone or damaged'}; {advice}"
        )
    learner.take(checkpoints.read(path))
    guard.rolled_back()
    return f"step {step}: weights, optimizer and EMA are those of step {guard.anchor} again; the data goes on"


def bridge_steps(out: Path) -> int | None:
    """The steps that the run's saved bridge has seen; None where there is none that can be read."""
    try:
        steps: int | None = read_artifact(out / "bridge").config["metrics"].get("steps")
    except UserError:
        return None
    return steps
