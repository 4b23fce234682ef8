"""Source pictures for a denoiser that was made to see them: their latents as further tokens after the noisy ones, in the same attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from metabridge.adapters.checkpoint import Checkpoint
from metabridge.adapters.pretrained import PretrainedHand
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition


class SeeingHand(PretrainedHand):
    """An adapter gives `predict_alike` in the place of `predict`, and says how many `references` it takes.

    The official pipelines for editing bring a source picture to a size of its own; here it has the size that is drawn, so that what
    stays stands where it stood. At that size the two are the same.
    """

    def predict_alike(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """As predict, of rows that all have as many references [B, R, C, h, w], each a picture; None = they have none."""
        raise NotImplementedError

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """A pass for each number of source pictures there is: the attention has no mask that would hide missing ones."""
        if condition.references is None or not self.references:
            return self.predict_alike(latents, timestep, dataclasses.replace(condition, references=None))
        self._refuse_sharded()
        there = condition.references.flatten(2).any(dim=2)  # [B, R]
        counts = there.sum(dim=1).tolist()
        groups, predicted = [], []
        for count in sorted(set(counts)):
            rows = torch.tensor([row for row, own in enumerate(counts) if own == count]).to(latents.device)
            pictures = condition.references[rows][there[rows]]  # [rows * count, C, h, w], of each row in their order
            references = pictures.view(len(rows), count, *latents.shape[1:]) if count else None
            told = dataclasses.replace(condition.rows(rows), references=references)
            predicted.append(self.predict_alike(latents[rows], timestep[rows], told))
            groups.append(rows)
        return torch.cat(predicted)[torch.cat(groups).argsort()]

    def _refuse_sharded(self) -> None:
        """Processes that share a hand must run it equally often, and the next one's rows may have other numbers of pictures."""
        if any(isinstance(block, FSDPModule) for block in self.blocks()):
            raise UserError(
                f"train.shard: hand given, but {self.identity['repo']} sees source pictures in a pass for each number of them, which "
                "processes cannot share; use train.shard: brain, or hand.references: 0, and the brain alone looks at them"
            )


def references_of(checkpoint: Checkpoint, given: int | None, usual: Mapping[str, int]) -> int:
    """Source pictures that a hand takes at most. `usual`: by official pipeline, how many its makers advise; others take none."""
    advised = usual.get(checkpoint.pipeline, 0)
    if given is None:
        return advised
    # what is made for several has a place for each one more; what is made for one has not
    if given < 0 or (given > advised and advised <= 1):
        raise UserError(
            f"hand.references: {given} given; a checkpoint for {checkpoint.pipeline} takes {advised or 'none'}, of this hand those for "
            f"{', '.join(usual)} take some; leave it out for what the checkpoint takes"
        )
    return given


def sequence(latents: Tensor, references: Tensor | None, tokens: Callable[[Tensor], Tensor]) -> Tensor:
    """What `tokens` makes of the noisy latents, and after it of each source picture in order."""
    return torch.cat([tokens(picture) for picture in (latents, *(() if references is None else references.unbind(1)))], dim=1)


def pictures_in(condition: Condition) -> int:
    """Pictures in the sequence of a row: the noisy one and its references."""
    return 1 if condition.references is None else 1 + condition.references.shape[1]
