"""What was trained, on disk: bridge.safetensors, bridge.json and a model card; only for the base it was trained on.

Megabytes of queries, connector and LoRA; with hand.train: full the whole denoiser, in shards where it is large.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import sync_folder, sync_tree
from metabridge.bridge.model import Bridge
from metabridge.bridge.reading import plain
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.saved import aside, last_saved
from metabridge.bridge.settings import Part
from metabridge.bridge.weights import load_weights, save_weights

FORMAT = 1
SAMPLES = 64  # values of each tensor that enter a fingerprint


@dataclass(frozen=True)
class Artifact:
    """A saved bridge, read but not yet laid over a base."""

    folder: Path
    config: dict[str, Any]  # bridge.json
    tensors: dict[str, Tensor]

    @property
    def recipe(self) -> Recipe:
        """The recipe that builds it again; relative paths resolved against the folder. What it began from is in its weights."""
        return dataclasses.replace(_resolved(self.config, self.folder), init=None)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over name, shape, dtype and 64 evenly spaced values of each tensor: tells a base from another in a moment."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat, count = tensor.detach().flatten(), tensor.numel()
        if count and not flat.is_meta:  # which has no values
            index = torch.arange(SAMPLES, device=flat.device) * (count - 1) // (SAMPLES - 1)
            digest.update(flat[index].double().cpu().numpy().tobytes())
    return digest.hexdigest()


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over every bit of every tensor: shows that what is frozen stayed as it was."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().flatten().view(torch.uint8).numpy()).tobytes())
    return digest.hexdigest()


def save_bridge(
    bridge: Bridge,
    folder: str | Path,
    recipe: Recipe,
    metrics: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the artifact; `weights` (an EMA) in place of the live ones, in `dtype` (bfloat16 halves what a package ships) or as they are.

    The folder is replaced as a whole, never left half-written.
    """
    folder = Path(folder)
    tensors = dict(bridge.trained()) if weights is None else dict(weights)
    if missing := bridge.trained().keys() ^ tensors.keys():
        raise ValueError(f"weights to save differ from what is trained: {sorted(missing)}")
    tree = _portable(recipe, folder)
    config = {
        "format": FORMAT,
        "brain": bridge.brain.identity | {"repo": tree["brain"].get("repo", bridge.brain.identity["repo"])},
        "hand": bridge.hand.identity | {"repo": tree["hand"].get("repo", bridge.hand.identity["repo"])},
        "connector": {**dataclasses.asdict(bridge.settings), "scale": bridge.scale},
        "recipe": tree,
        "metrics": dict(metrics),
    }
    if bridge.init is not None:
        config["init"] = {**bridge.init, "path": _relative(bridge.init["path"], folder)}
    _write(folder, config, {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()})


def copy_bridge(artifact: Artifact, folder: str | Path) -> None:
    """The same bridge in another folder, which its relative paths then lead from."""
    folder, config = Path(folder), dict(artifact.config)
    tree = _portable(_resolved(config, artifact.folder), folder)
    config |= {kind: config[kind] | {"repo": tree[kind].get("repo", config[kind]["repo"])} for kind in ("brain", "hand")}
    if "init" in config:
        config["init"] = {**config["init"], "path": _relative(_absolute(config["init"]["path"], artifact.folder), folder)}
    _write(folder, config | {"recipe": tree}, artifact.tensors)


def _write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    config = {**config, "content": content_hash(tensors)}
    fresh = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_weights(tensors, fresh)
        (fresh / "bridge.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(model_card(config), encoding="utf-8")
        sync_tree(fresh)
        _swap(fresh, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise UserError(f"{folder}: the bridge could not be saved ({error}); free space or choose another --out") from error


def read_artifact(folder: str | Path) -> Artifact:
    folder = last_saved(Path(folder)) or Path(folder)
    if not (folder / "bridge.json").is_file():
        raise UserError(f"{folder}: no bridge.json here; give the folder that holds bridge.json and bridge.safetensors")
    try:
        config = json.loads((folder / "bridge.json").read_text(encoding="utf-8"))
        tensors = load_weights(folder)
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder}: the bridge cannot be read ({error}); copy or train it again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(
            f"{folder}/bridge.json: not a bridge of format {FORMAT}, which this version reads; train it again or update metabridge"
        )
    _check_config(config, folder)
    if "content" in config and config["content"] != content_hash(tensors):
        raise UserError(f"{folder}: the weights are damaged, their hash is not that of bridge.json; copy or train the bridge again")
    return Artifact(folder, config, tensors)


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    """Everything that is read from bridge.json later is there."""
    wanted = [(part, key, str) for part in ("brain", "hand") for key in ("repo", "revision", "fingerprint")]
    for part, key, kind in (*wanted, ("connector", "scale", float | int)):
        section = config.get(part)
        if not isinstance(section, dict) or not isinstance(section.get(key), kind):
            raise UserError(f"{folder}/bridge.json: {part}.{key} is missing or damaged; copy the bridge again or train it again")
    for part in ("recipe", "metrics"):
        if not isinstance(config.get(part), dict):
            raise UserError(f"{folder}/bridge.json: {part} is missing or damaged; copy the bridge again or train it again")
    try:
        Recipe.from_dict(config["recipe"])
    except UserError as error:
        raise UserError(f"{folder}/bridge.json: recipe: {error}") from error


def apply(artifact: Artifact, bridge: Bridge) -> None:
    """Lay the trained weights over a bridge; refused where its brain or hand is not the one they were trained on."""
    if missing := lay_over(artifact, bridge):
        raise UserError(f"{artifact.folder}: {missing[0]} is not in it, but this recipe trains it; use the recipe it was trained with")


def lay_over(artifact: Artifact, bridge: Bridge) -> list[str]:
    """Lay its weights over a bridge that may train more of the hand than it did. Returns what it does not hold, which stays as it was."""
    _same_base(artifact, bridge)
    _same_connector(artifact, bridge)
    own, folder = bridge.trained(), artifact.folder
    if foreign := sorted(artifact.tensors.keys() - own.keys()):
        how = artifact.recipe.hand.options.get("train", "none")
        raise UserError(f"{folder}: {foreign[0]} has no place in this recipe; it was trained with hand.train={how}, use the same")
    for name, tensor in artifact.tensors.items():
        if own[name].shape != tensor.shape:
            advice = "hand.lora_rank" if name.startswith("hand.") else "connector settings"
            raise UserError(
                f"{folder}: {name} is {tuple(tensor.shape)}, but this recipe's is {tuple(own[name].shape)}; "
                f"use the {advice} it was trained with"
            )
    missing = sorted(own.keys() - artifact.tensors.keys())
    if damaged := [name for name in missing if not name.startswith("hand.")]:
        raise UserError(f"{folder}: {damaged[0]} is not in it; the bridge is damaged, copy it again or train it again")
    with torch.no_grad():
        for name, tensor in artifact.tensors.items():
            own[name].copy_(tensor)
    return missing


def _same_base(artifact: Artifact, bridge: Bridge) -> None:
    for kind, part in (("brain", bridge.brain), ("hand", bridge.hand)):
        trained_on, given = artifact.config[kind], part.identity
        if trained_on["fingerprint"] != given["fingerprint"]:
            raise UserError(
                f"{artifact.folder}: trained on the {kind} {trained_on['repo']}@{trained_on['revision']} "
                f"(fingerprint {trained_on['fingerprint'][:12]}), but {given['repo']}@{given['revision']} has {given['fingerprint'][:12]}; "
                f"give the {kind} it was trained on, or train a bridge for this one"
            )


def _same_connector(artifact: Artifact, bridge: Bridge) -> None:
    """Also what no shape shows: other taps, or heads."""
    before, now = artifact.config["connector"], plain(dataclasses.asdict(bridge.settings))
    for key, value in now.items():
        if before.get(key, value) != value:
            raise UserError(
                f"{artifact.folder}: trained with connector.{key}={before[key]}, but this recipe has {value}; "
                "use the connector settings it was trained with"
            )


def model_card(config: Mapping[str, Any]) -> str:
    brain, hand, connector = config["brain"], config["hand"], config["connector"]
    train, rank = (config["recipe"]["hand"].get(key) for key in ("train", "lora_rank"))
    of_hand = {"lora": f" and a LoRA of the hand{f' of rank {rank}' if rank else ''}", "full": " and the hand's denoiser"}
    trained = f"Queries, connector{of_hand[train]}" if train in of_hand else "Queries and connector"
    metrics = "\n".join(f"| {name} | {value} |" for name, value in config["metrics"].items()) or "| none | |"
    return (
        f"---\nlibrary_name: metabridge\ntags: [text-to-image]\n---\n# {config['recipe']['name']}\n\n"
        f"{trained} ({connector['queries']} queries, taps {list(connector['taps'])}, {connector['layers']} layers of width "
        f"{connector['width']}) between a frozen brain and a hand, for metabridge.\n\n| part | repository | revision | fingerprint |\n"
        "|---|---|---|---|\n"
        + "".join(
            f"| {kind} | {p['repo']} | {p['revision']} | `{p['fingerprint'][:16]}` |\n" for kind, p in (("brain", brain), ("hand", hand))
        )
        + f"\n| metric | value |\n|---|---|\n{metrics}\n"
    )


def is_local(repo: str) -> bool:
    """Whether a repo names a folder on this disk, and neither the package's own weights nor a hub id."""
    return not repo.startswith("package:") and (repo.startswith((".", "/", "~")) or Path(repo).exists())


def _portable(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The recipe with local paths written relative to the artifact's folder."""
    tree = recipe.to_dict()
    for kind in ("brain", "hand"):
        if isinstance(repo := tree[kind].get("repo"), str):
            tree[kind]["repo"] = _relative(repo, folder)
    if recipe.init is not None:
        tree["init"] = _relative(recipe.init, folder)
    if loras := tree["hand"].get("loras"):  # files that lie beside the base
        relative = [os.path.relpath(Path(lora["path"]).expanduser().resolve(), folder.resolve()) for lora in loras]
        tree["hand"]["loras"] = [{**lora, "path": path} for lora, path in zip(loras, relative, strict=True)]
    return tree


def _resolved(config: Mapping[str, Any], folder: Path) -> Recipe:
    """The recipe in bridge.json with its paths resolved against the folder."""
    recipe = Recipe.from_dict(config["recipe"])
    init = None if recipe.init is None else _absolute(recipe.init, folder)
    return dataclasses.replace(recipe, brain=_resolve(recipe.brain, folder), hand=_resolve(recipe.hand, folder), init=init)


def _resolve(part: Part, folder: Path) -> Part:
    options = dict(part.options)
    if isinstance(repo := options.get("repo"), str):
        options["repo"] = _absolute(repo, folder)
    if loras := options.get("loras"):
        options["loras"] = [{**lora, "path": str((folder / lora["path"]).resolve())} for lora in loras]
    return dataclasses.replace(part, options=options)


def _relative(name: str, folder: Path) -> str:
    """A local path as seen from the folder; a hub id or a shipped name as it is."""
    if not is_local(name):
        return name
    path = os.path.relpath(Path(name).expanduser().resolve(), folder.resolve())
    return path if path.startswith(".") else f"./{path}"


def _absolute(name: str, folder: Path) -> str:
    return str((folder / name).resolve()) if name.startswith(".") else name


def _swap(fresh: Path, folder: Path) -> None:
    """Put `fresh` in the folder's place. At every moment one whole bridge is where last_saved() looks."""
    if folder.exists():
        shutil.rmtree(aside(folder), ignore_errors=True)
        folder.rename(aside(folder))
    fresh.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(aside(folder), ignore_errors=True)
