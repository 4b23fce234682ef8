"""The outside world, by name: the only place that builds a Bridge from a recipe. Imports nothing heavy until asked."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.modules import module_of, names_in
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.saved import last_saved
from metabridge.bridge.settings import Part

if TYPE_CHECKING:
    from metabridge.bridge.model import Bridge
    from metabridge.bridge.pipeline import BridgePipeline

log = logging.getLogger(__name__)

KINDS = ("brains", "hands")
SHARED = {"brains": (), "hands": ("loras", "gradient_checkpointing", "compile", "vae_tiling")}  # options that every adapter of a kind has


def names(kind: str) -> list[str]:
    """The adapters of a kind: the names of the files in adapters/<kind>."""
    return names_in(f"metabridge.adapters.{kind}")


def load(kind: str, part: Part) -> Any:
    """Import adapters/<kind>/<name>.py (a dotted name is a third party's module) and call its load(**options)."""
    singular, shared = kind.removesuffix("s"), SHARED[kind]
    module = module_of(f"metabridge.adapters.{kind}", part.name, names(kind), singular, f"{singular}.name", f"the {singular}")
    parameters = inspect.signature(module.load).parameters
    for option in part.options:
        if option not in parameters and option not in shared:
            raise UserError(unknown(f"{singular}.{option}", [*parameters, *shared], f"option of {singular} {part.name}"))
    if missing := [p.name for p in parameters.values() if p.default is p.empty and p.name not in part.options]:
        raise UserError(f"{singular}.{missing[0]}: missing; {singular} {part.name} needs it")
    loaded = module.load(**{name: value for name, value in part.options.items() if name in parameters})
    if prepared := {name: value for name, value in part.options.items() if name not in parameters}:
        from metabridge.adapters.prepare import prepare_hand

        prepare_hand(loaded, **prepared)
    return loaded


def assemble(recipe: Recipe, device: str = "cpu", scale: float | None = None, init: str | Path | None = None) -> Bridge:
    """Brain, hand and a fresh bridge between them, the same for the same train.seed; or one that starts from the weights of another.

    `scale`: RMS of the hand's native conditioning where it is known already (a saved bridge); otherwise it is measured.
    `init`: the bridge to start from, in place of the recipe's.
    """
    import torch

    from metabridge.bridge.artifact import content_hash, lay_over, read_artifact
    from metabridge.bridge.model import Bridge

    init = recipe.init if init is None else str(init)
    start = None if init is None else read_artifact(find_bridge(init))
    if start is not None:
        scale = start.config["connector"]["scale"]
    with torch.random.fork_rng(devices=[]):
        brain, hand = load("brains", recipe.brain), load("hands", recipe.hand)
        if recipe.objective.distill and hand.describe([""]) is None:
            raise UserError("objective.distill: this hand has no text encoder to learn from; set objective.distill=0")
        scale = hand.condition_rms() if scale is None else scale
        torch.manual_seed(recipe.train.seed)
        with torch.device("meta" if device == "meta" else "cpu"):  # values are drawn on the CPU, the same for every device
            bridge = Bridge(brain, hand, recipe.connector, recipe.objective, scale)
    bridge.thinks = recipe.thinks
    if init is not None and start is not None:
        lay_over(start, bridge)
        bridge.init = {"path": init, "content_hash": content_hash(start.tensors)}
    return bridge.to(device)


def load_pipeline(
    path_or_id: str | Path, device: str = "cpu", name: str | None = None, quantize: str | None = None, offload: bool = False
) -> BridgePipeline:
    """A trained bridge with its base: a run or artifact folder, else a shipped name, else a hub id. `name`: what the user calls it.

    `quantize`: the brain's option of that name, in place of the one it was trained with. `offload`: brain and hand are on the device by
    turns, for a GPU that holds one of them.
    """
    from metabridge.bridge.artifact import apply, read_artifact
    from metabridge.bridge.pipeline import BridgePipeline

    artifact = read_artifact(find_bridge(path_or_id))
    recipe = artifact.recipe if quantize is None else requantized(artifact.recipe, quantize)
    bridge = assemble(recipe, "cpu" if offload else device, scale=artifact.config["connector"]["scale"])
    apply(artifact, bridge)
    if offload:
        bridge.queries.data = bridge.queries.data.to(device)
        bridge.connector.to(device)
    return BridgePipeline(bridge, name=name or str(path_or_id), offload=offload)


def requantized(recipe: Recipe, quantize: str) -> Recipe:
    """The recipe of a trained bridge with its brain quantized otherwise, which changes what the bridge sees a little: said."""
    trained = recipe.brain.options.get("quantize", "none")
    if quantize == trained:
        return recipe
    log.warning("brain.quantize: %s, but this bridge was trained on %s; drawings differ a little", quantize, trained)
    brain = dataclasses.replace(recipe.brain, options={**recipe.brain.options, "quantize": quantize})
    return dataclasses.replace(recipe, brain=brain)


def find_bridge(path_or_id: str | Path) -> Path:
    """The folder that holds bridge.json."""
    path, name = Path(os.path.expanduser(path_or_id)), str(path_or_id)
    for folder in (path, path / "bridge"):
        if found := last_saved(folder):
            return found
    if name in shipped():
        return shipped()[name]
    if os.path.exists(path):
        raise UserError(f"{path}: no bridge in it; give a run folder (with bridge/bridge.json) or the folder that holds bridge.json")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    close = difflib.get_close_matches(name, shipped(), n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    raise UserError(f"{name}: no such folder and no shipped bridge; {guess}shipped are: {', '.join(shipped()) or '(none)'}")


def shipped() -> dict[str, Path]:
    """Bridges inside the package, by name: flatland/bridge is flatland, flatland/bridge-edit is flatland-edit."""
    root = Path(str(files("metabridge.adapters")))
    found = [path.parent for path in sorted(root.glob("*/bridge*/bridge.json"))]
    return {folder.parent.name + folder.name.removeprefix("bridge"): folder for folder in found}


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=["bridge.json", "bridge*.safetensors*"]))
    except HFValidationError as error:
        raise UserError(
            f"{repo}: no such folder, and not a name that the hub could have; give a run folder, flatland or owner/name"
        ) from error
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{repo}: no such folder, and not to be had from the hub ({reason}); check the name and the network") from error
