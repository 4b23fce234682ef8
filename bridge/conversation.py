"""Turns of text and pictures in and out: what was drawn is looked at again, and what was read is not read again.

A turn is read on top of the Memory of the turns before it, where that equals reading all afresh (`Collate.onward`, `Brain.extends`); else,
and after `resume`, all is read once more. Where history, prompt, thought and queries do not fit into the brain's context, the oldest turns
are forgotten, one by one, and what is left is read afresh.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from metabridge.bridge.asked import SEEDS, Pictures, as_examples
from metabridge.bridge.drawing import settings_of
from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.interfaces import Example, Inputs, Memory
from metabridge.bridge.interfaces import Turn as Message
from metabridge.bridge.pipeline import THOUGHT, BridgePipeline, StepCallback, enough_memory

log = logging.getLogger(__name__)


SETTINGS = ("guidance_scale", "image_guidance_scale", "num_inference_steps", "height", "width", "negative_prompt", "preserve", "references")


@dataclass(frozen=True)
class Turn:
    """What a user asked, and what came of it."""

    prompt: str
    images: tuple[Image.Image, ...] = ()  # that came with the prompt
    think: bool = False  # whether `said` is a thought
    said: str | None = None  # the thought, or the answer
    drawn: Image.Image | None = None  # None = a question, which was answered
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # of drawing
    forgotten: int = 0  # earlier turns that did not fit into the brain's context any more

    def messages(self) -> tuple[Message, Message]:
        drawn = () if self.drawn is None else (self.drawn,)
        return Message("user", self.prompt, self.images, self.think), Message("assistant", self.said or "", drawn)


@dataclass(frozen=True)
class Read:
    """A turn as the brain read it, with all before it: its prompt, and its thought or answer."""

    example: Example
    memory: Memory
    forgotten: int


class Conversation:
    def __init__(self, pipeline: BridgePipeline, think: bool = True, max_new_tokens: int = THOUGHT, **settings: Any) -> None:
        """`think`: write a thought before each drawing; `settings`: of drawing, for every turn (one of SETTINGS)."""
        self.pipeline, self.think, self.max_new_tokens, self.settings = pipeline, think, max_new_tokens, known(settings)
        self.turns: list[Turn] = []
        self.tokens_read = 0  # by the brain, of prompts and pictures, not of its own words; also for what failed or was taken back
        self._reads: list[Read | None] = []  # one a turn; None = not read by this object

    @torch.no_grad()
    def draw(
        self,
        prompt: str,
        image: Pictures = None,
        seed: int | None = None,
        think: bool | None = None,
        thought: str | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_thought: Callable[[str], Any] | None = None,
        **settings: Any,
    ) -> Turn:
        """The next picture. `think`, `settings`: in the place of the conversation's; `thought`: one that is given, so that none is written.

        `callback_on_thought` hears the thought, if there is one, before drawing begins.
        Nothing changes if it fails or is interrupted.
        """
        (asked,) = as_examples(prompt, image, thought)
        think = (self.think if think is None else think) or thought is not None
        settings = {**self.settings, **known(settings)}
        with enough_memory():
            read = self._read(asked, self.turns, think, self._forgotten, write=think and thought is None)
            if callback_on_thought is not None and read.example.thought is not None:
                callback_on_thought(read.example.thought)
            seed, drawn = self._draw(read, seed, settings, callback_on_step_end)
        turn = Turn(prompt, asked.images, think, read.example.thought, drawn, seed, settings, read.forgotten)
        self.turns.append(turn)
        self._reads.append(read)
        return turn

    @torch.no_grad()
    def ask(self, question: str, image: Pictures = None) -> Turn:
        """The brain's own answer in words, after all that was said and drawn before."""
        (asked,) = as_examples(question, image)
        with enough_memory():
            read = self._read(asked, self.turns, False, self._forgotten, write=True)
        turn = Turn(question, asked.images, said=read.example.thought, forgotten=read.forgotten)
        self.turns.append(turn)
        self._reads.append(read)
        return turn

    @torch.no_grad()
    def again(self, seed: int | None = None, callback_on_step_end: StepCallback | None = None, **settings: Any) -> Turn:
        """The last picture once more, from another seed or with other settings, in its place. Nothing is read for it."""
        if not self.turns or self.turns[-1].drawn is None:
            raise UserError("again: nothing was drawn in the last turn; draw something first")
        last, settings = self.turns[-1], {**self.turns[-1].settings, **known(settings)}
        with enough_memory():
            asked = Example(last.prompt, last.images, thought=last.said if last.think else None)
            read = self._reads[-1] or self._read(asked, self.turns[:-1], last.think, last.forgotten, write=False)
            seed, drawn = self._draw(read, seed, settings, callback_on_step_end)
        self.turns[-1] = dataclasses.replace(last, drawn=drawn, seed=seed, settings=settings)
        self._reads[-1] = read
        return self.turns[-1]

    def undo(self) -> Turn:
        """Take the last turn back, as if it had never been."""
        if not self.turns:
            raise UserError("undo: nothing has been said yet")
        self._reads.pop()
        return self.turns.pop()

    def branch(self) -> Conversation:
        """Another conversation that begins with all that was said in this one; neither changes the other."""
        twin = copy.copy(self)
        twin.turns, twin._reads, twin.settings = list(self.turns), list(self._reads), dict(self.settings)
        return twin

    def resume(self, turns: Sequence[Turn]) -> None:
        """Go on after turns of another time; they are read when the next one comes."""
        self.turns, self._reads = list(turns), [None] * len(turns)

    @property
    def _forgotten(self) -> int:
        return self.turns[-1].forgotten if self.turns else 0

    def _read(self, asked: Example, turns: Sequence[Turn], think: bool, forgotten: int, write: bool) -> Read:
        """`asked` after `turns`, so many of which are `forgotten` already, and what the brain writes then."""
        brain = self.pipeline.bridge.brain
        with self.pipeline.awake(brain):
            example, inputs, onto, forgotten = self._fitting(asked, turns, think, forgotten, self.max_new_tokens if write else 0)
            memory = brain.read(inputs, onto)
            self.tokens_read += int(inputs["attention_mask"].sum())
            if not write:
                return Read(example, memory, forgotten)
            (said,), _ = brain.reply(memory, self.max_new_tokens)
            # the tokens that it chose may be others than those of its words (a space at the start, a letter cut): what is seen and saved
            # is what is read
            after = brain.read(brain.collate.words(said), memory) if said else memory
        return Read(dataclasses.replace(example, thought=said), after, forgotten)

    def _fitting(
        self, asked: Example, turns: Sequence[Turn], think: bool, forgotten: int, budget: int
    ) -> tuple[Example, Inputs, Memory | None, int]:
        """The example with as much of the history as fits, what of it is still to be read, onto what, and how many turns are forgotten."""
        bridge = self.pipeline.bridge
        while True:
            example = dataclasses.replace(asked, history=tuple(m for turn in turns[forgotten:] for m in turn.messages()))
            inputs, onto = self._beyond(example, self._reads[len(turns) - 1] if turns else None, think, forgotten)
            length = inputs["input_ids"].shape[1] + (0 if onto is None else onto.mask.shape[1]) + len(bridge.queries) + budget
            if length <= bridge.brain.max_tokens or forgotten == len(turns):  # the brain itself refuses what is too long alone
                return example, inputs, onto, forgotten
            forgotten += 1
            log.warning(
                "the conversation has %d tokens, the brain reads %d: turn %d is forgotten", length, bridge.brain.max_tokens, forgotten
            )

    def _beyond(self, example: Example, read: Read | None, think: bool, forgotten: int) -> tuple[Inputs, Memory | None]:
        """What is to be read of an example, and the Memory that has the rest; all of it where that cannot be extended."""
        brain = self.pipeline.bridge.brain
        if read is not None and read.forgotten == forgotten:
            inputs = brain.collate.onward(read.example, example, think=think)
            if inputs is not None and brain.extends(inputs):
                return inputs, read.memory
            log.info("this brain reads the conversation afresh: its template, or its pictures, cannot be read on")
        return brain.collate([example], think=think), None

    def _draw(self, read: Read, seed: int | None, settings: dict[str, Any], callback: StepCallback | None) -> tuple[int, Image.Image]:
        pipeline = self.pipeline
        seed = int(torch.randint(SEEDS, ()).item()) if seed is None else seed
        given = settings_of(pipeline.bridge.hand, [read.example], **settings, callback=pipeline.reporting(callback))
        with pipeline.awake(pipeline.bridge.brain):
            condition = pipeline.bridge.condition_from(read.memory)
        (image,) = pipeline.draw(condition, [read.example], 1, [torch.Generator().manual_seed(seed)], given)
        return seed, image


def known(settings: dict[str, Any]) -> dict[str, Any]:
    for name in settings:
        if name not in SETTINGS:
            raise UserError(unknown(name, SETTINGS, "setting of a drawing"))
    return settings
