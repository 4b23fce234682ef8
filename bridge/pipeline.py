"""The public call, in the words of diffusers pipelines: prepare, denoise, decode."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from metabridge.bridge.asked import Pictures, Thoughts, as_examples, as_generators
from metabridge.bridge.drawing import Drawing, Settings, settings_of
from metabridge.bridge.errors import UserError
from metabridge.bridge.identity import identity_of
from metabridge.bridge.interfaces import Condition, Example
from metabridge.bridge.model import Bridge
from metabridge.bridge.nulls import Null, Nulls
from metabridge.bridge.thinking import DECIDE_TEMPLATE, MODES, THOUGHT

log = logging.getLogger(__name__)

StepCallback = Callable[["BridgePipeline", int, Tensor, dict[str, Tensor]], Any]  # (pipeline, step, timestep, {"latents": ...})
DECISION = 4  # tokens, at most, of a brain's yes or no


@dataclass(frozen=True)
class PipelineOutput:
    """Row-major: image k of prompt i is at i * num_images_per_prompt + k."""

    images: list[Any]  # PIL images, or tensors [3, H, W] in [0, 1] (pt; NaN where drawing failed), or latents [C, h, w]
    thoughts: list[str | None]  # one a prompt
    seeds: list[int]  # one an image


class BridgePipeline:
    """Draws and answers with a bridge. Work is cut into chunks of `batch_size` by item index.

    `offload`: brain and hand wait on the CPU and are on the bridge's device only while they work, for a GPU that holds one of them.
    """

    def __init__(self, bridge: Bridge, name: str = "bridge", batch_size: int = 16, offload: bool = False) -> None:
        self.bridge = bridge.eval()
        self.name, self.batch_size, self.offload = name, batch_size, offload
        self.nulls = Nulls(bridge)
        self._warned = False
        if offload:
            bridge.brain.to("cpu")
            bridge.hand.to("cpu")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Of the bridge, whose weights stay as they are while it draws."""
        return identity_of(self.bridge)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        image: Pictures = None,
        negative_prompt: str | None = None,
        think: bool = False,
        think_mode: str = "always",
        thought: Thoughts = None,
        num_images_per_prompt: int = 1,
        guidance_scale: float | None = None,
        image_guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        height: int | None = None,
        width: int | None = None,
        preserve: float = 0.0,
        references: bool = True,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seeds: Sequence[int] | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        max_new_tokens: int = THOUGHT,
    ) -> PipelineOutput:
        """Draw `num_images_per_prompt` images of each prompt; with `image`, prompts that edit or combine pictures.

        `think`: the brain first writes what should be drawn, in at most `max_new_tokens` tokens. `think_mode`: always; auto = where the
        brain says that it is needed; rewrite = the thought is read in the place of the prompt. `thought`: one that is given.
        `preserve`, 0 to 1: how much of the (last) picture stays as it is where the words change little; 1 = all of it.
        `references`: False keeps the pictures from the hand; it has the brain's word for them alone.
        `callback_on_step_end(pipeline, step, timestep, {"latents": ...})` hears of each step; what it returns is not used.
        """
        examples = as_examples(prompt, image, thought)
        check_mode(think_mode)
        if think_mode != "always" and not think:
            raise UserError(f"think_mode: {think_mode!r} has no effect without think=True; add that, or leave it out")
        settings = settings_of(
            self.bridge.hand,
            examples,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
            num_inference_steps=num_inference_steps,
            height=height,
            width=width,
            negative_prompt=negative_prompt,
            preserve=preserve,
            references=references,
            output_type=output_type,
            callback=self.reporting(callback_on_step_end),
        )
        generators, seeds = as_generators(generator, seeds, len(examples) * num_images_per_prompt)
        with enough_memory():
            condition, thoughts = self._prepare(examples, think_mode if think else None, max_new_tokens)
            images = self.draw(condition, examples, num_images_per_prompt, generators, settings)
        return PipelineOutput(images, thoughts, seeds)

    @torch.no_grad()
    def answer(self, question: str, image: Pictures = None, max_new_tokens: int = THOUGHT) -> str:
        """The brain's own greedy answer: the bridge left its understanding as it was."""
        brain = self.bridge.brain
        with enough_memory(), self.awake(brain):
            texts, _ = brain.reply(brain.read(brain.collate(as_examples(question, image))), max_new_tokens)
        return texts[0]

    @torch.no_grad()
    def think(
        self, prompt: str | Sequence[str], image: Pictures = None, think_mode: str = "always", max_new_tokens: int = THOUGHT
    ) -> list[str | None]:
        """What the brain would think of each prompt; None where `auto` finds that it needs no thought. Nothing is drawn."""
        check_mode(think_mode)
        with enough_memory():
            return self._prepare(as_examples(prompt, image), think_mode, max_new_tokens)[1]

    @torch.no_grad()
    def draw_native(
        self,
        captions: str | Sequence[str],
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seeds: Sequence[int] | None = None,
        callback_on_step_end: StepCallback | None = None,
        **settings: Any,
    ) -> PipelineOutput:
        """The hand under its own text encoder, through the same loop: the baseline to beat. `settings`: of drawing, as in the call."""
        captions = [captions] if isinstance(captions, str) else list(captions)
        examples, hand = [Example(caption) for caption in captions], self.bridge.hand
        given = settings_of(hand, examples, **settings, callback=self.reporting(callback_on_step_end))
        generators, seeds = as_generators(generator, seeds, len(captions) * num_images_per_prompt)
        with enough_memory(), self.awake(hand):
            conditions = []
            for start in range(0, len(captions), self.batch_size):
                condition = hand.describe(captions[start : start + self.batch_size])
                if condition is None:
                    raise UserError(f"{self.name}: the hand has no text encoder of its own, so there is no native drawing")
                conditions.append(condition)
            null = hand.describe([given.negative_prompt]) if given.guidance != 1.0 else None
            nulls = [] if null is None else [Null(null.expand(len(captions)), given.guidance, False)]
            drawing = Drawing(hand, examples, Condition.cat(conditions), nulls, given, name=self.name)
            with hand.untouched():
                images = drawing.images(num_images_per_prompt, generators, self.batch_size)
        return PipelineOutput(images, [None] * len(captions), seeds)

    @torch.no_grad()
    def draw_examples(
        self, examples: Sequence[Example], seeds: Sequence[int], callback_on_step_end: StepCallback | None = None, **settings: Any
    ) -> list[Any]:
        """An image of each example, whatever its task, as it stands: with the thought that it has, or none."""
        given = settings_of(self.bridge.hand, examples, **settings, callback=self.reporting(callback_on_step_end))
        generators, _ = as_generators(None, seeds, len(examples))
        with enough_memory():
            condition, _ = self._prepare(list(examples), None, 0)
            return self.draw(condition, examples, 1, generators, given)

    def draw(
        self,
        condition: Condition,
        examples: Sequence[Example],
        each: int,
        generators: Sequence[torch.Generator],
        settings: Settings,
        textless: Condition | None = None,
    ) -> list[Any]:
        """`each` images a row of `condition`, which is what the brain read of the examples; `textless`: of these without their words."""

        def read(silent: list[Example]) -> Condition:
            return self._prepare(silent, None, 0)[0] if textless is None else textless

        with self.awake(self.bridge.brain):
            nulls = self.nulls.of(examples, settings.negative_prompt, settings.guidance, settings.image_guidance, read)
            untold = None
            if settings.preserve:
                untold = nulls[-1].condition if nulls else self.nulls.pictured(examples, settings.negative_prompt, read)
        drawing = Drawing(self.bridge.hand, examples, condition, nulls, settings, untold, self.name)
        with self.awake(self.bridge.hand):
            return drawing.images(each, generators, self.batch_size)

    def warn_untaught(self) -> None:
        """Once: queries that training never read after a thought say nothing of use there."""
        if not self.bridge.thinks and not self._warned:
            log.warning("think: this bridge was trained with objective.think=0, not to draw what was thought; drawings may come out worse")
            self._warned = True

    def reporting(self, callback: StepCallback | None) -> Callable[[int, Tensor, Tensor], Any] | None:
        return None if callback is None else lambda step, timestep, latents: callback(self, step, timestep, {"latents": latents})

    @contextmanager
    def awake(self, part: nn.Module) -> Iterator[None]:
        """Under `offload`, on the bridge's device for as long as it works."""
        if not self.offload or next(part.parameters()).device == self.bridge.device:
            yield
            return
        try:
            part.to(self.bridge.device)  # one that stops half-way is undone, too
            yield
        finally:
            part.to("cpu")

    def _prepare(self, examples: list[Example], think_mode: str | None, max_new_tokens: int) -> tuple[Condition, list[str | None]]:
        """Conditions, a row a prompt, and what was thought on the way."""
        conditions: list[Condition] = []
        thoughts: list[str | None] = []
        with self.awake(self.bridge.brain):
            for start in range(0, len(examples), self.batch_size):
                condition, said = self._read(examples[start : start + self.batch_size], think_mode, max_new_tokens)
                conditions.append(condition)
                thoughts += said
        return Condition.cat(conditions), thoughts

    def _read(self, examples: list[Example], think_mode: str | None, max_new_tokens: int) -> tuple[Condition, list[str | None]]:
        """A chunk: rows that think, and rows that do not, or whose thought is given."""
        thinking = [] if think_mode is None else [i for i, example in enumerate(examples) if example.thought is None]
        if think_mode == "auto":
            thinking = self._worth_a_thought(examples, thinking)
        plain = [i for i in range(len(examples)) if i not in thinking]
        thoughts = [example.thought for example in examples]
        if think_mode != "rewrite" and (thinking or any(thoughts)):
            self.warn_untaught()
        parts = []
        if plain:
            read = [rewritten(examples[i]) if think_mode == "rewrite" else examples[i] for i in plain]
            parts.append(self.bridge.condition(self.bridge.brain.collate(read)))
        if thinking:
            condition, said = self._think([examples[i] for i in thinking], think_mode == "rewrite", max_new_tokens)
            parts.append(condition)
            for i, text in zip(thinking, said, strict=True):
                thoughts[i] = text
        order = torch.tensor([*plain, *thinking]).argsort()
        return Condition.cat(parts).rows(order.to(self.bridge.device)), thoughts

    def _think(self, examples: list[Example], rewrite: bool, max_new_tokens: int) -> tuple[Condition, list[str]]:
        bridge, brain = self.bridge, self.bridge.brain
        thoughts, memory = brain.reply(brain.read(brain.collate(examples, think=True)), max_new_tokens)
        if not rewrite:
            return bridge.condition_from(memory), thoughts  # nothing is read twice
        told = [rewritten(dataclasses.replace(e, thought=said)) for e, said in zip(examples, thoughts, strict=True)]
        return bridge.condition(brain.collate(told)), thoughts

    def _worth_a_thought(self, examples: Sequence[Example], rows: Sequence[int]) -> list[int]:
        """Those of `rows` of which the brain does not say that no thought is needed."""
        brain = self.bridge.brain
        if not rows:
            return []
        asked = [dataclasses.replace(examples[i], prompt=DECIDE_TEMPLATE.replace("{prompt}", examples[i].prompt)) for i in rows]
        said, _ = brain.say(brain.read(brain.collate(asked)), DECISION)  # no reply: nothing is wanted beyond its first word
        return [i for i, tokens in zip(rows, said, strict=True) if not brain.collate.text(tokens).strip().lower().startswith("no")]


def rewritten(example: Example) -> Example:
    """Its thought in the place of its prompt, which stands where nothing was said."""
    return dataclasses.replace(example, prompt=example.thought or example.prompt, thought=None)


def check_mode(think_mode: str) -> None:
    if think_mode not in MODES:
        raise UserError(f"think_mode: {think_mode!r} given; it is one of: {', '.join(MODES)}")


@contextmanager
def enough_memory() -> Iterator[None]:
    """An allocation that fails, on a GPU or not, is one line that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        said = str(error)
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in said:
            raise
        first = said.splitlines()[0] if said else "out of memory"
        raise UserError(
            f"out of memory ({first[:120]}); draw fewer images at once (batch_size), smaller ones (height, width), "
            "or load with offload or a quantized brain"
        ) from error
