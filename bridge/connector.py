"""Queries' hidden states [B, N, T*D] -> the hand's conditioning: a small bidirectional transformer of its own width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metabridge.bridge.interfaces import Condition


def rotary(length: int, head_dim: int) -> Tensor:
    """Cosine and sine [2, N, head_dim] of RoPE at positions 0..N-1, base 10000."""
    frequency = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency).repeat(1, 2)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """[B, heads, N, head_dim] turned by its position: x cos + (-x2, x1) sin."""
    first, second = x.chunk(2, dim=-1)
    return x * rope[0] + torch.cat([-second, first], dim=-1) * rope[1]


class Norm(nn.RMSNorm):
    """RMSNorm in its weight's precision, also where autocast runs the matrices in less."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Attention(nn.Module):
    """Every query sees every query."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm_q = Norm(width // heads)
        self.norm_k = Norm(width // heads)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.norm_q(q), rope), rotate(self.norm_k(k), rope)
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """out(silu(gate x) * up x), hidden 8/3 of the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 8 * math.ceil(width / 3)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = Norm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = Norm(width)
        self.mlp = SwiGLU(width)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x), rope)
        return x + self.mlp(self.norm_mlp(x))  # type: ignore[no-any-return]


class Connector(nn.Module):
    """In-projection, blocks, norm, a sequence head and, for a hand that wants one, a pooled head. Always float32 (or wider)."""

    def __init__(
        self, in_width: int, out_width: int, pooled_width: int | None, num_queries: int, width: int, layers: int, heads: int, scale: float
    ) -> None:
        super().__init__()
        self.scale = scale  # RMS of the hand's native conditioning: what the sequence head puts out at the start
        self.proj_in = nn.Linear(in_width, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = Norm(width)
        self.head = nn.Linear(width, out_width)
        # Zero weight and a learned bias: training starts from one constant vector, and gradients reach both.
        self.pooled_head = None if pooled_width is None else nn.Linear(width, pooled_width)
        self.register_buffer("rope", rotary(num_queries, width // heads).float(), persistent=False)
        self._initialize()

    def _initialize(self) -> None:
        """std = 1/sqrt(fan_in), so that RMS stays 1; what is added to the stream is smaller by sqrt(2 layers)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Attention | SwiGLU):
                nn.init.normal_(module.out.weight, std=(2 * len(self.blocks) * module.out.in_features) ** -0.5)
        if self.pooled_head is not None:
            nn.init.zeros_(self.pooled_head.weight)

    def forward(self, hidden: Tensor) -> Condition:
        """[B, N, T*D] -> Condition with embeds [B, N, width of the hand], every query valid."""
        x = self.proj_in(hidden.to(self.proj_in.weight.dtype))
        for block in self.blocks:
            x = block(x, self.rope)
        x = self.norm(x)
        mask = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
        pooled = None if self.pooled_head is None else self.pooled_head(x.mean(dim=1))
        return Condition(self.head(x) * self.scale, mask, pooled)
