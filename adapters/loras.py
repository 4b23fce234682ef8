"""LoRA files made elsewhere, put onto a hand for drawing: kohya's and diffusers' key layouts, through diffusers' own loaders."""

from __future__ import annotations

import inspect
import logging
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from metabridge.bridge.errors import UserError, unknown

log = logging.getLogger(__name__)

TRAINED = "default"  # peft's name of the adapter that `hand.train: lora` adds
TEXT_ENCODERS = ("text_encoder", "lora_te")  # key prefixes of diffusers' layout and of kohya's; a bridge takes their place


def wanted(loras: Sequence[Mapping[str, Any]]) -> list[tuple[Path, float]]:
    """`hand.loras: [{path: style.safetensors, weight: 0.8}]` -> paths and weights."""
    if not isinstance(loras, Sequence) or isinstance(loras, str):
        raise UserError(f"hand.loras: {loras!r} given; give a list, as [{{path: style.safetensors, weight: 0.8}}]")
    found = []
    for k, lora in enumerate(loras):
        if not isinstance(lora, Mapping) or not isinstance(lora.get("path"), str):
            raise UserError(f"hand.loras.{k}: {lora!r} given; give a mapping with a path, as {{path: style.safetensors, weight: 0.8}}")
        for key in lora:
            if key not in ("path", "weight"):
                raise UserError(unknown(f"hand.loras.{k}.{key}", ("path", "weight")))
        weight = lora.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise UserError(f"hand.loras.{k}.weight: {weight!r} given; it is a number, 1.0 by default")
        found.append((Path(lora["path"]).expanduser(), float(weight)))
    return found


def is_trained_lora(name: str) -> bool:
    """Whether a parameter of a denoiser, by its name, belongs to the adapter that `hand.train: lora` trains."""
    return "lora_" in name and f".{TRAINED}." in name


def lora_of(denoiser: nn.Module) -> list[nn.Parameter]:
    """The parameters that add_lora added; none without it."""
    return [parameter for name, parameter in denoiser.named_parameters() if is_trained_lora(name)]


def put_on(pipeline_class: Any, parts: Mapping[str, Any], denoiser: Any, files: Sequence[tuple[Path, float]]) -> None:
    """Load each file as an adapter of the denoiser and turn all of them on, beside the one that is trained if there is one.

    `parts`: what is there of the official pipeline beside the denoiser, by name; its text encoders stay None.
    """
    if not hasattr(pipeline_class, "load_lora_weights"):
        raise UserError(f"hand.loras: diffusers loads no LoRA files into a {pipeline_class.__name__}; leave them out")
    signature = inspect.signature(pipeline_class.__init__).parameters
    parts = {**parts, "unet" if "unet" in signature else "transformer": denoiser}
    needed = [name for name, parameter in signature.items() if name in parts or (name != "self" and parameter.default is parameter.empty)]
    pipeline = pipeline_class(**{name: parts.get(name) for name in needed})
    for k, (path, _) in enumerate(files):
        _load(pipeline, denoiser, path, f"lora{k}")
    switch(denoiser, files, trained=True)


def switch(denoiser: Any, files: Sequence[tuple[Path, float]], trained: bool) -> None:
    """Turn on the LoRA files of `put_on` and, if `trained`, the adapter that is trained, where there is one."""
    own = [TRAINED] if trained and TRAINED in getattr(denoiser, "peft_config", {}) else []
    names = [*own, *(f"lora{k}" for k in range(len(files)))]
    if names:
        denoiser.enable_adapters()
        denoiser.set_adapters(names, [1.0] * len(own) + [weight for _, weight in files])
    else:
        denoiser.disable_adapters()
    for name, parameter in denoiser.named_parameters():
        if "lora_" in name:  # peft turns gradients on and off with the adapters
            parameter.requires_grad_(is_trained_lora(name))


def _load(pipeline: Any, denoiser: Any, path: Path, adapter: str) -> None:
    if not path.is_file():
        raise UserError(f"hand.loras: {path}: no such file; give the .safetensors of a LoRA")
    family = type(pipeline).__name__.removesuffix("Pipeline")
    with tempfile.TemporaryDirectory() as folder:
        file = _without_text_encoders(path, Path(folder))
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several at once are what is asked for
                pipeline.load_lora_weights(str(file), adapter_name=adapter)
        except (ValueError, RuntimeError, LookupError, AttributeError, TypeError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"hand.loras: {path}: does not fit this hand ({reason}); it needs a LoRA made for {family}") from error
    if adapter not in getattr(denoiser, "peft_config", {}):
        raise UserError(f"hand.loras: {path}: holds nothing for this hand's denoiser; it needs a LoRA made for {family}")


def _without_text_encoders(path: Path, folder: Path) -> Path:
    """The file itself, or a copy in `folder` with the denoiser's half and the same metadata."""
    try:
        state = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
    except (SafetensorError, OSError) as error:
        raise UserError(f"hand.loras: {path}: cannot be read ({' '.join(str(error).split())[:120]}); give a .safetensors file") from error
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(TEXT_ENCODERS)}
    if len(kept) == len(state):
        return path
    log.warning(
        "%s: %d of %d tensors are for a text encoder, which a bridge does without; left out", path, len(state) - len(kept), len(state)
    )
    save_file(kept, folder / path.name, metadata=metadata)
    return folder / path.name
