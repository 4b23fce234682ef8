"""Turns of text and pictures in and out: what was drawn is looked at again, and what was read is not read again.

A turn is read on top of the Memory of the turns before it, where that equals reading all afresh (`Collate.onward`, `Brain.extends`); else,
and after `resume`, all is read once more. Where history, prompt, thought and queries do not fit into the brain's context, the oldest turns
are forgotten, for brain and hand, until a quarter of it is free, and what is left is read afresh: so not in every turn from then on.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from metabridge.bridge.asked import SEEDS, Pictures, as_examples
from metabridge.bridge.drawing import PICTURED, settings_of
from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.examples import pictures, without_text
from metabridge.bridge.interfaces import Example, Inputs, Memory, warn_of_cut
from metabridge.bridge.interfaces import Turn as Message
from metabridge.bridge.pipeline import BridgePipeline, StepCallback, enough_memory
from metabridge.bridge.thinking import THOUGHT

log = logging.getLogger(__name__)


SPARE = 0.25  # of the context, that is free after turns were forgotten
KEPT = 3  # turns whose Memory is held, each with all before it: what is taken back beyond them is read again
OF_PICTURES = ("image_guidance_scale", "preserve")  # settings that say nothing of a turn without any

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

    def asked(self, before: Sequence[Turn]) -> Example:
        """What the brain was given, after those of the turns before it that were not forgotten."""
        return after(before[self.forgotten :], Example(self.prompt, self.images, thought=self.said if self.think else None))

    def messages(self) -> tuple[Message, Message]:
        drawn = () if self.drawn is None else (self.drawn,)
        return Message("user", self.prompt, self.images, self.think), Message("assistant", self.said or "", drawn)


@dataclass(frozen=True)
class Read:
    """A turn as the brain read it, with all before it: its prompt, and its thought or answer."""

    example: Example
    memory: Memory
    forgotten: int
    textless: Memory | None = None  # the same without the words of the last turn: the null row of guidance; None = not read


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
        example = after(self.turns[self._forgotten :], asked)
        settings = {**self.standing(example), **known(settings)}
        settings_of(self.pipeline.bridge.hand, [example], **settings)  # says what is wrong before anything is read
        if think:
            self.pipeline.warn_untaught()
        with enough_memory():
            read = self._read(asked, self.turns, think, self._forgotten, think and thought is None, settings)
            if callback_on_thought is not None and read.example.thought is not None:
                callback_on_thought(read.example.thought)
            seed, drawn = self._draw(read, seed, settings, callback_on_step_end)
        self._keep(Turn(prompt, asked.images, think, read.example.thought, drawn, seed, settings, read.forgotten), read)
        return self.turns[-1]

    @torch.no_grad()
    def ask(self, question: str, image: Pictures = None) -> Turn:
        """The brain's own answer in words, after all that was said and drawn before."""
        (asked,) = as_examples(question, image)
        with enough_memory():
            read = self._read(asked, self.turns, False, self._forgotten, write=True)
        self._keep(Turn(question, asked.images, said=read.example.thought, forgotten=read.forgotten), read)
        return self.turns[-1]

    @torch.no_grad()
    def again(self, seed: int | None = None, callback_on_step_end: StepCallback | None = None, **settings: Any) -> Turn:
        """The last picture once more, from another seed or with other settings, in its place. Nothing is read for it."""
        if not self.turns or self.turns[-1].drawn is None:
            raise UserError("again: nothing was drawn in the last turn; draw something first")
        last, settings = self.turns[-1], {**self.turns[-1].settings, **known(settings)}
        with enough_memory():
            asked = last.asked(self.turns[:-1])
            read = self._reads[-1] or self._read(asked, self.turns[:-1], last.think, last.forgotten, False, settings)
            if settings.get("negative_prompt") != last.settings.get("negative_prompt"):
                read = dataclasses.replace(read, textless=None)
            seed, drawn = self._draw(read, seed, settings, callback_on_step_end)
        self.turns[-1] = dataclasses.replace(last, drawn=drawn, seed=seed, settings=settings)
        self._reads[-1] = read
        return self.turns[-1]

    def standing(self, example: Example) -> dict[str, Any]:
        """The settings of every turn, without those that say nothing of an example that has no pictures."""
        return {name: value for name, value in self.settings.items() if name not in OF_PICTURES or pictures(example)}

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

    def _keep(self, turn: Turn, read: Read) -> None:
        if self._reads and (last := self._reads[-1]):
            self._reads[-1] = dataclasses.replace(last, textless=None)  # of use to `again` alone
        self.turns.append(turn)
        self._reads.append(read)
        self._reads[:-KEPT] = [None] * len(self._reads[:-KEPT])

    @property
    def _forgotten(self) -> int:
        return self.turns[-1].forgotten if self.turns else 0

    def _read(
        self,
        asked: Example,
        turns: Sequence[Turn],
        think: bool,
        forgotten: int,
        write: bool,
        settings: Mapping[str, Any] | None = None,
    ) -> Read:
        """`asked` after `turns`, so many of which are `forgotten` already, and what the brain writes then.

        `settings`: how it is to be drawn, if it is.
        """
        brain = self.pipeline.bridge.brain
        with self.pipeline.awake(brain):
            example, inputs, before, forgotten = self._fitting(asked, turns, think, forgotten, self.max_new_tokens if write else 0)
            if settings is not None and pictures(example) and self._guided(settings):
                memory, textless = self._with_null(example, inputs, before, settings.get("negative_prompt") or "")
            else:
                memory, textless = self._onto(inputs, None if before is None else before.memory), None
            if not write:
                return Read(example, memory, forgotten, textless)
            (tokens,), grown = brain.say(memory, self.max_new_tokens)
            warn_of_cut([tokens], self.max_new_tokens)
            said = brain.collate.text(tokens)
            words = brain.collate.words(said)
            if words["input_ids"][0].tolist() != tokens:
                # they are not those of its words, as with a space at the start or a letter cut: what is seen and saved is what is read
                grown = brain.read(words, memory) if said else memory
        return Read(dataclasses.replace(example, thought=said), grown, forgotten, textless)

    def _guided(self, settings: Mapping[str, Any]) -> bool:
        """Whether a drawing steps away from its pictures without the words."""
        given = settings_of(self.pipeline.bridge.hand, [PICTURED], **settings)
        return given.guidance != 1.0 or given.image_guidance != 1.0 or given.preserve > 0

    def _with_null(self, example: Example, inputs: Inputs, before: Read | None, negative_prompt: str) -> tuple[Memory, Memory | None]:
        """An example, and its null row without the words: the history and the pictures are read once for both."""
        brain, null = self.pipeline.bridge.brain, dataclasses.replace(without_text(example), prompt=negative_prompt)
        onto = None if before is None else before.memory
        other = brain.collate([null]) if before is None else brain.collate.onward(before.example, null)
        parts = None if other is None else brain.collate.parted(inputs, other)
        if parts is None:
            return self._onto(inputs, onto), None
        alike, words, silence = parts
        both = self._onto(alike, onto)
        return self._onto(words, both), self._onto(silence, both)

    def _onto(self, inputs: Inputs, memory: Memory | None) -> Memory:
        self.tokens_read += int(inputs["attention_mask"].sum())
        return self.pipeline.bridge.brain.read(inputs, memory)

    def _fitting(
        self, asked: Example, turns: Sequence[Turn], think: bool, forgotten: int, budget: int
    ) -> tuple[Example, Inputs, Read | None, int]:
        """The example with as much of the history as fits, what of it is still to be read, after what, and how many turns are forgotten."""
        bridge = self.pipeline.bridge
        most = bridge.brain.max_tokens
        while True:
            example = after(turns[forgotten:], asked)
            inputs, before = self._beyond(example, self._reads[len(turns) - 1] if turns else None, think, forgotten)
            length = inputs["input_ids"].shape[1] + (0 if before is None else before.memory.mask.shape[1]) + len(bridge.queries) + budget
            if length <= most or forgotten == len(turns):  # the brain itself refuses what is too long alone
                return example, inputs, before, forgotten
            most = int((1 - SPARE) * bridge.brain.max_tokens)
            forgotten += 1
            log.warning(
                "the conversation has %d tokens, the brain reads %d: turn %d is forgotten", length, bridge.brain.max_tokens, forgotten
            )

    def _beyond(self, example: Example, read: Read | None, think: bool, forgotten: int) -> tuple[Inputs, Read | None]:
        """What is to be read of an example, and the turn that it goes on from; all of it where that cannot be read on."""
        brain = self.pipeline.bridge.brain
        if read is not None and read.forgotten == forgotten:
            inputs = brain.collate.onward(read.example, example, think=think)
            if inputs is not None and brain.extends(inputs):
                return inputs, read
            log.info("this brain reads the conversation afresh: its template, or its pictures, cannot be read on")
        return brain.collate([example], think=think), None

    def _draw(self, read: Read, seed: int | None, settings: dict[str, Any], callback: StepCallback | None) -> tuple[int, Image.Image]:
        pipeline = self.pipeline
        seed = int(torch.randint(SEEDS, ()).item()) if seed is None else seed
        given = settings_of(pipeline.bridge.hand, [read.example], **settings, callback=pipeline.reporting(callback))
        with pipeline.awake(pipeline.bridge.brain):
            condition = pipeline.bridge.condition_from(read.memory)
            textless = None if read.textless is None else pipeline.bridge.condition_from(read.textless)
        (image,) = pipeline.draw(condition, [read.example], 1, [torch.Generator().manual_seed(seed)], given, textless)
        return seed, image


def after(turns: Sequence[Turn], asked: Example) -> Example:
    return dataclasses.replace(asked, history=tuple(message for turn in turns for message in turn.messages()))


def known(settings: dict[str, Any]) -> dict[str, Any]:
    for name in settings:
        if name not in SETTINGS:
            raise UserError(unknown(name, SETTINGS, "setting of a drawing"))
    return settings
