"""Which of torch's attention kernels to train with."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def fastest_attention(device: torch.device) -> AbstractContextManager[object]:
    """Around a forward pass whose backward will be run: on CPU the fused kernel's backward is several times slower than plain math."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def fastest_reading(device: torch.device) -> AbstractContextManager[object]:
    """Around a pass that no backward will follow, within the above: on CPU the fused kernel again, whose forward is the faster one."""
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]) if device.type == "cpu" else nullcontext()
