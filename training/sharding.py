"""Frozen parts spread over the processes (FSDP2): each holds its share of a block and gathers the block when it runs.

What is trained stays whole on every process, under DDP. A block that has run is let go again, in the backward pass too. All processes must
run the same blocks equally often, so that only a part whose passes do not depend on what is in a batch can be sharded.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge

PARTS = {"none": (), "brain": ("brain",), "hand": ("hand",), "both": ("brain", "hand")}  # by what train.shard says


def blocks(bridge: Bridge, part: str) -> Sequence[nn.Module]:
    """The modules of the brain or the hand that are sharded, each by itself."""
    owner = getattr(bridge, part)
    found: Sequence[nn.Module] = owner.blocks()
    if not found:
        raise UserError(
            f"train.shard: {part} given, but of {owner.identity['repo']} it is not known which blocks every batch runs; "
            "leave it whole on each process"
        )
    if any(getattr(module, "_compiled_call_impl", None) for module in owner.modules()):
        raise UserError(f"train.shard: {part} given, and {part}.compile too, which are not offered together; leave one of them out")
    sizes = {state: sum(x.numel() for block in found for x in block.parameters() if x.requires_grad == state) for state in (True, False)}
    if sizes[True] > sizes[False]:
        raise UserError(
            f"train.shard: {part} given, but it is trained (hand.train: full), and only what is frozen is sharded; "
            "use hand.train: lora, or train.shard: brain"
        )
    return found


def whole(parameter: Tensor) -> bool:
    """Of a block that is sharded, what each process keeps whole: a LoRA that is trained, and single numbers."""
    return parameter.requires_grad or parameter.dim() == 0


def shard(bridge: Bridge, parts: Sequence[str], device: torch.device) -> None:
    """Shard `parts` over all processes. Blocks go to the device one by one: it never holds a whole part."""
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in parts:
        modules = blocks(bridge, part)
        for module in modules:
            ignored = {parameter for parameter in module.parameters() if whole(parameter)}
            fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
        # the module that runs them has no shares of its own, but makes one stream of their gathering, beside which products go on
        runner = _runner(getattr(bridge, part), modules)
        ignored = {parameter for parameter in runner.parameters() if not isinstance(parameter, DTensor)}
        fully_shard(runner, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)
        # torch warns that a view it returns must not be written to, else it would not be gathered for the backward pass
        warnings.filterwarnings("ignore", rf"FSDP2-wrapped module \({type(runner).__name__}\) returned a view")


def put_rest(bridge: Bridge, device: torch.device) -> None:
    """Module.to for what is whole. Shares are there already, and torch does not promise to move them."""
    for module in bridge.modules():
        for parameter in module.parameters(recurse=False):
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)


def _runner(part: nn.Module, modules: Sequence[nn.Module]) -> nn.Module:
    """The innermost module that has all of them below it, and a forward of its own."""
    wanted = set(modules)
    return [module for module in part.modules() if wanted <= set(module.modules()) and not isinstance(module, nn.ModuleList)][-1]


def local(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What this process holds of each."""
    return {name: tensor.to_local() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}
