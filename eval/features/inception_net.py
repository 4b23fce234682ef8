"""Inception v3 as FID knows it: the graph of TensorFlow's 2015-12-05 release, under the names of its weights in PyTorch.

It is not torchvision's network: averages over the 3x3 neighbourhood leave out the padding, the last block takes the maximum in their
place, and pixels are (x - 128) / 128. What comes out is the mean over the last 8x8 map, 2048 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE, WIDTH = 299, 2048

Conv = tuple[str, int, int | tuple[int, int]]  # end of its name, width, kernel
Branch = Sequence[Conv | list[Conv]]

_mean = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_max = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_shrink = partial(F.max_pool2d, kernel_size=3, stride=2)


class ConvNorm(nn.Module):
    def __init__(self, before: int, width: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(before, width, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches and a pool side by side. A branch is a chain of convolutions; a list of them at its end forks it.

    `pool`: width of the convolution after the pool, if there is one. `shrinks`: the last of a branch, and the pool, halve the map.
    """

    def __init__(self, before: int, *branches: Branch, pool: int = 0, shrinks: bool = False, largest: bool = False) -> None:
        super().__init__()
        self.branches: list[list[list[str]]] = []
        for branch in branches:
            width, steps = before, [step if isinstance(step, list) else [step] for step in branch]
            for step in steps:
                halves = shrinks and step is steps[-1]
                for name, after, kernel in step:
                    self.add_module(f"branch{name}", ConvNorm(width, after, kernel, stride=2 if halves else 1, padded=not halves))
                width = step[-1][1]
            self.branches.append([[f"branch{name}" for name, _, _ in step] for step in steps])
        if pool:
            self.branch_pool = ConvNorm(before, pool, 1)
        self.pooled = _shrink if shrinks else _max if largest else _mean

    def forward(self, x: Tensor) -> Tensor:
        outs = []
        for branch in self.branches:
            ends = [x]
            for names in branch:
                ends = [self.get_submodule(name)(ends[0]) for name in names]
            outs += ends
        pooled = self.pooled(x)
        return torch.cat([*outs, self.branch_pool(pooled) if hasattr(self, "branch_pool") else pooled], 1)


def _a(before: int, pool: int) -> Mixed:
    double: Branch = [("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)]
    return Mixed(before, [("1x1", 64, 1)], [("5x5_1", 48, 1), ("5x5_2", 64, 5)], double, pool=pool)


def _b() -> Mixed:
    return Mixed(288, [("3x3", 384, 3)], [("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3), ("3x3dbl_3", 96, 3)], shrinks=True)


def _c(width: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    cross: Branch = [("7x7_1", width, 1), ("7x7_2", width, row), ("7x7_3", 192, column)]
    double: list[Conv] = [("7x7dbl_1", width, 1), ("7x7dbl_2", width, column), ("7x7dbl_3", width, row), ("7x7dbl_4", width, column)]
    return Mixed(768, [("1x1", 192, 1)], cross, [*double, ("7x7dbl_5", 192, row)], pool=192)


def _d() -> Mixed:
    cross: Branch = [("7x7x3_1", 192, 1), ("7x7x3_2", 192, (1, 7)), ("7x7x3_3", 192, (7, 1)), ("7x7x3_4", 192, 3)]
    return Mixed(768, [("3x3_1", 192, 1), ("3x3_2", 320, 3)], cross, shrinks=True)


def _e(before: int, largest: bool) -> Mixed:
    row, column = (1, 3), (3, 1)
    cross: Branch = [("3x3_1", 384, 1), [("3x3_2a", 384, row), ("3x3_2b", 384, column)]]
    double: Branch = [("3x3dbl_1", 448, 1), ("3x3dbl_2", 384, 3), [("3x3dbl_3a", 384, row), ("3x3dbl_3b", 384, column)]]
    return Mixed(before, [("1x1", 320, 1)], cross, double, pool=192, largest=largest)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2, padded=False)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        self.Mixed_7a = _d()
        self.Mixed_7b, self.Mixed_7c = _e(1280, largest=False), _e(2048, largest=True)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, 299, 299] in 0..255 -> [B, 2048]"""
        x = (pixels - 128) / 128
        for name, stage in self.named_children():
            x = stage(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = _shrink(x)
        return x.mean((2, 3))
