"""What a step costs beside its arithmetic: casts of frozen weights, and waits of the host for the device."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from metabridge.bridge.attention import fastest_attention
from metabridge.bridge.model import in_range
from metabridge.training.data import Mixture
from metabridge.training.learner import Learner
from metabridge.training.loader import load
from tests.runs import made

Tree = dict[str, Any]
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "repeat_interleave.Tensor", "aten.equal.")


class Watched(TorchDispatchMode):
    """Every operation that runs, under autocast and in the backward too, goes through `look`."""

    def __init__(self, look: Callable[[str, tuple[Any, ...]], None]) -> None:
        super().__init__()
        self.look = look

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.look(str(func), args)
        return func(*args, **(kwargs or {}))


def step(look: Callable[[str, tuple[Any, ...]], None], bridge: Any, recipe: Any) -> None:
    """A step of the loop in bfloat16 up to its update, on rows of its data."""
    batch = load(Mixture(recipe, bridge.hand), bridge.brain.collate, 0, range(4)).batch
    with Watched(look):
        with fastest_attention(bridge.device), torch.autocast(bridge.device.type, torch.bfloat16):
            loss = bridge(batch).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(bridge.trained().values(), math.inf)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_frozen_bfloat16_weights_are_used_as_they_are(tree: Tree, dtype: str) -> None:
    """In float32 the same step casts every one of them, which shows that this test would see it."""
    tree["objective"] = {"distill": 0.5}
    for part in ("brain", "hand"):
        tree[part]["dtype"] = dtype
    recipe, bridge = made(tree)
    frozen = {tensor.untyped_storage().data_ptr(): name for name, tensor in bridge.frozen().items() if tensor.numel()}
    cast: set[str] = set()

    def look(name: str, args: tuple[Any, ...]) -> None:
        if any(word in name for word in ("_to_copy", "copy_", "clone")):
            cast.update(frozen[ptr] for arg in args if isinstance(arg, Tensor) and (ptr := arg.untyped_storage().data_ptr()) in frozen)

    step(look, bridge, recipe)
    assert bool(cast) == (dtype == "float32"), sorted(cast)[:5]
    assert all(tensor.dtype == torch.float32 for tensor in bridge.trained().values())  # master weights


def test_nothing_of_ours_waits_for_the_device(tree: Tree) -> None:
    """The one wait left in a step of text is transformers' own look at whether a mask hides anything."""
    recipe, bridge = made(tree)
    waiting: set[str] = set()

    def look(name: str, args: tuple[Any, ...]) -> None:
        by_mask = name.startswith("aten.index") and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
        if by_mask or any(word in name for word in WAITS):
            callers = [
                frame.filename for frame in traceback.extract_stack() if "/torch/" not in frame.filename and __file__ != frame.filename
            ]
            waiting.add("/".join(callers[-1].split("/")[-2:]))

    step(look, bridge, recipe)
    assert waiting <= {"transformers/masking_utils.py"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_no_wait_between_the_query_and_the_end_of_the_step(tree: Tree) -> None:
    """torch itself refuses every wait: from the connector on, through hand, backward, clipping and optimizer."""
    recipe, bridge = made(tree)
    bridge.to("cuda")
    learner = Learner(bridge, recipe.train)
    batches = [load(Mixture(recipe, bridge.hand), bridge.brain.collate, k, range(4)).batch for k in range(2)]
    for number, batch in enumerate(batches):  # the first allocates, picks kernels, makes the optimizer's moments
        inputs, pixels = ({k: x.cuda() for k, x in batch.inputs[0].items()}, batch.pixels.cuda())
        with torch.autocast("cuda", torch.bfloat16):
            hidden = bridge.brain.query(bridge.brain.read(inputs, depth=bridge.depth), bridge.queries, bridge.taps)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            with torch.autocast("cuda", torch.bfloat16):
                loss = bridge.hand.loss(
                    bridge.hand.encode(in_range(pixels)), bridge.connector(hidden), recipe.objective, batch.noise_seeds
                ).mean()
            learner.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(learner.weights.values(), recipe.train.clip)
            learner.update(number)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(float(loss))
