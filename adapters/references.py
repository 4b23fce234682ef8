"""Source pictures for a denoiser that was made without: their latents beside the noisy ones, as further channels of its first layer.

InstructPix2Pix (arXiv 2211.09800, sec. 3.2) widens the first convolution. Here the further channels have a convolution of their own, whose
output is added: what was pretrained keeps its place and name. It starts at zero: until it has learnt to look, the hand draws as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metabridge.bridge.errors import UserError


class ReferenceInput(nn.Module):
    """Latents of `count` source pictures [B, R, C, h, w] -> what is added to the output of the first convolution."""

    def __init__(self, first: nn.Conv2d, count: int) -> None:
        super().__init__()
        if count < 1:
            raise UserError(f"hand.references: {count} given; 1 at least, or leave it out for a hand that is given no source pictures")
        self.count = count
        like: Any = first  # torch hints at tuples of any length where it asks for pairs
        self.projection = nn.Conv2d(
            first.in_channels * count, first.out_channels, like.kernel_size, like.stride, like.padding, bias=False, device="cpu"
        )
        nn.init.zeros_(self.projection.weight)
        self.shown: Tensor | None = None
        first.register_forward_hook(self._add)

    @contextmanager
    def showing(self, references: Tensor | None) -> Iterator[None]:
        """During the denoiser's pass, these are beside the latents; of more than `count` the last ones, None = none."""
        if references is not None:
            if (missing := self.count - references.shape[1]) > 0:
                references = F.pad(references, (0, 0, 0, 0, 0, 0, 0, missing))
            references = references[:, -self.count :].flatten(1, 2)
        self.shown = references
        try:
            yield
        finally:
            self.shown = None

    def _add(self, first: nn.Module, args: Any, output: Tensor) -> Tensor:
        shown, weight = self.shown, self.projection.weight
        if shown is None:
            if not (torch.is_grad_enabled() and weight.requires_grad):
                return output
            # of several processes, one whose rows have no picture has a gradient (of zeros) to give as well
            shown = args[0].new_zeros(len(args[0]), weight.shape[1], *args[0].shape[2:])
        added: Tensor = self.projection(shown.to(weight.dtype)).to(output.dtype)
        return output + added
