"""The processes of a run: how they were started, what their launcher asks for, and the bridge spread over them.

Started by `metabridge train --processes N`, torchrun, srun or `accelerate launch`, on one machine or several: RANK, LOCAL_RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT in the environment say which is which. What is trained is replicated (DDP); `train.shard` spreads frozen parts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Train
from metabridge.training.precision import usable
from metabridge.training.sharding import PARTS, put_rest, shard
from metabridge.training.stop import Stop

ADDRESS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
MIXED = {"bf16": "bfloat16"}  # accelerate's word -> train.precision
WHOLE = {"NO_SHARD", "SHARD_GRAD_OP", "2", "3"}  # FSDP strategies that keep every weight on every process, by name or number


@dataclass(frozen=True)
class Topology:
    accelerator: Accelerator
    precision: str  # that is trained in
    sharded: tuple[str, ...]  # brain, hand
    said: tuple[str, ...]  # what differs from what was asked for, in lines

    def place(self, bridge: Bridge) -> None:
        """Put the bridge where it is trained: shares of what is sharded, the rest whole."""
        if self.precision == "float64":
            bridge.double()
        if self.sharded:
            shard(bridge, self.sharded, self.accelerator.device)
            put_rest(bridge, self.accelerator.device)
        else:
            bridge.to(self.accelerator.device)

    def wrap(self, bridge: Bridge) -> nn.Module:
        """The bridge with its gradients averaged over the processes; what hooks forward() alone."""
        # DDP would otherwise send the frozen gigabytes from the first process to all others, and their buffers at every step
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(bridge, bridge.frozen().keys())
        if not self.sharded:
            return self.accelerator.prepare_model(bridge)  # type: ignore[no-any-return]
        # accelerate refuses DDP beside sharded weights, whoever they are ignored by
        return DistributedDataParallel(self.accelerator.prepare_model(bridge, device_placement=False, evaluation_mode=True))

    @property
    def draws(self) -> bool:
        """Whether this process takes part in drawing: a sharded part draws only where all do."""
        return self.accelerator.is_main_process or bool(self.sharded)

    def check(self, stop: Stop) -> Callable[..., None]:
        """stop.check for drawing; where all draw, they leave it at the same place."""
        if not self.sharded:
            return stop.check

        def agreed(*_: object) -> None:
            told = torch.tensor([stop.interrupted, stop.terminated], dtype=torch.float32, device=self.accelerator.device)
            stop.agree(*(self.accelerator.reduce(told, "sum") > 0).tolist())
            stop.check()

        return agreed


def join(recipe: Recipe) -> Topology:
    """Meet the processes that were started together."""
    settings = recipe.train
    mode, said = heed(settings, os.environ)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        if missing := [name for name in ADDRESS if name not in os.environ]:
            raise UserError(
                f"WORLD_SIZE={processes}, but {missing[0]} is not set; start the processes with torchrun, accelerate launch or --processes"
            )
        if not torch.accelerator.is_available():
            os.environ["ACCELERATE_USE_CPU"] = "true"  # else each would train alone, and say nothing
    # the first PartialState decides for the whole process, so it is asked for as Accelerator would
    device = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")).device
    precision = usable(settings.precision, device)
    if precision != settings.precision:
        said.append(f"train.precision: this CPU only emulates {settings.precision}, slower than {precision}; using {precision}")
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bfloat16" else "no")
    if accelerator.num_processes < processes:
        raise UserError(
            f"WORLD_SIZE={processes}, but accelerate found {accelerator.num_processes} "
            f"({accelerator.distributed_type.value}) on {device.type}; start with torchrun, accelerate launch or --processes"
        )
    if mode != "none" and accelerator.num_processes == 1:
        said.append(f"train.shard: {mode} has no effect with one process")
        mode = "none"
    if mode != "none" and recipe.log.benchmark != "none":
        raise UserError(
            f"log.benchmark: {recipe.log.benchmark} given, but it is drawn by one process alone, which cannot with train.shard: {mode}; "
            "leave one of them out"
        )
    return Topology(accelerator, precision, PARTS[mode], tuple(said))


def taken(environ: MutableMapping[str, str], name: str) -> bool:
    """Whether the launcher asks for it. From then on only we know: not accelerate, but still the next stage of a recipe."""
    own = f"METABRIDGE_{name}"
    if name in environ:
        environ[own] = environ.pop(name)
    return asks(environ, own)


def heed(settings: Train, environ: MutableMapping[str, str]) -> tuple[str, list[str]]:
    """What accelerate's launcher asks for in the environment, in our words: what to shard, and lines that say so.

    Its FSDP and DeepSpeed would take over the model and the optimizer, and with them exact resume; what they save is had by train.shard.
    """
    agree_on_precision(environ.get("ACCELERATE_MIXED_PRECISION", "no"), "accelerate's config", settings)
    agree_on_accumulation(environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None), "accelerate's config", settings)
    for name, words in (("MEGATRON_LM", "Megatron-LM"), ("PARALLELISM_CONFIG", "a parallelism config")):
        if asks(environ, f"ACCELERATE_USE_{name}"):
            raise UserError(f"accelerate's config asks for {words}, which is not offered; use MULTI_GPU, FSDP or DeepSpeed in it")
    if environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise UserError("accelerate's config asks for dynamo, which is not offered for the whole bridge; use hand.compile: true")
    wanted = "none"
    if taken(environ, "ACCELERATE_USE_FSDP"):
        strategy = environ.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD")
        whole = strategy in WHOLE if environ.get("FSDP_VERSION", "1") == "1" else False
        wanted, words = "none" if whole else "both", "FSDP" + (f" ({strategy})" if whole else "")
        offloads = asks(environ, "FSDP_OFFLOAD_PARAMS")
    elif taken(environ, "ACCELERATE_USE_DEEPSPEED"):
        config = deepspeed(environ, settings)
        wanted, words, offloads = "both" if config.stage == 3 else "none", f"DeepSpeed ZeRO-{config.stage}", config.offloads
    else:
        return settings.shard, []
    if settings.shard != "none":
        return settings.shard, [f"accelerate's config asks for {words}: train.shard: {settings.shard} is what counts"]
    said = [f"accelerate's config asks for {words}: taken as train.shard: {wanted}; what is trained is replicated under DDP"]
    return wanted, said + ["its offload to the CPU is not taken over"] * offloads


@dataclass(frozen=True)
class DeepSpeed:
    stage: int
    offloads: bool


def deepspeed(environ: Mapping[str, str], settings: Train) -> DeepSpeed:
    """ZeRO's stage, from the launcher's words or the config file that they name; what contradicts the recipe is refused."""
    stage = environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    offloads = [environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{part}_DEVICE", "none") for part in ("PARAM", "OPTIMIZER")]
    if path := environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        try:
            tree: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            zero = tree.get("zero_optimization", {})
            stage, offloads = (
                zero.get("stage", 0),
                [zero.get(f"offload_{part}", {}).get("device", "none") for part in ("param", "optimizer")],
            )
            precisions = [word for word in ("fp16", "bf16") if tree.get(word, {}).get("enabled") is True]
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"DeepSpeed config {path}: cannot be read ({error}); give the JSON file that accelerate's config names"
            ) from error
        agree_on_precision(precisions[0] if precisions else "no", path, settings)
        agree_on_accumulation(tree.get("gradient_accumulation_steps"), path, settings)
    return DeepSpeed(int(stage), any(device != "none" for device in offloads))


def agree_on_precision(word: str, where: str, settings: Train) -> None:
    """ "no" is also what accelerate writes where nothing was chosen: then the recipe decides."""
    if word != "no" and MIXED.get(word) != settings.precision:
        raise UserError(
            f"{where} asks for mixed precision {word}, but train.precision is {settings.precision}; set one of them to the other's, "
            "or leave it out of the config (offered: bf16 with train.precision=bfloat16)"
        )


def agree_on_accumulation(word: object, where: str, settings: Train) -> None:
    """1 is also what is written where nothing was chosen."""
    if word not in (None, 1, "1", "auto", str(settings.grad_accum), settings.grad_accum):
        raise UserError(f"{where} asks for {word} accumulated parts of a step, but train.grad_accum is {settings.grad_accum}; use the same")


def asks(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "false").lower() in ("1", "true", "yes")
