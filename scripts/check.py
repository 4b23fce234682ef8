"""`metabridge check`: what will be trained, what memory it takes, what the hand is told, and whether a gradient arrives where it should."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.training import recipes

if TYPE_CHECKING:
    from metabridge.bridge.interfaces import Condition
    from metabridge.bridge.model import Bridge
    from metabridge.training.data import Mixture

ROWS = 4  # of the trial step
PROMPTS = 8  # looked at for the conditioning


def check_command(what: str, overrides: Sequence[str], shapes_only: bool = False, processes: int = 1) -> None:
    console = Console(highlight=False)
    if recipes.is_file(what) or (what in recipes.names() and not Path(what).is_dir()):
        recipe = Recipe.load(recipes.find(what), overrides)
        console.print(f"recipe {recipes.find(what)}", soft_wrap=True)
        if shapes_only:
            from metabridge.scripts.check_shapes import shapes_report

            for run in recipe.runs():
                shapes_report(run, console, processes)
            return
        from metabridge.adapters import assemble
        from metabridge.scripts.quiet import quiet

        quiet()
        for run in recipe.runs():
            report(run, assemble(run), console, trained=False, processes=processes)
    else:
        if overrides:
            raise UserError(f"{overrides[0]}: a trained bridge has its settings already; give key=value with a recipe only")
        if shapes_only:
            raise UserError(f"--shapes-only: {what} is a bridge, with weights; give a recipe, or leave the option out")
        recipe, bridge = load_trained(what, console)
        report(recipe, bridge, console, trained=True, processes=processes)


def load_trained(what: str, console: Console) -> tuple[Recipe, Bridge]:
    from metabridge.adapters import find_bridge, load_pipeline
    from metabridge.bridge.artifact import read_artifact
    from metabridge.scripts.quiet import quiet

    quiet()
    folder = find_bridge(what)
    console.print(f"bridge {folder}", soft_wrap=True)
    return read_artifact(folder).recipe, load_pipeline(folder, name=what).bridge


def report(recipe: Recipe, bridge: Bridge, console: Console, trained: bool, processes: int = 1) -> None:
    from metabridge.training.data import Mixture
    from metabridge.training.plan import memory_table, parameter_table

    mixture = Mixture(recipe, bridge.hand)
    console.print(recipe.dump(), markup=False, soft_wrap=True)
    console.print(parameter_table(bridge))
    console.print(memory_table(recipe, bridge, processes))
    console.print(shape_table(bridge))
    if prompts := mixture.prompts(PROMPTS):
        console.print(conditioning_table(bridge, prompts))
    else:
        console.print("conditioning: not looked at, no row of the data comes without a picture")
    console.print(listening(recipe, bridge, mixture, trained), soft_wrap=True, markup=False)
    loss = trial_step(bridge, mixture)
    console.print(
        f"a trial step on {ROWS} rows: loss {loss:.4f}; a gradient reaches everything that is trained, and nothing that is frozen"
    )


def shape_table(bridge: Bridge) -> Table:
    settings, brain, hand = bridge.settings, bridge.brain, bridge.hand
    height, width = hand.default_size
    table = Table("what", "shape")
    table.add_row("queries read through the brain", f"[{settings.queries}, {brain.width}]")
    taps = ", ".join("final norm" if tap == -1 else f"layer {tap} of {brain.num_layers}" for tap in settings.taps)
    table.add_row("hidden states at " + taps, f"[{settings.queries}, {brain.width * len(settings.taps)}]", end_section=True)
    table.add_row("conditioning of the hand", f"[{settings.queries}, {hand.width}]")
    table.add_row("pooled conditioning", f"[{hand.pooled_width}]" if hand.pooled_width else "none")
    table.add_row(f"latents of {width} x {height} pixels", str(list(hand.latent_shape(height, width))))
    return table


def conditioning_table(bridge: Bridge, prompts: Sequence[str]) -> Table:
    """How loud the conditioning is, and how much of it depends on the prompt: 0 would draw the same for every prompt."""
    import torch

    from metabridge.bridge.interfaces import Example

    table = Table("conditioning", "RMS", "of it: prompts", title=f"What the hand is told, over {len(prompts)} prompts")
    with torch.no_grad():
        own = bridge.condition(bridge.brain.collate([Example(prompt) for prompt in prompts]))
        native = bridge.hand.describe(prompts)
    table.add_row("this bridge", *shown(own))
    if native is not None:
        table.add_row("the hand's own text encoder", *shown(native))
    return table


def shown(condition: Condition) -> tuple[str, str]:
    """RMS, and the share of it that is the difference between prompts."""
    import torch

    from metabridge.training.diagnostics import loudness, statistics

    if not bool(torch.isfinite(condition.embeds).all()):
        raise UserError("conditioning: not finite; the brain's weights or dtype are damaged, load them in float32")
    rms, spread = loudness(statistics(condition))
    return f"{rms:.3f}", f"{100 * spread:.1f} %"


def listening(recipe: Recipe, bridge: Bridge, mixture: Mixture, trained: bool) -> str:
    """Whether the hand draws what it is told; of a bridge that has been trained, with a warning."""
    from metabridge.training.diagnostics import diagnose, fixed_pairs, warning
    from metabridge.training.loader import Share

    pairs = fixed_pairs(recipe, mixture, bridge, Share(ROWS, 1))
    if pairs is None:
        return "whether the hand listens: not looked at, the data has too few different prompts"
    found = diagnose(bridge, pairs)
    line = (
        f"whether the hand listens, over {pairs.total} rows: shuffled against right prompts, the loss differs by {found.shuffle_gap:+.1%} "
        f"of their sum (standard error {found.shuffle_error:.1%}); without a prompt, the prediction by {found.null_gap:.1%}"
    )
    return f"{line}\nwarning: {warning(found, recipe)}" if trained and found.ignored else line


def trial_step(bridge: Bridge, mixture: Mixture) -> float:
    """One forward and backward; refused if the loss is not finite or the gradient goes elsewhere than it should."""
    import torch

    from metabridge.training.loader import load

    loss = bridge(load(mixture, bridge.brain.collate, 0, range(min(ROWS, mixture.batch_size))).batch).mean()
    if not bool(torch.isfinite(loss)):
        raise UserError(f"trial step: the loss is {loss.item()}; check the dtypes of brain and hand")
    loss.backward()
    deaf = [name for name, parameter in bridge.named_parameters() if parameter.requires_grad and parameter.grad is None]
    moved = [name for name, parameter in bridge.named_parameters() if not parameter.requires_grad and parameter.grad is not None]
    if deaf or moved:
        raise UserError(
            f"trial step: {(deaf + moved)[0]} {'is trained but gets no' if deaf else 'is frozen but gets a'} gradient; report this"
        )
    return float(loss.item())
