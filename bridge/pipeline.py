"""The public call, in the words of diffusers pipelines: prepare, denoise, decode."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition, Example, Memory
from metabridge.bridge.model import Bridge
from metabridge.bridge.thinking import MODES

log = logging.getLogger(__name__)

Pictures = Image.Image | Sequence[Image.Image] | Sequence[Sequence[Image.Image]] | None
StepCallback = Callable[["BridgePipeline", int, Tensor, dict[str, Tensor]], Any]  # (pipeline, step, timestep, {"latents": ...})
OUTPUT_TYPES = ("pil", "pt", "latent")


@dataclass(frozen=True)
class PipelineOutput:
    """Row-major: image k of prompt i is at i * num_images_per_prompt + k."""

    images: list[Any]  # PIL images, or tensors [3, H, W] in [0, 1] (pt; NaN where drawing failed), or latents [C, h, w]
    thoughts: list[str | None]  # one a prompt
    seeds: list[int]  # one an image


@dataclass(frozen=True)
class Settings:
    """How to draw, with every default filled in."""

    height: int
    width: int
    steps: int
    output_type: str
    callback: StepCallback | None


class BridgePipeline:
    """Draws and answers with a bridge. Work is cut into chunks of `batch_size` by item index."""

    def __init__(self, bridge: Bridge, name: str = "bridge", batch_size: int = 16) -> None:
        self.bridge = bridge.eval()
        self.name = name
        self.batch_size = batch_size
        # the brain is frozen: what it read of a null prompt, on a device, stays true
        self._null_memories: dict[tuple[str, torch.device], Memory] = {}
        self._warned: set[str] = set()

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Pictures = None,
        negative_prompt: str | None = None,
        think: bool = False,
        think_mode: str = "always",
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        image_guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seeds: Sequence[int] | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        max_new_tokens: int = 64,
    ) -> PipelineOutput:
        examples = as_examples(prompt, image)
        if think_mode not in MODES:
            raise UserError(f"think_mode: {think_mode!r} given; it is one of: {', '.join(MODES)}")
        if image_guidance_scale != 1.0 and not all(example.images for example in examples):
            raise UserError(f"image_guidance_scale: {image_guidance_scale:g} given, but a prompt comes without a picture; leave it at 1")
        settings = self._settings(height, width, num_inference_steps, output_type, callback_on_step_end)
        generators, seeds = as_generators(generator, seeds, len(examples) * num_images_per_prompt)

        conditions, thoughts = self._prepare(examples, think_mode if think else None, max_new_tokens)
        scale = self.bridge.hand.default_guidance if guidance_scale is None else guidance_scale
        self._warn_untrained(examples, negative_prompt or "", scale, image_guidance_scale)
        nulls, guidance = self._nulls(examples, negative_prompt or "", scale, image_guidance_scale)
        images = self._draw(conditions, nulls, guidance, num_images_per_prompt, generators, settings)
        return PipelineOutput(images, thoughts, seeds)

    @torch.no_grad()
    def answer(self, question: str, image: Image.Image | Sequence[Image.Image] | None = None, max_new_tokens: int = 64) -> str:
        """The brain's own greedy answer: the bridge left its understanding as it was."""
        brain = self.bridge.brain
        texts, _ = brain.reply(brain.read(brain.collate(as_examples(question, image))), max_new_tokens)
        return texts[0]

    @torch.no_grad()
    def draw_native(
        self,
        captions: str | Sequence[str],
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seeds: Sequence[int] | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> PipelineOutput:
        """The hand under its own text encoder, through the same loop: the baseline to beat."""
        captions = [captions] if isinstance(captions, str) else list(captions)
        settings = self._settings(height, width, num_inference_steps, output_type, callback_on_step_end)
        generators, seeds = as_generators(generator, seeds, len(captions) * num_images_per_prompt)
        conditions = []
        for start in range(0, len(captions), self.batch_size):
            condition = self.bridge.hand.describe(captions[start : start + self.batch_size])
            if condition is None:
                raise UserError(f"{self.name}: the hand has no text encoder of its own, so there is no native drawing")
            conditions.append(condition)
        scale = self.bridge.hand.default_guidance if guidance_scale is None else guidance_scale
        null = self.bridge.hand.describe([""]) if scale != 1.0 else None
        nulls, guidance = ([], []) if null is None else ([null.expand(len(captions))], [scale])
        with self.bridge.hand.untouched():
            images = self._draw(Condition.cat(conditions), nulls, guidance, num_images_per_prompt, generators, settings)
        return PipelineOutput(images, [None] * len(captions), seeds)

    def _settings(
        self, height: int | None, width: int | None, steps: int | None, output_type: str, callback: StepCallback | None
    ) -> Settings:
        hand = self.bridge.hand
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type: {output_type!r} given; it is one of: {', '.join(OUTPUT_TYPES)}")
        steps = hand.default_steps if steps is None else steps
        if steps < 1:
            raise UserError(f"num_inference_steps: {steps} given; it is 1 at least")
        return Settings(height or hand.default_size[0], width or hand.default_size[1], steps, output_type, callback)

    def _prepare(self, examples: list[Example], think_mode: str | None, max_new_tokens: int) -> tuple[Condition, list[str | None]]:
        """Conditions, a row a prompt, and what was thought on the way."""
        conditions: list[Condition] = []
        thoughts: list[str | None] = []
        for start in range(0, len(examples), self.batch_size):
            chunk = examples[start : start + self.batch_size]
            condition, said = self._read(chunk, think_mode, max_new_tokens)
            conditions.append(condition)
            thoughts += said
        return Condition.cat(conditions), thoughts

    def _read(self, examples: list[Example], think_mode: str | None, max_new_tokens: int) -> tuple[Condition, list[str | None]]:
        bridge, brain = self.bridge, self.bridge.brain
        if think_mode is None:
            return bridge.condition(brain.collate(examples)), [None] * len(examples)
        thoughts, memory = brain.reply(brain.read(brain.collate(examples, think=True)), max_new_tokens)
        if think_mode == "rewrite":
            # a fresh read; where nothing was said the prompt stands
            rewritten = [Example(said or e.prompt, e.images) for e, said in zip(examples, thoughts, strict=True)]
            return bridge.condition(brain.collate(rewritten)), list(thoughts)
        return bridge.condition_from(memory), list(thoughts)

    def _nulls(
        self, examples: list[Example], negative_prompt: str, scale: float, image_scale: float
    ) -> tuple[list[Condition], list[float]]:
        """Null conditions, weakest first, each with the scale of the step above it."""
        if scale == 1.0 and image_scale == 1.0:
            return [], []
        # v = v_00 + s_I (v_0I - v_00) + s_T (v_TI - v_0I): with s_I = 1 the first row cancels, without pictures the first two are one
        textless = [Example(negative_prompt, example.images) for example in examples]
        blind = self._null(negative_prompt).expand(len(examples))
        if not any(example.images for example in examples):
            return [blind], [scale]
        pictured, _ = self._prepare(textless, None, 0)
        return ([pictured], [scale]) if image_scale == 1.0 else ([blind, pictured], [image_scale, scale])

    def _warn_untrained(self, examples: list[Example], negative_prompt: str, scale: float, image_scale: float) -> None:
        """Guidance steps away from null rows; one that training never showed says nothing of use."""
        rates, pictured = self.bridge.objective, any(example.images for example in examples)
        textless = rates.drop_text if pictured else rates.drop_text + rates.drop_both  # without pictures the two are one row
        untrained = []
        if scale != 1.0 and not negative_prompt and not textless:
            untrained.append(
                f"guidance_scale {scale:g}: this bridge was trained with objective.drop_text=0, it has not seen an empty prompt"
            )
        if image_scale != 1.0 and not rates.drop_both:
            untrained.append(
                f"image_guidance_scale {image_scale:g}: this bridge was trained with objective.drop_both=0, "
                "it has not seen an edit without prompt and picture"
            )
        for line in untrained:
            if line not in self._warned:
                log.warning("%s; the drawing may come out worse than at scale 1", line)
                self._warned.add(line)

    def _null(self, negative_prompt: str) -> Condition:
        brain, key = self.bridge.brain, (negative_prompt, self.bridge.device)
        if key not in self._null_memories:
            self._null_memories[key] = brain.read(brain.collate([Example(negative_prompt)]), depth=self.bridge.depth)
        return self.bridge.condition_from(self._null_memories[key])

    def _draw(
        self,
        condition: Condition,
        nulls: list[Condition],
        guidance: list[float],
        num_images_per_prompt: int,
        generators: list[torch.Generator],
        settings: Settings,
    ) -> list[Any]:
        hand = self.bridge.hand
        shape = hand.latent_shape(settings.height, settings.width)

        def report(step: int, timestep: Tensor, latents: Tensor) -> None:
            if settings.callback is not None:
                settings.callback(self, step, timestep, {"latents": latents})

        images: list[Any] = []
        for start in range(0, len(generators), self.batch_size):
            rows = torch.arange(start, min(start + self.batch_size, len(generators)), device=condition.embeds.device)
            own = rows // num_images_per_prompt  # image -> its prompt
            chunk, null_chunk = condition.rows(own), [null.rows(own) for null in nulls]
            latents = hand.draw(chunk, null_chunk, shape, settings.steps, guidance, generators[start : start + self.batch_size], report)
            if settings.output_type == "latent":
                images += list(latents)
                continue
            pixels = hand.decode(latents)
            failed = ~(_finite(latents) & _finite(pixels))
            if settings.output_type == "pil" and bool(failed.any()):
                raise UserError(f"{self.name}: drawing gave NaN or infinity; a lower guidance_scale or dtype: float32 may help")
            # one failed picture is the caller's to count: the others are as good as ever
            images += _finish(pixels.masked_fill(failed[:, None, None, None], torch.nan), settings.output_type)
        return images


def as_examples(prompt: str | Sequence[str], image: Pictures) -> list[Example]:
    """Prompts with their pictures; for one prompt `image` is a picture or several, for a list of prompts one entry each."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(p.strip() for p in prompts):
        raise UserError("prompt: empty; say what to draw")
    if image is None:
        pictures: list[Any] = [()] * len(prompts)
    else:
        pictures = [image] if isinstance(prompt, str) else list(image)  # type: ignore[arg-type]
    if len(pictures) != len(prompts):
        raise UserError(f"image: {len(pictures)} entries for {len(prompts)} prompts; give one for each prompt")
    each = [(p,) if isinstance(p, Image.Image) else tuple(p or ()) for p in pictures]
    return [Example(p, own) for p, own in zip(prompts, each, strict=True)]


def as_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, seeds: Sequence[int] | None, count: int
) -> tuple[list[torch.Generator], list[int]]:
    """One CPU generator an image, from seeds, from generators, or from one generator that gives the seeds."""
    if generator is not None and seeds is not None:
        raise UserError("generator and seeds: both given; give one of them")
    if generator is not None and not isinstance(generator, torch.Generator):
        generators = list(generator)
        if len(generators) != count:
            raise UserError(f"generator: {len(generators)} given for {count} images; give one for each image, or a single one")
        if any(g.device.type != "cpu" for g in generators):
            raise UserError(
                "generator: on a GPU; noise is drawn on the CPU so that it does not depend on the device, use torch.Generator()"
            )
        return generators, [g.initial_seed() for g in generators]
    if seeds is None:
        seeds = torch.randint(2**48, (count,), generator=generator).tolist()
    if len(seeds) != count:
        raise UserError(f"seeds: {len(seeds)} given for {count} images; give one for each image")
    return [torch.Generator().manual_seed(seed) for seed in seeds], list(seeds)


def _finite(x: Tensor) -> Tensor:
    """[B, ...] -> [B], whether a row is finite throughout."""
    return x.isfinite().flatten(1).all(dim=1)


def _finish(pixels: Tensor, output_type: str) -> list[Any]:
    """[B, 3, H, W] in about [-1, 1] -> pt or pil."""
    pixels = (pixels.float() / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return list(pixels)
    array = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in array]
