"""bfloat16 where it saves time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# each multiplies bfloat16 matrices; without one of them every product goes through float32 and back
BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx10_2")


def usable(precision: str, device: torch.device, cpu: Mapping[str, Any] | None = None) -> str:
    """The precision to train in: float32 in place of a bfloat16 that this CPU only emulates. Where that is not known, as asked."""
    if precision != "bfloat16" or device.type != "cpu":
        return precision
    if cpu is None:
        cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # younger than torch 2.8
    emulated = cpu.get("architecture") == "x86_64" and not any(cpu.get(name) for name in BFLOAT16)
    return "float32" if emulated else precision
