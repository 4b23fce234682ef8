"""The null rows that guidance steps away from, as a pipeline's calls need them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from metabridge.bridge.examples import pictures, without_text
from metabridge.bridge.interfaces import Condition, Example, Memory
from metabridge.bridge.model import Bridge

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Null:
    """One null row of every prompt."""

    condition: Condition
    scale: float  # of the step from it to the next stronger row
    pictured: bool  # whether it looks at the pictures, and the hand with it


class Nulls:
    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        # the brain is frozen: what it read of a null prompt, on a device, stays true
        self.memories: dict[tuple[str, torch.device], Memory] = {}
        self._warned: set[str] = set()

    def of(
        self,
        examples: Sequence[Example],
        negative_prompt: str,
        scale: float,
        image_scale: float,
        read: Callable[[list[Example]], Condition],
    ) -> list[Null]:
        """Weakest first. `read` reads a list of examples in chunks."""
        self._warn_untrained(examples, negative_prompt, scale, image_scale)
        if scale == 1.0 and image_scale == 1.0:
            return []
        # v = v_00 + s_I (v_0I - v_00) + s_T (v_TI - v_0I): with s_I = 1 the first row cancels, without pictures the first two are one
        if not any(pictures(example) for example in examples):
            return [Null(self._blind(negative_prompt, len(examples)), scale, False)]
        pictured = Null(self.pictured(examples, negative_prompt, read), scale, True)
        return [pictured] if image_scale == 1.0 else [Null(self._blind(negative_prompt, len(examples)), image_scale, False), pictured]

    def pictured(self, examples: Sequence[Example], negative_prompt: str, read: Callable[[list[Example]], Condition]) -> Condition:
        """The pictures without the words."""
        return read([dataclasses.replace(without_text(example), prompt=negative_prompt) for example in examples])

    def _blind(self, negative_prompt: str, rows: int) -> Condition:
        brain, key = self.bridge.brain, (negative_prompt, self.bridge.device)
        if key not in self.memories:
            self.memories[key] = brain.read(brain.collate([Example(negative_prompt)]), depth=self.bridge.depth)
        return self.bridge.condition_from(self.memories[key]).expand(rows)

    def _warn_untrained(self, examples: Sequence[Example], negative_prompt: str, scale: float, image_scale: float) -> None:
        """A null row that training never showed says nothing of use."""
        rates, pictured = self.bridge.objective, any(pictures(example) for example in examples)
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
