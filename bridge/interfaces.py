"""The words of the house.

Legend, used in every shape of the project: B batch, N queries, L tokens, D width, T tapped layers, P pooled width, C H W.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from metabridge.bridge.settings import Objective

log = logging.getLogger(__name__)

Inputs = dict[str, Tensor]  # one collated batch, by name: input_ids, attention_mask, pixel_values, ...


@dataclass(frozen=True)
class Turn:
    """One earlier turn of a conversation."""

    role: str  # "user" | "assistant"
    text: str
    images: tuple[Image.Image, ...] = ()  # of an assistant: what was drawn; a brain sees it at the head of the next user's turn
    think: bool = False  # of a user: the text was read in the brain's think template, and what the assistant says is the thought


@dataclass(frozen=True)
class Example:
    """One row of any task: text to image, edit, compose, reconstruct, dialogue."""

    prompt: str
    images: tuple[Image.Image, ...] = ()  # what the brain looks at
    target: Image.Image | None = None  # what the hand should draw; None when drawing
    history: tuple[Turn, ...] = ()
    thought: str | None = None  # read after the prompt, before the queries; None = the queries stand right after the prompt
    caption: str | None = None  # the target in words that the hand's own text encoder knows (distillation); None = thought or prompt


@dataclass(frozen=True)
class Memory:
    """What a brain has read so far. Queries never enter it; a query, a reply or a further read leaves it as it was."""

    cache: Any  # the brain's own: keys and values of every layer read
    mask: Tensor  # [B, L], 1 = a real token
    position: Tensor  # [B], the first free position of each row
    last: Tensor | None  # [B, D], state of each row's last real token after the final norm; None on a shallow Memory
    depth: int | None = None  # layers that were run; None = all


@dataclass(frozen=True)
class Condition:
    """The only thing that crosses the bridge."""

    embeds: Tensor  # [B, L, D]
    mask: Tensor  # [B, L], 1 = attend
    pooled: Tensor | None = None  # [B, P]
    references: Tensor | None = None  # [B, R, C, h, w] latents of source pictures; all zeros = none

    def apply(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same condition with `change` applied to each tensor it holds."""
        held: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: None if tensor is None else change(tensor) for name, tensor in held.items()}
        return Condition(**changed)

    def expand(self, batch: int) -> Condition:
        """One row for all -> `batch` rows; a condition of `batch` rows stays as it is."""
        return self.apply(lambda tensor: tensor.expand(batch, *tensor.shape[1:]))

    def rows(self, index: Tensor) -> Condition:
        """The rows at `index`, in that order; a row may come more than once."""
        return self.apply(lambda tensor: tensor[index])

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Stack along the batch; shorter ones are padded on the right, where their mask is 0, and get references of zeros."""
        length = max(condition.embeds.shape[1] for condition in conditions)
        referring = max((c.references for c in conditions if c.references is not None), key=lambda x: x.shape[1], default=None)
        padded = [condition._padded(length, referring) for condition in conditions]
        stacked: dict[str, Any] = {}
        for f in fields(Condition):
            held = [getattr(condition, f.name) for condition in padded]
            if any(tensor is None for tensor in held) and any(tensor is not None for tensor in held):
                raise ValueError(f"conditions with and without {f.name} in one batch")
            stacked[f.name] = None if held[0] is None else torch.cat(held)
        return Condition(**stacked)

    def _padded(self, length: int, referring: Tensor | None) -> Condition:
        """To `length` tokens, and to as many references as `referring` [_, R, C, h, w] has."""
        missing, references = length - self.embeds.shape[1], self.references
        if referring is not None:
            if references is None:
                references = referring.new_zeros(len(self.embeds), *referring.shape[1:])
            references = F.pad(references, (0, 0, 0, 0, 0, 0, 0, referring.shape[1] - references.shape[1]))
        return replace(self, embeds=F.pad(self.embeds, (0, 0, 0, missing)), mask=F.pad(self.mask, (0, missing)), references=references)


class Collate(Protocol):
    """Examples -> tensors. Holds no weights; in training it is called in the thread that prepares batches.

    `think=True` puts the prompt into the brain's think template, the form in which it is asked for a thought. An example that has a
    thought is always read in that form, with the thought after the generation prompt and no end-of-turn token.
    """

    def __call__(self, examples: Sequence[Example], *, think: bool = False) -> Inputs: ...

    def onward(self, before: Example, after: Example, *, think: bool = False) -> Inputs | None:
        """What `after`, the turn after `before`, has beyond what was read of that; None where the template has changed its beginning."""
        ...

    def parted(self, whole: Inputs, other: Inputs) -> tuple[Inputs, Inputs, Inputs] | None:
        """Two rows that begin alike -> that beginning, with all pictures, and the text that each has after it; None where there is more."""
        ...

    def words(self, text: str) -> Inputs:
        """Text that the brain itself has said, one row, without anything around it."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """What a brain has said, in words."""
        ...


class Brain(nn.Module):
    """A frozen multimodal LLM."""

    width: int
    num_layers: int
    max_tokens: int  # prompt, thought and queries together
    collate: Collate
    identity: dict[str, str]  # repo, revision, fingerprint

    def read(self, inputs: Inputs, memory: Memory | None = None, depth: int | None = None) -> Memory:
        """Read a batch, without gradient, onto `memory` or from nothing. `depth` = layers to run (training passes the deepest tap)."""
        raise NotImplementedError

    def extends(self, inputs: Inputs) -> bool:
        """Whether reading these onto a Memory gives what reading all afresh does."""
        return True

    def query(self, memory: Memory, queries: Tensor, taps: Sequence[int]) -> Tensor:
        """Hidden states [B, N, T*D] of `queries` [N, D] read after `memory`; gradient reaches the queries only.

        Tap k is the output of decoder layer k (1 = the first), -1 the state after the final norm; every other tap passes a
        parameter-free RMSNorm. Several are concatenated in the order given.
        """
        raise NotImplementedError

    def say(self, memory: Memory, max_new_tokens: int = 64) -> tuple[list[list[int]], Memory]:
        """Greedy tokens after `memory` with the brain's own lm_head, a list per row, and the Memory that has read them (no end of turn)."""
        raise NotImplementedError

    def reply(self, memory: Memory, max_new_tokens: int = 64) -> tuple[list[str], Memory]:
        """The same as text; one that is cut is warned of."""
        said, memory = self.say(memory, max_new_tokens)
        warn_of_cut(said, max_new_tokens)
        return [self.collate.text(tokens) for tokens in said], memory

    def blocks(self) -> list[nn.Module]:
        """What holds most of its weights and runs in every pass, whatever is in the batch: what may be sharded. None known: []."""
        return []

    def embedding_std(self) -> float:
        """Standard deviation of the input embedding's output: the scale at which queries start."""
        raise NotImplementedError


def warn_of_cut(said: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if cut := sum(len(tokens) == max_new_tokens for tokens in said):
        log.warning("%d of %d replies were cut at max_new_tokens=%d", cut, len(said), max_new_tokens)


class Hand(nn.Module):
    """A pretrained image decoder."""

    width: int  # of Condition.embeds
    pooled_width: int | None
    prediction: str  # what the checkpoint predicts: flow | epsilon | v; Objective.name must agree
    default_size: tuple[int, int]  # height and width in pixels
    default_steps: int
    default_guidance: float
    references: int = 0  # source pictures that it takes beside the conditioning, at most; 0 = none
    identity: dict[str, str]

    def encode(self, pixels: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> scaled latents [B, C, h, w]: the mean of what they may be, or with `seeds` a sample, a seed a row."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] -> pixels [B, 3, H, W], about [-1, 1]."""
        raise NotImplementedError

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Pixels' height and width -> (C, h, w)."""
        raise NotImplementedError

    def loss(
        self,
        latents: Tensor,
        condition: Condition,
        objective: Objective,
        noise_seeds: Sequence[int],
        teacher: Condition | None = None,
        taught: Tensor | None = None,
    ) -> Tensor:
        """Per-example loss [B]; noise and timestep of row i come from a CPU generator seeded with noise_seeds[i].

        `teacher` [T] is the native conditioning whose prediction is the target of distillation, `taught` [T] the indices of the rows it is
        for (None = all); the hand as it came is run on these alone.
        """
        raise NotImplementedError

    def respond(self, latents: Tensor, condition: Condition, objective: Objective, noise_seeds: Sequence[int]) -> Tensor:
        """The prediction that `loss` compares with its target, [B, ...] in float32, for the same noise and timesteps."""
        raise NotImplementedError

    def draw(
        self,
        condition: Condition,
        nulls: Sequence[Condition],
        shape: tuple[int, int, int],
        steps: int,
        guidance: Sequence[float],
        generators: Sequence[torch.Generator],
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
        adjust: Callable[[Any, int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Latents [B, C, h, w], one CPU generator a row. `nulls` and `guidance` pair up, weakest condition first (see sampling.py).

        `callback(step, timestep, latents)` is called after each step, `adjust(scheduler, step, latents)` before it may change the latents.
        """
        raise NotImplementedError

    def describe(self, captions: Sequence[str]) -> Condition | None:
        """The hand's native conditioning, through the official pipeline's own encode_prompt; None where it has no text encoder."""
        raise NotImplementedError

    def trainable(self) -> list[nn.Parameter]:
        """What of the hand is trained beside queries and connector (LoRA, or all); nothing unless the recipe's hand.train says so."""
        return []

    def second_copy(self) -> int:
        """Bytes that `untouched` takes beside the hand from the first time on; 0 where the hand can turn off what was trained."""
        return 0

    def blocks(self) -> list[nn.Module]:
        """As Brain.blocks."""
        return []

    def untouched(self) -> AbstractContextManager[None]:
        """Inside, the hand is the checkpoint as it came, without what was trained on top: the teacher, and the baseline."""
        return nullcontext()

    def condition_rms(self) -> float:
        """RMS of the native conditioning over real tokens, the scale of the connector's output; 1.0 without a text encoder."""
        raise NotImplementedError
