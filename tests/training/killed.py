"""A process that trains in children and kills them: RECIPE FOLDER POINTS. Prints the number of kills that all came out even."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not live through a fork

import torch
from safetensors.torch import load_file

from metabridge.adapters import assemble
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training.checkpoint import is_whole
from metabridge.training.log import read_metrics
from metabridge.training.train import train


def attempt(recipe: Recipe, bridge: Bridge, out: Path, seconds: float) -> bool:
    """Train in a child; kill -9 after so many seconds. Whether it had ended by itself."""
    child = os.fork()
    if not child:
        try:
            os._exit(0 if train(recipe, bridge, out) == recipe.train.steps else 3)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, f"the training ended with status {status}"
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def result(out: Path, steps: int) -> dict[str, Any]:
    """All that a run leaves, times aside."""
    path = out / f"checkpoints/step-{steps:06d}.pt"
    assert is_whole(path)
    state = torch.load(path, weights_only=True)
    del state["seconds"]
    lines = [{key: row[key] for key in ("step", "loss", "grad_norm", "lr")} for row in read_metrics(out / "metrics.jsonl")]
    leftovers = [str(file) for file in out.rglob(".*") if file.name != ".lock"]
    return {"checkpoint": state, "bridge": load_file(out / "bridge/bridge.safetensors"), "lines": lines, "leftovers": leftovers}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(left, right) for left, right in zip(a, b, strict=True))
    return bool(a == b)


def main(recipe_file: str, folder: str, points: str) -> None:
    recipe = Recipe.load(recipe_file)
    bridge = assemble(recipe)
    steps, rng, kills = recipe.train.steps, random.Random(0), 0
    start = time.monotonic()
    assert attempt(recipe, bridge, Path(folder) / "whole", 600)
    whole, lasted = result(Path(folder) / "whole", steps), time.monotonic() - start
    number = 0
    while kills < int(points):
        out = Path(folder) / str(number)
        while not attempt(recipe, bridge, out, rng.uniform(0, lasted) if kills < int(points) else 600):
            kills += 1
        assert same(whole, result(out, steps)), f"{out} differs after {kills} kills"
        number += 1
    print(f"{kills} kills in {number} runs")


if __name__ == "__main__":
    main(*sys.argv[1:])
