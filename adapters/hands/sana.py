"""Sana (arXiv 2410.10629): a linear-attention diffusion transformer over a deep-compression autoencoder, flow matching."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from torch import Tensor

from metabridge.adapters.brains.auto import torch_dtype
from metabridge.adapters.locate import hub_error, locate
from metabridge.bridge.artifact import fingerprint
from metabridge.bridge.diffusion import DiffusionHand
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition

CAPTIONS = ("a red square", "two dogs on a green field", "a city street at night in the rain", "a cup of coffee left of a book")


class SanaHand(DiffusionHand):
    pooled_width = None

    def __init__(
        self,
        transformer: diffusers.SanaTransformer2DModel,
        vae: diffusers.AutoencoderDC,
        scheduler: Any,
        identity: dict[str, str],
        native: Native | None,
        guidance_scale: float,
        steps: int,
    ) -> None:
        super().__init__()
        self.transformer = transformer.eval().requires_grad_(False)
        self.vae = vae.eval().requires_grad_(False)
        self.scheduler, self.identity, self.native = scheduler, identity, native
        self.width: int = transformer.config.caption_channels
        self.prediction = prediction_of(scheduler)
        self.factor: int = vae.spatial_compression_ratio
        self.default_size = (transformer.config.sample_size * self.factor,) * 2
        self.default_guidance, self.default_steps = guidance_scale, steps

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(pixels.to(self.vae.dtype)).latent
        return wide(latents) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return wide(pixels)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        step = self.factor * self.transformer.config.patch_size
        if height < step or width < step or height % step or width % step:
            raise UserError(f"height, width: {height}x{width} given; each is a multiple of {step} for this hand")
        return self.transformer.config.in_channels, height // self.factor, width // self.factor

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        dtype = self.transformer.dtype
        predicted: Tensor = self.transformer(
            latents.to(dtype),
            encoder_hidden_states=condition.embeds.to(dtype),
            encoder_attention_mask=condition.mask,
            timestep=timestep * self.transformer.config.timestep_scale,
            return_dict=False,
        )[0]
        return predicted.to(latents.dtype)[:, : latents.shape[1]]  # a learned sigma would follow the velocity

    def describe(self, captions: Sequence[str]) -> Condition | None:
        return None if self.native is None else self.native(captions, self.transformer.device)

    def condition_rms(self) -> float:
        if self.native is None:
            return 1.0
        loaded = self.native.loaded
        condition = self.native(CAPTIONS, self.transformer.device)
        if not loaded:
            self.native.release()  # gigabytes that only this one number needed
        real = condition.embeds[condition.mask.bool()]
        return float(real.square().mean().sqrt())


class Native:
    """The checkpoint's own text encoder behind the official encode_prompt; loaded when first asked. Not part of what is drawn with."""

    def __init__(self, path: str, revision: str, dtype: torch.dtype, max_sequence_length: int, instruction: bool) -> None:
        self.path, self.revision, self.dtype = path, revision, dtype
        self.max_sequence_length = max_sequence_length
        # what the official pipeline writes before every prompt, but not before the empty one
        call = inspect.signature(diffusers.SanaPipeline.__call__).parameters
        self.instruction = call["complex_human_instruction"].default if instruction else None

    @cached_property
    def pipeline(self) -> Any:
        return diffusers.SanaPipeline.from_pretrained(self.path, revision=self.revision, transformer=None, vae=None, dtype=self.dtype)

    @property
    def loaded(self) -> bool:
        return "pipeline" in self.__dict__

    def release(self) -> None:
        self.__dict__.pop("pipeline", None)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str], device: torch.device) -> Condition:
        self.pipeline.text_encoder.to(device).eval()
        told = [i for i, caption in enumerate(captions) if caption]
        silent = [i for i, caption in enumerate(captions) if not caption]
        parts = [
            self._encode([captions[i] for i in rows], device, instruction)
            for rows, instruction in ((told, self.instruction), (silent, None))
            if rows
        ]
        order = torch.tensor([*told, *silent], device=device).argsort()
        return Condition.cat(parts).rows(order)

    def _encode(self, captions: list[str], device: torch.device, instruction: list[str] | None) -> Condition:
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            captions,
            do_classifier_free_guidance=False,
            device=device,
            max_sequence_length=self.max_sequence_length,
            complex_human_instruction=instruction,
        )
        return Condition(embeds.float(), mask)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    weights: str = "pretrained",
    max_sequence_length: int = 300,
    instruction: bool = False,
    guidance_scale: float = 4.5,
    steps: int = 20,
) -> SanaHand:
    """A SanaPipeline folder or hub id. `instruction`: write the official "complex human instruction" before native prompts."""
    if train != "none":
        raise UserError(f"hand.train: {train!r} given; only none is offered now, the hand stays frozen")
    if weights not in ("pretrained", "random"):
        raise UserError(f"hand.weights: {weights!r} given; it is one of: pretrained, random")
    path, kind = locate(repo, revision), torch_dtype(dtype, "hand.dtype")
    try:
        index = diffusers.DiffusionPipeline.load_config(path, revision=revision)
        transformer = diffusers.SanaTransformer2DModel.from_pretrained(path, subfolder="transformer", revision=revision, dtype=kind)
        vae = diffusers.AutoencoderDC.from_pretrained(path, subfolder="vae", revision=revision, dtype=kind)
        scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(path, subfolder="scheduler", revision=revision)
    except UserError:
        raise
    except (OSError, ValueError, LookupError, AttributeError, SafetensorError) as error:
        raise hub_error(repo, revision, error) from error
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            transformer = diffusers.SanaTransformer2DModel.from_config(transformer.config).to(kind)
    native = None
    if index.get("text_encoder", [None])[0] is not None:
        native = Native(path, revision, kind, max_sequence_length, instruction)
    tensors = {f"{part}.{name}": x for part, m in (("transformer", transformer), ("vae", vae)) for name, x in m.state_dict().items()}
    identity = {"repo": repo, "revision": revision, "fingerprint": fingerprint(tensors)}
    return SanaHand(transformer, vae, scheduler, identity, native, guidance_scale, steps)


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
