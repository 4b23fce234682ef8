"""Networks that turn pictures, and texts, into vectors. One file a network; each takes PIL pictures as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from PIL import Image


class Encoder(Protocol):
    @property
    def name(self) -> str:
        """As it stands in a variant."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Weights, and how pictures are brought to the network's size."""

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """[n, D] float32 of RGB pictures; of one, the same whatever the others are."""


class TextEncoder(Encoder, Protocol):
    limit: int  # tokens that are read of a text

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """[n, D] float32"""

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions in float32 on a GPU, too, where TF32 is the default: features there and on a CPU then differ by rounding alone."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.inference_mode():
        yield
