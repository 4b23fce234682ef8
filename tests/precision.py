"""Float64 all the way, so that a test can tell what is exact from what is rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def float64_throughout() -> Iterator[None]:
    """For a model in float64: norms, recurrences and poolings that transformers computes in float32 whatever the dtype, in float64 too."""
    to = Tensor.to

    def widened(self: Tensor, *args: Any, **options: Any) -> Tensor:
        narrows = torch.float32 in args or options.get("dtype") == torch.float32
        return self if narrows and self.dtype == torch.float64 else to(self, *args, **options)

    before = Tensor.to, Tensor.float
    Tensor.to, Tensor.float = widened, Tensor.double  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Tensor.to, Tensor.float = before  # type: ignore[method-assign]
