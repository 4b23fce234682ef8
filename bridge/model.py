"""The bridge: queries and connector between a frozen brain and a hand. Only these two are trained, and of the hand what it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from metabridge.bridge.attention import fastest_reading
from metabridge.bridge.connector import Connector
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Brain, Condition, Hand, Inputs, Memory
from metabridge.bridge.settings import Connector as ConnectorSettings
from metabridge.bridge.settings import Objective


@dataclass(frozen=True)
class Batch:
    """One training step's rows."""

    inputs: tuple[Inputs, ...]  # what the brain reads, in groups of rows of like length: so there is less to pad
    pixels: Tensor | None  # [B, 3, H, W], what the hand should draw: uint8, or in [-1, 1]; None where its latents are there
    noise_seeds: tuple[int, ...]  # one a row: its noise and timestep
    captions: tuple[str | None, ...] | None = None  # for distillation, in words the hand's text encoder knows; None = no teacher
    latents: Tensor | None = None  # [B, C, h, w], of the pixels, where they are known already
    latent_seeds: tuple[int, ...] | None = None  # one a row: the latents are a sample; None = the mean
    teacher: Condition | None = None  # native conditions of the captions, where they are known already
    sources: Tensor | None = None  # [S, 3, H, W], as pixels: the pictures that the hand is given, row after row
    source_counts: tuple[int, ...] = ()  # one a row: how many of them are its own
    places: Tensor | None = None  # [B], where each row stands in the groups, taken one after another; None = as they come

    def to(self, device: torch.device) -> Batch:
        return self.apply(lambda tensor: tensor.to(device, non_blocking=True))

    def apply(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `change` applied to each tensor it holds."""
        inputs = tuple({name: change(tensor) for name, tensor in group.items()} for group in self.inputs)
        held = {"pixels": self.pixels, "latents": self.latents, "sources": self.sources, "places": self.places}
        changed: dict[str, Any] = {name: None if tensor is None else change(tensor) for name, tensor in held.items()}
        teacher = None if self.teacher is None else self.teacher.apply(change)
        return dataclasses.replace(self, inputs=inputs, teacher=teacher, **changed)


class Bridge(nn.Module):
    def __init__(self, brain: Brain, hand: Hand, settings: ConnectorSettings, objective: Objective, scale: float = 1.0) -> None:
        """`scale`: RMS of the hand's native conditioning, with which the connector's output starts."""
        super().__init__()
        check_fit(brain, hand, settings, objective)
        self.brain = brain.requires_grad_(False)
        self.hand = hand.requires_grad_(False)
        for parameter in hand.trainable():
            parameter.requires_grad_(True)
        self.settings, self.objective, self.scale = settings, objective, scale
        self.taps = settings.taps
        self.thinks = objective.think > 0  # whether its queries were trained to be read after a thought
        self.init: dict[str, str] | None = None  # the bridge whose weights it started from: path and content_hash
        self.queries = nn.Parameter(torch.randn(settings.queries, brain.width) * brain.embedding_std())
        self.connector = Connector(
            in_width=brain.width * len(settings.taps),
            out_width=hand.width,
            pooled_width=hand.pooled_width,
            num_queries=settings.queries,
            width=settings.width,
            layers=settings.layers,
            heads=settings.heads,
            scale=scale,
        )
        self.train(False)

    @property
    def depth(self) -> int | None:
        """The deepest layer that the taps need; None = all."""
        return None if -1 in self.taps else max(self.taps)

    @property
    def device(self) -> torch.device:
        return self.queries.device

    def train(self, mode: bool = True) -> Bridge:
        """The frozen parts stay in eval: a brain in train() with checkpointing would silently drop its cache."""
        super().train(mode)
        self.brain.eval()
        self.hand.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Loss of each row, [B]."""
        batch = batch.to(self.device)
        return self.loss(batch, self.latents(batch), self.conditioned(batch))

    def conditioned(self, batch: Batch) -> Condition:
        """What the brain read of a batch, and the latents of its source pictures."""
        condition: Condition = self.connector(self.look(batch))
        if batch.sources is None:
            return condition
        return dataclasses.replace(condition, references=self.references(in_range(batch.sources), batch.source_counts))

    def look(self, batch: Batch) -> Tensor:
        """What the queries see of a batch, read as deep as the taps need: [B, N, taps * D]."""
        with fastest_reading(self.device):
            memories = [self.brain.read(inputs, depth=self.depth) for inputs in batch.inputs]
        seen = [self.brain.query(memory, self.queries, self.taps) for memory in memories]
        return seen[0] if batch.places is None else torch.cat(seen)[batch.places]

    def references(self, pixels: Tensor, counts: Sequence[int]) -> Tensor:
        """Source pictures [S, 3, H, W] in [-1, 1], `counts` of them a row -> [B, R, C, h, w], zeros where a row has fewer than R."""
        return pad_sequence(list(torch.split(self.hand.encode(pixels), list(counts))), batch_first=True)

    def latents(self, batch: Batch) -> Tensor:
        """What the hand should draw, [B, C, h, w]."""
        if batch.latents is not None:
            return batch.latents
        assert batch.pixels is not None
        pixels = in_range(batch.pixels)
        return self.hand.encode(pixels) if batch.latent_seeds is None else self.hand.encode(pixels, batch.latent_seeds)

    def loss(self, batch: Batch, latents: Tensor, condition: Condition) -> Tensor:
        """Loss of each row, [B], under its own condition or another."""
        captions = batch.captions
        if not self.objective.distill or captions is None:
            return self.hand.loss(latents, condition, self.objective, batch.noise_seeds)
        told = [row for row, caption in enumerate(captions) if caption is not None]
        taught = torch.tensor(told or [0]).to(self.device, non_blocking=True)
        if not told:  # processes that share a hand run it equally often: once more, for nothing
            unheard = dataclasses.replace(self.objective, distill=0.0)
            return self.hand.loss(latents, condition, unheard, batch.noise_seeds, condition.rows(taught), taught)
        teacher = self.hand.describe([captions[row] or "" for row in told]) if batch.teacher is None else batch.teacher.rows(taught)
        if teacher is None:
            raise UserError("objective.distill: this hand has no text encoder to learn from; set objective.distill=0")
        return self.hand.loss(latents, condition, self.objective, batch.noise_seeds, teacher, taught)

    def condition(self, inputs: Inputs) -> Condition:
        """Read a batch as deep as the taps need, and look at it with the queries."""
        return self.condition_from(self.brain.read(inputs, depth=self.depth))

    def condition_from(self, memory: Memory) -> Condition:
        condition: Condition = self.connector(self.brain.query(memory, self.queries, self.taps))
        return condition

    def trained(self) -> dict[str, Tensor]:
        """What training changes, by name: megabytes, not the frozen gigabytes."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def frozen(self) -> dict[str, Tensor]:
        """Every other parameter and buffer, by name."""
        trained = self.trained()
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {name: tensor for name, tensor in tensors.items() if name not in trained}


def in_range(pixels: Tensor) -> Tensor:
    """uint8 -> [-1, 1], on its device: a quarter of the bytes to send there. What is in that range already stays."""
    if pixels.dtype != torch.uint8:
        return pixels
    return pixels.float().div_(127.5).sub_(1)


def check_fit(brain: Brain, hand: Hand, settings: ConnectorSettings, objective: Objective) -> None:
    """Settings that can only be judged beside the brain and the hand."""
    if too_deep := [tap for tap in settings.taps if tap > brain.num_layers]:
        raise UserError(
            f"connector.taps: {too_deep[0]} given, but the brain has {brain.num_layers} layers; use 1..{brain.num_layers} or -1"
        )
    if objective.name not in ("auto", hand.prediction):
        raise UserError(
            f"objective.name: {objective.name} given, but this hand's scheduler predicts {hand.prediction}; "
            f"set objective.name={hand.prediction}"
        )
