"""What a run will train, what it leaves alone, and what memory that takes: said before the first step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn

from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training.sharding import PARTS, blocks, whole


@dataclass(frozen=True)
class Group:
    """The parameters below one name, as brain.model or connector."""

    name: str
    trained: bool
    tensors: int
    numbers: int
    size: int  # bytes
    dtypes: str


def groups(bridge: Bridge) -> list[Group]:
    found: dict[tuple[str, bool], list[Tensor]] = defaultdict(list)
    for name, parameter in bridge.named_parameters():
        path = name.split(".")
        depth = 2 if path[0] in ("brain", "hand") else 1
        found[".".join(path[: min(depth, max(1, len(path) - 1))]), parameter.requires_grad].append(parameter)
    return [
        Group(
            name=name,
            trained=trained,
            tensors=len(tensors),
            numbers=sum(tensor.numel() * (2 if tensor.dtype == torch.uint8 else 1) for tensor in tensors),  # nf4: two in a byte
            size=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            dtypes=", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})),
        )
        for (name, trained), tensors in found.items()
    ]


def parameter_table(bridge: Bridge) -> Table:
    table = Table()
    for column in ("parameters", "state", "dtype"):
        table.add_column(column)
    for column in ("tensors", "numbers", "memory"):
        table.add_column(column, justify="right")
    rows = groups(bridge)
    for row in sorted(rows, key=lambda row: not row.trained):
        state = "[green]trained[/green]" if row.trained else "frozen"
        table.add_row(row.name, state, row.dtypes, str(row.tensors), f"{row.numbers:,}", readable(row.size))
    for trained in (True, False):
        chosen = [row for row in rows if row.trained == trained]
        total = sum(row.numbers for row in chosen)
        table.add_row(
            "all " + ("trained" if trained else "frozen"),
            "",
            "",
            str(sum(row.tensors for row in chosen)),
            f"{total:,}",
            readable(sum(row.size for row in chosen)),
        )
    return table


def memory(recipe: Recipe, bridge: Bridge, processes: int = 1) -> Mapping[str, int]:
    """Bytes a process needs, activations aside: those depend on the machine's kernels, `metabridge bench` measures them."""
    rows = groups(bridge)
    trained = sum(row.size for row in rows if row.trained)
    frozen, gathered = sum(row.size for row in rows if not row.trained), 0
    if processes > 1:
        for part in PARTS[recipe.train.shard]:
            saved, largest = spread(blocks(bridge, part), processes)
            frozen, gathered = frozen - saved, max(gathered, 2 * largest)
    height, width = bridge.hand.default_size
    batch = recipe.train.batch_size // (recipe.train.grad_accum * processes)
    # a hand that is trained as a whole teaches as the one that it was
    original = {"the hand as it came, to learn from": size} if recipe.objective.distill and (size := bridge.hand.second_copy()) else {}
    return {
        "frozen weights": frozen,
        **({"gathered blocks: one that runs, and the next": gathered} if gathered else {}),
        "trained weights": trained,
        "gradients": trained,
        "AdamW": 2 * trained,
        "EMA": trained if recipe.train.ema else 0,
        **original,
        "pictures of 3 batches": 3 * batch * 3 * height * width * 4,
    }


def spread(blocks: Sequence[nn.Module], processes: int) -> tuple[int, int]:
    """Bytes that a process saves when the frozen weights of these blocks are cut along their first dimension, and the largest block's."""
    sizes = [[tensor for tensor in block.parameters() if not whole(tensor)] for block in blocks]
    saved = sum((len(x) - math.ceil(len(x) / processes)) * x[0].numel() * x.element_size() for tensors in sizes for x in tensors)
    return saved, max(sum(x.numel() * x.element_size() for x in tensors) for tensors in sizes)


def memory_table(recipe: Recipe, bridge: Bridge, processes: int = 1) -> Table:
    table = Table()
    table.add_column("per process, activations aside" if processes == 1 else f"per process of {processes}, activations aside")
    table.add_column("memory", justify="right")
    sizes = memory(recipe, bridge, processes)
    for name, size in sizes.items():
        table.add_row(name, readable(size))
    table.add_row("in all", readable(sum(sizes.values())), style="bold")
    return table


def readable(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
