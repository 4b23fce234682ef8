"""One route of `metabridge bench`, measured in a process of its own; what it finds goes to stdout, a JSON object a line."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from metabridge.adapters import assemble
from metabridge.adapters.brains.auto import AutoBrain
from metabridge.adapters.mllama import MllamaBrain
from metabridge.bridge.attention import fastest_attention
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Brain, Inputs, Memory
from metabridge.bridge.model import Batch, Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.bench import Job
from metabridge.scripts.quiet import quiet
from metabridge.training.data import Mixture
from metabridge.training.loader import Share, load
from metabridge.training.optim import adamw
from metabridge.training.precision import usable

Step = Callable[[], Tensor]  # one training step; returns its loss
MATRIX = {"cpu": 2048, "cuda": 8192}  # side of the matrices whose product is the machine's rate
KINDS = {  # torch's operators -> what is counted together; products with weights are mm, those between activations bmm
    "weights": ("mm", "addmm", "_scaled_mm"),
    "convolutions": ("convolution", "_convolution", "cudnn_convolution", "convolution_overrideable", "convolution_backward"),
}
FUSED_ON_CPU = {  # which torch's counter does not know
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
}


class FullSequence(Brain):
    """The usual route: one forward over [prompt | queries], all of it in the graph. `read` only keeps the inputs."""

    def __init__(self, brain: AutoBrain, checkpointing: bool) -> None:
        super().__init__()
        self.brain = brain
        if checkpointing:
            brain.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            brain.model.disable_input_require_grads()  # the queries have a gradient already; the prompt's embeddings need none
            for layer in brain.text.layers:
                layer.training = True  # of this module alone: it asks for the recomputation, and what is inside it drops nothing

    def read(self, inputs: Inputs, memory: Memory | None = None, depth: int | None = None) -> Memory:
        device, dtype = self.brain.text.device, self.brain.text.dtype
        inputs = {name: x.to(device, dtype if x.is_floating_point() else x.dtype) for name, x in inputs.items()}
        mask = inputs.pop("attention_mask")
        return Memory(inputs, mask, mask.sum(dim=1), None)

    def query(self, memory: Memory, queries: Tensor, taps: Sequence[int]) -> Tensor:
        brain, inputs, count = self.brain, dict(memory.cache), len(queries)
        positions, first = brain._positions(inputs, memory.mask)
        own = first[:, None] + torch.arange(count, device=first.device)
        if positions.dim() == 3:  # M-RoPE
            own = own.expand(3, -1, -1)
        inputs["input_ids"] = F.pad(inputs["input_ids"], (0, count), value=brain.filler)
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = F.pad(inputs["mm_token_type_ids"], (0, count))
        context = brain._context(F.pad(memory.mask, (0, count), value=1), torch.cat([positions, own], dim=-1), None)
        layers = {tap: brain._layer_of(tap) for tap in taps if tap != -1}

        def put_queries(module: Any, args: Any, output: Tensor) -> Tensor:
            return torch.cat([output[:, :-count], queries.to(output.dtype).expand(len(output), -1, -1)], dim=1)

        hook = brain.base.get_input_embeddings().register_forward_hook(put_queries)
        try:
            with brain._outputs(set(layers.values())) as outputs:
                state = brain.base(**inputs, **(context | {"use_cache": False})).last_hidden_state
        finally:
            hook.remove()
        tapped = [state if tap == -1 else F.rms_norm(outputs[layers[tap]], (brain.width,)) for tap in taps]
        return torch.cat([states[:, -count:] for states in tapped], dim=-1)


class Meter:
    """Memory above what the process held when this was made: all of it on Linux, tensors on CUDA. None where the system does not say."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.base: int | None = None
        if self.start_anew():
            self.base = torch.cuda.memory_allocated(device) if device.type == "cuda" else resident("VmRSS")

    def start_anew(self) -> bool:
        """Forget the peak so far; False where that cannot be done."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return True
        if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # memory that was freed but is kept for later would hide what a step needs
        try:  # the peak of getrusage starts from the parent's and stays
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return False
        return True

    def above(self) -> int | None:
        if self.base is None:
            return None
        return (torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else resident("VmHWM")) - self.base


def resident(what: str) -> int:
    """A line of Linux' /proc/self/status, in bytes: VmRSS = now, VmHWM = the most there was."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def clocks(device: torch.device) -> tuple[float, float]:
    """Seconds on the wall, and of this process's threads on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def elapsed(step: Callable[[], Any], device: torch.device) -> tuple[float, float, Any]:
    wall, cpu = clocks(device)
    made = step()
    wall_after, cpu_after = clocks(device)
    return wall_after - wall, cpu_after - cpu, made


def matmul_rate(dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """FLOP per second of one large product: what this machine can do now. The best of three."""
    side = MATRIX[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    times = [elapsed(lambda: torch.mm(left, right), device)[:2] for _ in range(3)]
    return {name: 2 * side**3 / min(column) for name, column in zip(("wall", "cpu"), zip(*times, strict=True), strict=True)}


def counted(step: Step) -> dict[str, int]:
    """FLOPs of one step as it runs, forward and backward, by kind."""
    with FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU) as counter:
        step()
    found = {str(operator).removeprefix("aten."): flops for operator, flops in counter.get_flop_counts()["Global"].items()}
    kinds = {kind: sum(found.pop(name, 0) for name in names) for kind, names in KINDS.items()}
    return kinds | {"attention": sum(found.values())}


def measured(name: str, step: Step, job: Job, queries: Tensor, meter: Meter, say: Callable[..., None]) -> dict[str, Any]:
    say(progress=f"{name}: warm-up")
    flops = counted(step)
    meter.start_anew()
    rows = []
    for k in range(job.steps):
        say(progress=f"{name}: step {k + 1} of {job.steps}")
        rows.append(elapsed(step, meter.device))
    assert queries.grad is not None
    np.save(job.gradient(name), queries.grad.detach().double().cpu().numpy())
    return {
        "wall_s": statistics.median(row[0] for row in rows),
        "cpu_s": statistics.median(row[1] for row in rows),
        "memory_bytes": meter.above(),
        "loss": rows[-1][2].item(),
        "flops": flops,
    }


def the_batch(recipe: Recipe, bridge: Bridge, prompt_tokens: int | None) -> Batch:
    """The first micro-batch of the training; with `prompt_tokens`, every prompt in it so many tokens drawn at random."""
    share = Share(recipe.train.batch_size, recipe.train.grad_accum)
    batch = load(Mixture(recipe, bridge.hand), bridge.brain.collate, 0, share.rows(0)).batch
    if prompt_tokens is None:
        return batch.to(bridge.device)
    tokenizer = bridge.brain.collate.tokenizer  # type: ignore[attr-defined]
    ordinary = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.added_tokens_decoder)))
    chosen = torch.randint(len(ordinary), (len(batch.noise_seeds), prompt_tokens), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ordinary[chosen], "attention_mask": torch.ones_like(chosen)}
    return Batch((inputs,), batch.pixels, batch.noise_seeds, batch.captions).to(bridge.device)


def steps(recipe: Recipe, bridge: Bridge, batch: Batch, precision: str) -> dict[str, Step]:
    """The brain's part of a step, and the whole of it. The learning rate is 0, so that every step is the same one."""

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast(bridge.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    weight: Tensor | None = None

    def brain() -> Tensor:
        nonlocal weight
        bridge.queries.grad = None
        with autocast():
            hidden = bridge.look(batch)
        hidden = hidden.to(bridge.queries.dtype)
        if weight is None:
            weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1)).to(hidden)
        loss = (hidden * weight).mean()
        loss.backward()
        return loss.detach()

    optimizer = adamw(bridge, recipe.train)
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def whole() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            loss: Tensor = bridge(batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(bridge.trained().values(), recipe.train.clip or float("inf"))
        optimizer.step()
        return loss.detach()

    return {"brain": brain, "step": whole}


def coarsest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """What bounds the agreement of two routes."""
    return max((dtype for dtype in dtypes if dtype.is_floating_point), key=lambda dtype: torch.finfo(dtype).eps)


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def run(job: Job, say: Callable[..., None]) -> None:
    recipe = Recipe.from_dict(job.recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quiet()
    say(progress="loading")
    bridge = assemble(recipe, str(device))
    if not isinstance(brain := bridge.brain, AutoBrain) or isinstance(brain, MllamaBrain):
        raise UserError(
            f"brain.name: {recipe.brain.name} given, which has no full-sequence route to stand beside; bench takes auto alone, mllama apart"
        )
    precision = usable(recipe.train.precision, device)
    if precision == "float64":
        bridge.double()
    dtype = torch.bfloat16 if precision == "bfloat16" else brain.text.dtype
    batch = the_batch(recipe, bridge, job.prompt_tokens)
    if recipe.objective.distill:
        bridge.hand.describe([""])  # its text encoder is a part of the model
    if job.route != "cached":
        bridge.brain = FullSequence(brain, checkpointing=job.route == "checkpointed")
    say(progress="the machine's rate")
    rate = matmul_rate(dtype, device)
    meter = Meter(device)
    parts = steps(recipe, bridge, batch, precision)
    masks = [inputs["attention_mask"] for inputs in batch.inputs]
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": named(dtype),
        "coarsest_dtype": {"brain": named(dtype), "step": named(coarsest([dtype, *(p.dtype for p in bridge.parameters())]))},
        "model_bytes": meter.base,
        "matmul_flops_per_s": rate,
        "batch": sum(map(len, masks)),
        "prompt_tokens": max(mask.shape[1] for mask in masks),
        "real_prompt_tokens": sum(int(mask.sum()) for mask in masks),
        "queries": len(bridge.queries),
        "layers": brain.num_layers,
        "depth": bridge.depth or brain.num_layers,
        "decoder_parameters": sum(p.numel() for p in brain.text.layers.parameters()),
    }
    # The kernel is chosen in the forward pass, but checkpointing runs that again during backward.
    with fastest_attention(device) if job.attention == "training" else nullcontext():
        for name in ("brain",) if job.brain_only else ("brain", "step"):
            found[name] = measured(name, parts[name], job, bridge.queries, meter, say)
    say(result=found)


def main() -> None:
    logging.basicConfig(format="metabridge: %(message)s")
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no result
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    say = partial(_say, channel)
    try:
        run(Job(**json.loads(sys.argv[1])), say)
    except UserError as error:
        say(error=" ".join(str(error).split()))
        sys.exit(2)


def _end_with_the_parent() -> None:
    """stdin ends when the parent does, killed or not."""
    os.read(0, 1)
    os._exit(1)


def _say(channel: TextIO, **told: Any) -> None:
    print(json.dumps(told), file=channel, flush=True)


if __name__ == "__main__":
    main()
