"""`metabridge check --shapes-only`: the whole bridge on torch's meta device, from configs alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.check import shape_table

if TYPE_CHECKING:
    from torch import Tensor

    from metabridge.bridge.interfaces import Condition, Hand
    from metabridge.bridge.model import Bridge

PROMPT = 32  # tokens of the prompt that is run
SIDE = 512  # pixels of the picture whose tokens are counted
VALUES_ASKED = ("meta tensor", "device meta")  # in torch's words: for a number, or of a tensor that is made of numbers


def shapes_report(recipe: Recipe, console: Console, processes: int = 1) -> None:
    from metabridge.adapters import assemble
    from metabridge.adapters.skeleton import without_weights
    from metabridge.scripts.quiet import quiet
    from metabridge.training.plan import memory_table, parameter_table

    quiet()
    undistilled = dataclasses.replace(recipe.objective, distill=0.0)  # a teacher is a text encoder, which is not built
    with without_weights():
        bridge = assemble(dataclasses.replace(recipe, objective=undistilled, init=None), "meta", scale=1.0)
        tokens = token_table(bridge)
    console.print(recipe.dump(), markup=False, soft_wrap=True)
    for name, part in (("brain", bridge.brain), ("hand", bridge.hand)):
        repo = part.identity["repo"]
        console.print(f"{name} {repo}: {origin(repo)}", markup=False, soft_wrap=True)
    console.print(parameter_table(bridge))
    console.print(memory_table(recipe, bridge, processes))
    console.print(shape_table(bridge))
    console.print(tokens)
    unrun = run(bridge)
    console.print("run on shapes: everything fits" + (f"; not run, which would need values: {', '.join(unrun)}" if unrun else ""))
    console.print("not looked at: the data, a trial step, the hand's text encoder (its memory, its scale, distillation)")


def origin(repo: str) -> str:
    """Where a shape comes from, and what of it no public source confirms."""
    from metabridge.adapters.skeleton import shape
    from metabridge.bridge.artifact import is_local

    known = None if is_local(repo) else shape(repo)
    if known is None:
        return "the configs in that folder"
    unconfirmed = "; ".join(known.unconfirmed) or "nothing"
    return f"configs as public sources have them (named in adapters/shapes); unconfirmed: {unconfirmed}"


def token_table(bridge: Bridge) -> Table:
    from metabridge.adapters.brains.auto import AutoBrain
    from metabridge.adapters.pictures import fitted_size
    from metabridge.adapters.skeleton import picture_tokens

    picture = None
    if isinstance(bridge.brain, AutoBrain):
        collate = bridge.brain.collate
        picture = picture_tokens(collate.path, *fitted_size(SIDE, SIDE, collate.max_pixels), collate.trust_remote_code)
    table = Table("tokens in the brain", "")
    table.add_row("queries", str(bridge.settings.queries))
    table.add_row(f"one picture of {SIDE} x {SIDE} pixels", "not known" if picture is None else str(picture))
    table.add_row("prompt, pictures, thought and queries at most", str(bridge.brain.max_tokens))
    return table


def run(bridge: Bridge) -> list[str]:
    """Tensors without values from a prompt to pixels. What does not fit is refused; named is what could not be run so."""
    import torch

    from metabridge.adapters.brains.auto import AutoBrain
    from metabridge.bridge.diffusion import DiffusionHand

    unrun: list[str] = []
    with torch.no_grad(), torch.device("meta"):
        hidden = attempt("brain", lambda: read_and_query(bridge), unrun, isinstance(bridge.brain, AutoBrain))
        if hidden is None:
            hidden = torch.empty(1, bridge.settings.queries, bridge.brain.width * len(bridge.taps))
        condition: Condition = bridge.connector(hidden)
        latents = attempt("autoencoder", lambda: there_and_back(bridge.hand), unrun)
        if latents is None:
            latents = torch.empty(1, *bridge.hand.latent_shape(*bridge.hand.default_size))
        attempt("denoiser", lambda: denoise(bridge.hand, latents, condition), unrun, isinstance(bridge.hand, DiffusionHand))
    return unrun


def attempt(name: str, stage: Callable[[], Tensor], unrun: list[str], possible: bool = True) -> Tensor | None:
    """`possible`: False of a third party's kind of part, of which only it knows what it takes."""
    if not possible:
        unrun.append(name)
        return None
    try:
        return stage()
    except UserError:
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = " ".join(str(error).split())
        if any(words in reason for words in VALUES_ASKED):
            unrun.append(name)
            return None
        raise UserError(f"{name}: the shapes do not fit ({reason[:200]}); its configs are damaged or not of one checkpoint") from error


def read_and_query(bridge: Bridge) -> Tensor:
    import torch

    inputs = {name: torch.ones(1, PROMPT, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    memory = bridge.brain.read(inputs, depth=bridge.depth)
    return bridge.brain.query(memory, bridge.queries, bridge.taps)


def there_and_back(hand: Hand) -> Tensor:
    """Latents of pixels, which come back as pixels."""
    import torch

    pixels = torch.empty(1, 3, *hand.default_size)
    latents = hand.encode(pixels)
    drawn = hand.decode(latents)
    if drawn.shape != pixels.shape:
        raise UserError(f"hand: its autoencoder makes {list(drawn.shape[1:])} of {list(pixels.shape[1:])}; its config is damaged")
    return latents


def denoise(hand: Any, latents: Tensor, condition: Condition) -> Tensor:
    """One prediction."""
    import torch

    timestep = torch.empty(1)
    try:
        predicted: Tensor = hand.predict(latents, timestep, condition)
    except NotImplementedError:  # a denoiser that takes captions of their own lengths asks the mask for them
        mask = torch.ones(condition.mask.shape, dtype=torch.long, device="cpu")
        predicted = hand.predict(latents, timestep, dataclasses.replace(condition, mask=mask))
    if predicted.shape != latents.shape:
        raise UserError(f"hand: its denoiser makes {list(predicted.shape[1:])} of latents {list(latents.shape[1:])}; its config is damaged")
    return predicted
