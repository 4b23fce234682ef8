"""What the hands from diffusers' pipeline folders share: parts loaded one by one, the autoencoder, the native text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import diffusers
import torch
from peft import LoraConfig
from safetensors import SafetensorError
from torch import Tensor, nn

from metabridge.adapters.brains.auto import torch_dtype
from metabridge.adapters.locate import hub_error, locate
from metabridge.bridge.artifact import fingerprint
from metabridge.bridge.diffusion import DiffusionHand
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition

LORA_RANK = 8
CAPTIONS = ("a red square", "two dogs on a green field", "a city street at night in the rain", "a cup of coffee left of a book")


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a pipeline folder that draw, frozen but for a LoRA, and where its text encoder lies."""

    path: str
    revision: str
    dtype: torch.dtype
    denoiser: Any
    vae: Any
    scheduler: Any
    identity: dict[str, str]
    has_text_encoder: bool


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
    if train not in ("none", "lora"):
        raise UserError(f"hand.train: {train!r} given; it is one of: none, lora")
    if lora_rank is not None and (train != "lora" or lora_rank < 1):
        raise UserError(f"hand.lora_rank: {lora_rank} given; it is 1 at least, and has an effect with hand.train=lora alone")
    if weights not in ("pretrained", "random"):
        raise UserError(f"hand.weights: {weights!r} given; it is one of: pretrained, random")
    path, kind = locate(repo, revision), torch_dtype(dtype, "hand.dtype")
    try:
        index = diffusers.DiffusionPipeline.load_config(path, revision=revision)
        parts = {
            name: cls.from_pretrained(path, subfolder=name, revision=revision, dtype=kind).eval().requires_grad_(False)
            for name, cls in (denoiser, vae)
        }
        scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(path, subfolder="scheduler", revision=revision)
    except UserError:
        raise
    except (OSError, ValueError, LookupError, AttributeError, SafetensorError) as error:
        raise hub_error(repo, revision, error) from error
    if weights == "random":
        parts[denoiser[0]] = drawn_anew(parts[denoiser[0]])
    tensors = {f"{name}.{key}": x for name, part in parts.items() for key, x in part.state_dict().items()}
    identity = {"repo": repo, "revision": revision, "fingerprint": fingerprint(tensors)}
    if train == "lora":
        add_lora(parts[denoiser[0]], lora_rank or LORA_RANK)
    told = index.get("text_encoder", [None])[0] is not None
    return Checkpoint(path, revision, kind, parts[denoiser[0]], parts[vae[0]], scheduler, identity, told)


class PretrainedHand(DiffusionHand):
    """An adapter gives `width`, `factor`, `default_size`, `latent_shape` and `predict`."""

    pooled_width = None
    factor: int  # pixels to a latent, along a side

    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int) -> None:
        super().__init__()
        self.denoiser, self.vae, self.scheduler = checkpoint.denoiser, checkpoint.vae, checkpoint.scheduler
        self.identity, self.native = checkpoint.identity, native
        self.lora = lora_of(self.denoiser)
        self.prediction = prediction_of(checkpoint.scheduler)
        self.default_guidance, self.default_steps = guidance_scale, steps

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        return wide(latents_of(self.vae, pixels.to(self.vae.dtype))) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return wide(pixels)

    def latent_size(self, height: int, width: int, step: int) -> tuple[int, int]:
        """Height and width in latents, where both are multiples of `step` pixels."""
        if height < step or width < step or height % step or width % step:
            raise UserError(f"height, width: {height}x{width} given; each is a multiple of {step} for this hand")
        return height // self.factor, width // self.factor

    def trainable(self) -> list[nn.Parameter]:
        return self.lora

    @contextmanager
    def untouched(self) -> Iterator[None]:
        if not self.lora:
            yield
            return
        self.denoiser.disable_adapters()
        try:
            yield
        finally:
            self.denoiser.enable_adapters()
            for parameter in self.lora:  # which peft turned off with the adapter
                parameter.requires_grad_(True)

    def describe(self, captions: Sequence[str]) -> Condition | None:
        return None if self.native is None else self.native(captions, self.denoiser.device)

    def condition_rms(self) -> float:
        if self.native is None:
            return 1.0
        loaded = self.native.loaded
        condition = self.native(CAPTIONS, self.denoiser.device)
        if not loaded:
            self.native.release()  # gigabytes that only this one number needed
        real = condition.embeds[condition.mask.bool()]
        return float(real.square().mean().sqrt())


class Native:
    """The checkpoint's own text encoder behind the official encode_prompt; loaded when first asked. Not part of what is drawn with."""

    pipeline_class: ClassVar[Any]
    omitted: ClassVar[Mapping[str, Any]]  # parts of the pipeline that encode_prompt does without

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path, self.revision, self.dtype = checkpoint.path, checkpoint.revision, checkpoint.dtype

    @cached_property
    def pipeline(self) -> Any:
        return self.pipeline_class.from_pretrained(self.path, revision=self.revision, dtype=self.dtype, **self.omitted)

    @property
    def loaded(self) -> bool:
        return "pipeline" in self.__dict__

    def release(self) -> None:
        self.__dict__.pop("pipeline", None)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str], device: torch.device) -> Condition:
        self.pipeline.text_encoder.to(device).eval()
        return self.encode(list(captions), device)

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        raise NotImplementedError


def latents_of(vae: nn.Module, pixels: Tensor) -> Tensor:
    """What an autoencoder of diffusers makes of pixels, not scaled; of a distribution, its mode."""
    encoded = vae.encode(pixels)  # type: ignore[operator]
    latents: Tensor = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
    return latents


def add_lora(denoiser: Any, rank: int) -> None:
    """Low-rank updates of the attention's projections (arXiv 2106.09685), float32, zero at first; the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    for parameter in lora_of(denoiser):
        parameter.data = parameter.data.float()  # what is trained is never half precision


def lora_of(denoiser: nn.Module) -> list[nn.Parameter]:
    """The parameters that add_lora added; none without it."""
    return [parameter for name, parameter in denoiser.named_parameters() if "lora_" in name]


def drawn_anew(model: Any) -> Any:
    """The same architecture with random weights, the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(model).from_config(model.config).to(model.dtype).eval().requires_grad_(False)


def wide(x: Tensor) -> Tensor:
    """float32 at least: what leaves a hand is never half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def prediction_of(scheduler: Any) -> str:
    """flow | epsilon | v, by what the scheduler takes the output for."""
    if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        return "flow"
    kinds = {"flow_prediction": "flow", "epsilon": "epsilon", "v_prediction": "v"}
    kind = scheduler.config.get("prediction_type")
    if kind not in kinds:
        raise UserError(f"{type(scheduler).__name__}: predicts {kind}; known are {', '.join(kinds)}")
    return kinds[kind]
