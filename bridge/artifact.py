"""What was trained, on disk: bridge.safetensors, bridge.json and a model card; megabytes, and only for the base it was trained on."""

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
from safetensors.torch import load_file, save_file
from torch import Tensor

from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.saved import aside, last_saved
from metabridge.bridge.settings import Part

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
        """The recipe it was trained with; relative paths resolved against the folder."""
        recipe = Recipe.from_dict(self.config["recipe"])
        return dataclasses.replace(recipe, brain=_resolve(recipe.brain, self.folder), hand=_resolve(recipe.hand, self.folder))


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
    fresh = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file({name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}, fresh / "bridge.safetensors")
        (fresh / "bridge.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(model_card(config), encoding="utf-8")
        _swap(fresh, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise UserError(f"{folder}: the bridge could not be saved ({error}); free space or choose another --out") from error


def read_artifact(folder: str | Path) -> Artifact:
    folder = last_saved(Path(folder)) or Path(folder)
    if missing := [name for name in ("bridge.json", "bridge.safetensors") if not (folder / name).is_file()]:
        raise UserError(f"{folder}: no {missing[0]} here; give the folder that holds bridge.json and bridge.safetensors")
    try:
        config = json.loads((folder / "bridge.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "bridge.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: the bridge cannot be read ({error}); copy or train it again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(
            f"{folder}/bridge.json: not a bridge of format {FORMAT}, which this version reads; train it again or update metabridge"
        )
    _check_config(config, folder)
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
    for kind, part in (("brain", bridge.brain), ("hand", bridge.hand)):
        trained_on, given = artifact.config[kind], part.identity
        if trained_on["fingerprint"] != given["fingerprint"]:
            raise UserError(
                f"{artifact.folder}: trained on the {kind} {trained_on['repo']}@{trained_on['revision']} "
                f"(fingerprint {trained_on['fingerprint'][:12]}), but {given['repo']}@{given['revision']} has {given['fingerprint'][:12]}; "
                f"give the {kind} it was trained on, or train a bridge for this one"
            )
    own = bridge.trained()
    if own.keys() != artifact.tensors.keys():
        raise UserError(f"{artifact.folder}: tensors differ from this recipe's in {sorted(own.keys() ^ artifact.tensors.keys())[:3]}")
    for name, parameter in own.items():
        if parameter.shape != artifact.tensors[name].shape:
            raise UserError(
                f"{artifact.folder}: {name} is {tuple(artifact.tensors[name].shape)}, but this recipe's is {tuple(parameter.shape)}; "
                "use the connector settings it was trained with"
            )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(artifact.tensors[name])


def model_card(config: Mapping[str, Any]) -> str:
    brain, hand, connector = config["brain"], config["hand"], config["connector"]
    metrics = "\n".join(f"| {name} | {value} |" for name, value in config["metrics"].items()) or "| none | |"
    return (
        f"---\nlibrary_name: metabridge\ntags: [text-to-image]\n---\n# {config['recipe']['name']}\n\n"
        f"Queries and connector ({connector['queries']} queries, taps {list(connector['taps'])}, {connector['layers']} layers of width "
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
        repo = tree[kind].get("repo")
        if isinstance(repo, str) and is_local(repo):
            path = os.path.relpath(Path(repo).expanduser().resolve(), folder.resolve())
            tree[kind]["repo"] = path if path.startswith(".") else f"./{path}"
    if loras := tree["hand"].get("loras"):  # files that lie beside the base
        relative = [os.path.relpath(Path(lora["path"]).expanduser().resolve(), folder.resolve()) for lora in loras]
        tree["hand"]["loras"] = [{**lora, "path": path} for lora, path in zip(loras, relative, strict=True)]
    return tree


def _resolve(part: Part, folder: Path) -> Part:
    options = dict(part.options)
    if isinstance(repo := options.get("repo"), str) and repo.startswith("."):
        options["repo"] = str((folder / repo).resolve())
    if loras := options.get("loras"):
        options["loras"] = [{**lora, "path": str((folder / lora["path"]).resolve())} for lora in loras]
    return dataclasses.replace(part, options=options)


def _swap(fresh: Path, folder: Path) -> None:
    """Put `fresh` in the folder's place. At every moment one whole bridge is where last_saved() looks."""
    if folder.exists():
        shutil.rmtree(aside(folder), ignore_errors=True)
        folder.rename(aside(folder))
    fresh.rename(folder)
    shutil.rmtree(aside(folder), ignore_errors=True)
