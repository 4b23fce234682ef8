"""The stages of a recipe: what each changes, laid over the rest, and what may not change between them. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import index_of, refuse_unknown, text_of

if TYPE_CHECKING:
    from metabridge.bridge.recipe import Recipe

CHANGEABLE = ("name", "brain", "hand", "connector", "objective", "data", "train", "log")
BASE = ("name", "repo", "revision", "dtype", "weights")  # options of brain and hand that make another base


@dataclass(frozen=True)
class Stage:
    name: str  # of its folder too
    changes: dict[str, Any] = field(default_factory=dict)  # nested as a recipe is


def read_stages(tree: object) -> tuple[Stage, ...]:
    example = "[{name: connector}, {name: lora, hand: {train: lora}}]"
    if not isinstance(tree, Sequence) or isinstance(tree, str) or not tree:
        raise UserError(f"stages: give a list of stages, as {example}")
    stages = []
    for index, row in enumerate(tree):
        where = f"stages.{index}"
        if not isinstance(row, Mapping) or "name" not in row:
            raise UserError(f"{where}: give a mapping with a name, as in {example}")
        name = text_of(row["name"], f"{where}.name")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise UserError(f"{where}.name: {name!r} given; it names a folder, write it in letters, digits, - and _")
        changes = nested({key: value for key, value in row.items() if key != "name"}, where)
        refuse_unknown(changes, CHANGEABLE, where)
        stages.append(Stage(name, changes))
    return tuple(stages)


def nested(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """{"train.lr": 1e-4, "train": {"steps": 200}} -> {"train": {"lr": 1e-4, "steps": 200}}."""
    tree: dict[str, Any] = {}
    for key, value in row.items():
        _put(tree, str(key), value, where)
    return tree


def laid_over(base: Any, changes: Any, where: str) -> Any:
    """Mappings key by key, rows of a list by their number (data.0.weight), anything else as a whole."""
    if isinstance(base, Mapping) and changes is None:  # a section with nothing in it
        return base
    if isinstance(base, list) and isinstance(changes, Mapping):
        rows = list(base)
        for key, value in changes.items():
            row = index_of(rows, key, where)
            rows[row] = laid_over(rows[row], value, f"{where}.{key}")
        return rows
    if isinstance(base, Mapping) and isinstance(changes, Mapping):
        return {**base, **{key: laid_over(base.get(key), value, f"{where}.{key}") for key, value in changes.items()}}
    return changes


def check_chain(runs: Sequence[Recipe]) -> None:
    """Each stage begins with what the one before it trained: same base, same connector, and nothing trained is left behind."""
    first = runs[0]
    for index, run in enumerate(runs[1:], start=1):
        if run.connector != first.connector:
            raise UserError(f"stages.{index}.connector: stages hand one connector on, it cannot change; set it for the whole recipe")
        for kind, begun, now in (("brain", first.brain, run.brain), ("hand", first.hand, run.hand)):
            before, after = {"name": begun.name, **begun.options}, {"name": now.name, **now.options}
            for key in BASE:
                if before.get(key) != after.get(key):
                    raise UserError(
                        f"stages.{index}.{kind}.{key}: {after.get(key, 'nothing')} given, but the first stage has "
                        f"{before.get(key, 'nothing')}; stages train one bridge on one base"
                    )
        before, after = (trained_part(recipe) for recipe in (runs[index - 1], run))
        for key, value in before.items():
            if after.get(key) != value:
                raise UserError(
                    f"stages.{index}.hand.{key}: {after.get(key, 'nothing')} given, but the stage before trained the hand with "
                    f"{value}; its weights go on only with hand.{key}={value}"
                )


def trained_part(recipe: Recipe) -> dict[str, Any]:
    """What of the hand a run trains, as its options say; {} where it trains nothing of it."""
    options = recipe.hand.options
    keys = ("references",) if options.get("train", "none") == "none" else ("train", "lora_rank", "references")
    return {key: options[key] for key in keys if options.get(key)}


def _put(tree: dict[str, Any], path: str, value: Any, where: str) -> None:
    key, _, rest = path.partition(".")
    if rest:
        value = {rest: value}
    if not isinstance(value, Mapping):
        if key in tree:
            raise UserError(f"{where}.{key}: given twice; give it once")
        tree[key] = value
        return
    below = tree.setdefault(key, {})
    if not isinstance(below, dict):
        raise UserError(f"{where}.{key}: given twice; give it once")
    for name, inner in value.items():
        _put(below, str(name), inner, f"{where}.{key}")
