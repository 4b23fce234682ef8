"""A pipeline's folder of diffusers, part by part: denoiser, autoencoder and scheduler, of the classes that a hand is written for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from peft import LoraConfig
from safetensors import SafetensorError
from torch import nn

from metabridge.adapters import skeleton
from metabridge.adapters.brains.auto import torch_dtype
from metabridge.adapters.locate import hub_error, locate, refuse_missing
from metabridge.adapters.loras import lora_of
from metabridge.bridge.artifact import fingerprint
from metabridge.bridge.errors import UserError

FORMER_NAMES = {  # as folders on the hub still write them
    "Transformer2DModel": "PixArtTransformer2DModel",
    "Lumina2Text2ImgPipeline": "Lumina2Pipeline",
}
TRAIN = ("none", "lora", "full")
LORA_RANK = 8
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj"]  # the last: all in one, in FLUX.2's single stream


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a pipeline folder that draw, frozen but for what is trained, and where its text encoder lies."""

    path: str
    revision: str
    dtype: torch.dtype
    denoiser: Any
    vae: Any
    scheduler: Any
    identity: dict[str, str]
    has_text_encoder: bool
    pipeline: str  # the official pipeline's name, as the folder gives it
    absent: tuple[str, ...]  # parts that the folder was saved without
    train: str  # none | lora | full
    original: Callable[[], Any]  # the denoiser as it came, loaded once more


def load_checkpoint(
    repo: str,
    revision: str,
    dtype: str,
    train: str,
    lora_rank: int | None,
    weights: str,
    denoiser: tuple[str, Any],
    vae: tuple[str, Any],
) -> Checkpoint:
    """A pipeline's folder or hub id. `denoiser` and `vae`: (subfolder, class)."""
    if train not in TRAIN:
        raise UserError(f"hand.train: {train!r} given; it is one of: {', '.join(TRAIN)}")
    if lora_rank is not None and (train != "lora" or lora_rank < 1):
        raise UserError(f"hand.lora_rank: {lora_rank} given; it is 1 at least, and has an effect with hand.train=lora alone")
    if weights not in ("pretrained", "random"):
        raise UserError(f"hand.weights: {weights!r} given; it is one of: pretrained, random")
    path, kind = locate(repo, revision), torch_dtype(dtype, "hand.dtype")

    def original() -> Any:
        part = _part(denoiser[1], path, denoiser[0], revision, kind)
        return drawn_anew(part) if weights == "random" else part

    try:
        index = diffusers.DiffusionPipeline.load_config(path, revision=revision)
        refuse_other_classes(repo, index, denoiser, vae)
        pipeline = pipeline_of(repo, index)
        parts = {denoiser[0]: original(), vae[0]: _part(vae[1], path, vae[0], revision, kind)}
        scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(path, subfolder="scheduler", revision=revision)
    except UserError:
        raise
    except (OSError, ValueError, LookupError, AttributeError, SafetensorError) as error:
        raise hub_error(repo, revision, error) from error
    tensors = {f"{name}.{key}": x for name, part in parts.items() for key, x in part.state_dict().items()}
    identity = {"repo": repo, "revision": revision, "fingerprint": fingerprint(tensors)}
    if train == "lora":
        add_lora(parts[denoiser[0]], lora_rank or LORA_RANK)
    if train == "full":
        nn.Module.to(parts[denoiser[0]], torch.float32)  # what is trained is never half precision
    told = index.get("text_encoder", [None])[0] is not None
    absent = tuple(name for name, part in index.items() if part == [None, None])
    return Checkpoint(path, revision, kind, parts[denoiser[0]], parts[vae[0]], scheduler, identity, told, pipeline, absent, train, original)


def refuse_other_classes(repo: str, index: Mapping[str, Any], *parts: tuple[str, Any]) -> None:
    """diffusers reads another class's folder with a warning and draws at random what is missing."""
    for name, cls in parts:
        found = index.get(name, (None, None))[1]
        if FORMER_NAMES.get(found, found) != cls.__name__:
            given = f"its {name} is {found}" if found else f"it has no {name}"
            raise UserError(f"{repo}: {given}, this hand takes {cls.__name__}; see metabridge ls hands for another")


def pipeline_of(repo: str, index: Mapping[str, Any]) -> str:
    """The name of the official pipeline; a list there names code that comes with the folder."""
    found = str(index["_class_name"])
    name = FORMER_NAMES.get(found, found)
    if not hasattr(diffusers, name):
        raise UserError(f"{repo}: it is for {name}, which the installed diffusers does not have; see metabridge ls hands for another")
    return name


def refuse_other_channels(repo: str, checkpoint: Checkpoint, taken: int) -> None:
    """`taken`: channels of a latent as the denoiser takes them; more than the autoencoder's is a picture to start from."""
    given = checkpoint.vae.config.get("latent_channels") or checkpoint.vae.config.z_dim
    if taken != given:
        raise UserError(
            f"{repo}: its {type(checkpoint.denoiser).__name__} takes {taken} channels, its autoencoder gives {given}; "
            "checkpoints that are given a picture as further channels are not offered, give one for text to image"
        )


def guidance_told(checkpoint: Checkpoint, given: float | None, usual: float) -> float | None:
    """The scale that a denoiser distilled for guidance (arXiv 2210.03142) is told as a number; None where it is told none."""
    if checkpoint.denoiser.config.guidance_embeds:
        return usual if given is None else given
    if given is not None:
        raise UserError(f"hand.distilled_guidance: {given:g} given; this checkpoint is told none, leave it out")
    return None


def _part(cls: Any, path: str, name: str, revision: str, dtype: torch.dtype) -> Any:
    if skeleton.active():
        return skeleton.model_of_diffusers(cls, path, name, dtype).eval().requires_grad_(False)
    part, found = cls.from_pretrained(path, subfolder=name, revision=revision, dtype=dtype, output_loading_info=True)
    refuse_missing(found["missing_keys"], f"{name}: ")
    return part.eval().requires_grad_(False)


def add_lora(denoiser: Any, rank: int) -> None:
    """Low-rank updates of the attention's projections (arXiv 2106.09685), float32, zero at first; the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_TARGETS))
    for parameter in lora_of(denoiser):
        parameter.data = parameter.data.float()  # what is trained is never half precision


def drawn_anew(model: Any) -> Any:
    """The same architecture with random weights, the same ones each time."""
    with torch.random.fork_rng(devices=[]), model.device:  # a model without weights stays one
        torch.manual_seed(0)
        return type(model).from_config(model.config).to(model.dtype).eval().requires_grad_(False)
