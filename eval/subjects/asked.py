"""What only some of those who draw can be asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError

if TYPE_CHECKING:
    from metabridge.eval.plan import Sample

_OPTIONS = {"num_inference_steps": "--steps", "guidance_scale": "--guidance", "height": "--size", "width": "--size"}


def refuse_settings(asked: Mapping[str, Any], taken: Collection[str], who: str) -> None:
    """A setting that was asked for, and that `who` does not take."""
    for name, value in asked.items():
        if value is not None and name not in taken:
            raise UserError(f"{_OPTIONS[name]}: has no effect on {who}; leave it out")


def refuse_rows(samples: Sequence[Sample]) -> None:
    """Every way to draw but the prompt alone."""
    for sample in samples:
        if sample.row != "bridge":
            raise UserError(f"--rows {sample.row}: only a bridge draws in several ways; leave it out")
