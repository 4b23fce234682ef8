"""The decoder layers of a frozen brain in 8 or 4 bits a weight; products stay in the brain's own dtype, differentiable to their input.

Plain torch on any device. Whoever trains beside a quantized weight needs a gradient to the input alone, so no library is needed for it,
and nothing depends on the other rows of a batch, as it does where activations are quantized too.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from metabridge.bridge.errors import UserError

log = logging.getLogger(__name__)

BLOCK = 64  # weights that share a scale in nf4
# The 16 levels of NF4 (QLoRA, arXiv 2305.14314, appendix E): quantiles of a normal distribution, scaled to [-1, 1], 0 among them.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


class QuantizedLinear(nn.Module):
    """y = x W'^T + b, with W' [out, in] written from `codes` and `scale` in every pass: the graph keeps neither W' nor a copy of it."""

    codes: nn.Parameter  # of whole numbers; a parameter, so that it is sharded where weights are
    scale: nn.Parameter  # in the dtype that the weights came in

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        codes, scale = self.encode(linear.weight.detach())
        self.codes, self.scale = nn.Parameter(codes, requires_grad=False), nn.Parameter(scale, requires_grad=False)

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def decode(self, dtype: torch.dtype) -> Tensor:
        """W' [out, in]."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """For the few layers that look at a weight's dtype or multiply with it themselves."""
        return self.decode(self.scale.dtype)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
        y: Tensor = _Product.apply(x.to(dtype), self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: QuantizedLinear) -> Tensor:
        ctx.linear = linear
        return F.linear(x, linear.decode(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # dL/dx = dL/dy W'
        return gradient @ ctx.linear.decode(gradient.dtype), None


class Int8Linear(QuantizedLinear):
    """W'_oi = s_o q_oi with s_o = max_i |W_oi| / 127 and q_oi = round(W_oi / s_o), so that |W' - W| <= s_o / 2."""

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = (weight.abs().amax(dim=1, keepdim=True).double() / 127).to(weight.dtype)  # [out, 1]
        codes = (weight.double() / scale.masked_fill(scale == 0, 1).double()).round().clamp(-127, 127)
        return codes.to(torch.int8), scale

    def decode(self, dtype: torch.dtype) -> Tensor:
        return self.codes * self.scale.to(dtype)


class Nf4Linear(QuantizedLinear):
    """W'_ob = a_ob NF4[c_ob] with a_ob = max |W_ob| over a block b of 64 weights in a row, and c_ob the level nearest to W_ob / a_ob.

    Two codes a byte, the first in its upper half. A row that is no multiple of 64 long is filled up with zeros.
    """

    def encode(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(weight, (0, -weight.shape[1] % BLOCK))
        blocks = padded.view(len(weight), -1, BLOCK)
        scale = blocks.abs().amax(dim=2)  # [out, blocks]
        levels = torch.tensor(NF4, dtype=torch.float64, device=weight.device)
        relative = blocks.double() / scale.masked_fill(scale == 0, 1).double()[..., None]
        codes = torch.bucketize(relative, (levels[1:] + levels[:-1]) / 2).to(torch.uint8).view_as(padded)
        return codes[:, ::2] << 4 | codes[:, 1::2], scale

    def decode(self, dtype: torch.dtype) -> Tensor:
        blocks = F.embedding(self.codes.int(), _pairs(dtype, self.codes.device)).view(*self.scale.shape, BLOCK)
        return (blocks * self.scale.to(dtype)[..., None]).view(len(self.codes), -1)[:, : self.in_features]


@lru_cache
def _pairs(dtype: torch.dtype, device: torch.device) -> Tensor:
    """[256, 2], what each byte stands for; kept, as a copy from the host in every pass would be waited for."""
    levels = torch.tensor(NF4, dtype=dtype, device=device)
    return torch.cartesian_prod(levels, levels)


FORMATS: dict[str, type[QuantizedLinear]] = {"int8": Int8Linear, "nf4": Nf4Linear}


def check_format(name: object, where: str = "brain.quantize") -> None:
    if name not in ("none", *FORMATS):
        raise UserError(f"{where}: {name!r} given; it is one of: none, {', '.join(FORMATS)}")


@torch.no_grad()
def quantize_layers(layers: nn.ModuleList, name: str, repo: str) -> None:
    """Replace every Linear inside decoder layers by one of `name`. Embeddings, lm_head, norms and the vision tower stay as they are."""
    replaced = 0
    for layer in layers:
        linears = [(parent, child, module) for parent in layer.modules() for child, module in parent.named_children()]
        for parent, child, module in linears:
            if type(module) is nn.Linear:
                replaced += module.weight.numel()
                setattr(parent, child, FORMATS[name](module))
    if not replaced:
        raise UserError(
            f"brain.quantize: {name} given, but the decoder layers of {repo} have no plain Linear to quantize; "
            "give a checkpoint that is not quantized already, or leave the option out"
        )
    left = sum(x.numel() for x in layers.parameters() if x.dim() > 1 and x.is_floating_point()) - _scales(layers)
    if left > 0.1 * replaced:
        log.warning(
            "brain.quantize: %.0f %% of the decoder layers' weights stay in full precision (experts that are stacked in one tensor, "
            "and others that are no Linear)",
            100 * left / (left + replaced),
        )


def _scales(layers: nn.ModuleList) -> int:
    return sum(module.scale.numel() for module in layers.modules() if isinstance(module, QuantizedLinear))
