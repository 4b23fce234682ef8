"""What a run is made of: defaults < YAML < dotted overrides, each checked. Imports no torch, so that a typo answers at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import kind_of, override, plain, read_yaml, refuse_unknown, section, text_of
from metabridge.bridge.settings import Connector, Log, Objective, Part, Source, Train
from metabridge.bridge.stages import Stage, check_chain, laid_over, nested, read_stages


@dataclass(frozen=True)
class Recipe:
    name: str
    brain: Part
    hand: Part
    connector: Connector
    objective: Objective
    data: tuple[Source, ...]
    train: Train
    log: Log
    init: str | None = None  # the bridge whose weights it starts from
    stages: tuple[Stage, ...] = ()

    @staticmethod
    def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe file; its name is the file's unless it gives one."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"recipe {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        return Recipe.parse(text, overrides, where=str(path), name=Path(path).stem)

    @staticmethod
    def parse(text: str, overrides: Sequence[str] = (), *, where: str = "recipe", name: str = "recipe") -> Recipe:
        tree = read_yaml(text, where)
        if not isinstance(tree, dict):
            raise UserError(f"{where}: a recipe is a mapping with the keys {', '.join(_SECTIONS)}; this is {kind_of(tree)}")
        if isinstance(rows := tree.get("stages"), list):  # dotted keys first, so that an override finds what the file says
            tree["stages"] = [nested(row, f"stages.{index}") if isinstance(row, dict) else row for index, row in enumerate(rows)]
        for given in overrides:
            override(tree, given)
        return Recipe.from_dict({"name": name} | tree)

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> Recipe:
        refuse_unknown(tree, _SECTIONS, "")
        if missing := [key for key in ("name", "brain", "hand", "data") if key not in tree]:
            raise UserError(f"{missing[0]}: missing; a recipe needs name, brain, hand and data")
        recipe = Recipe(
            name=text_of(tree["name"], "name"),
            brain=_part(tree["brain"], "brain"),
            hand=_part(tree["hand"], "hand"),
            connector=section(Connector, tree.get("connector"), "connector"),
            objective=section(Objective, tree.get("objective"), "objective"),
            data=_sources(tree["data"]),
            train=section(Train, tree.get("train"), "train"),
            log=section(Log, tree.get("log"), "log"),
            init=None if tree.get("init") is None else text_of(tree["init"], "init"),
            stages=() if tree.get("stages") is None else read_stages(tree["stages"]),
        )
        recipe._check()
        check_chain(recipe.runs())
        return recipe

    def runs(self) -> tuple[Recipe, ...]:
        """A recipe for each stage, in order; without stages the recipe itself."""
        if not self.stages:
            return (self,)
        base = dataclasses.replace(self, stages=(), init=None).to_dict()
        found = []
        for index, stage in enumerate(self.stages):
            # with the seed of the stage before, it would begin with that stage's first rows and noise again
            rest = laid_over(base, {"name": f"{self.name}-{stage.name}", "train": {"seed": self.train.seed + index}}, "")
            try:
                found.append(Recipe.from_dict(laid_over(rest, stage.changes, f"stages.{index}")))
            except UserError as error:
                raise UserError(str(error) if str(error).startswith("stages.") else f"stages.{index}.{error}") from error
        return (dataclasses.replace(found[0], init=self.init), *found[1:])

    @property
    def thinks(self) -> bool:
        """Whether any source has rows that are read with a thought; sources may have rates of their own."""
        return any(source.weight and source.options.get("think", self.objective.think) for source in self.data)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, every setting spelled out; from_dict gives the same recipe back."""
        tree: dict[str, Any] = {"name": self.name}
        for key in ("brain", "hand"):
            part: Part = getattr(self, key)
            tree[key] = {"name": part.name, **part.options}
        for key in ("connector", "objective"):
            tree[key] = plain(dataclasses.asdict(getattr(self, key)))
        tree["data"] = [{"source": s.source, "task": s.task, "weight": s.weight, **s.options} for s in self.data]
        for key in ("train", "log"):
            tree[key] = plain(dataclasses.asdict(getattr(self, key)))
        if self.init is not None:
            tree["init"] = self.init
        if self.stages:
            tree["stages"] = [{"name": stage.name, **stage.changes} for stage in self.stages]
        return tree

    def dump(self) -> str:
        """The resolved recipe as YAML, a line per section and stage."""
        tree = self.to_dict()
        stages = tree.pop("stages", [])
        lines = [f"{key + ':':<11}{_in_a_line(value)}" for key, value in tree.items()]
        lines += ["stages:"] * bool(stages) + [f"  - {_in_a_line(stage)}" for stage in stages]
        return "".join(f"{line}\n" for line in lines)

    def _check(self) -> None:
        """What concerns two settings at once."""
        if self.connector.layers and self.connector.width % self.connector.heads:
            raise UserError(f"connector: width {self.connector.width} is no multiple of heads {self.connector.heads}; change one of them")
        if self.connector.layers and self.connector.width // self.connector.heads % 2:
            raise UserError(
                f"connector: width / heads is {self.connector.width // self.connector.heads}, but RoPE needs it even; change one of them"
            )
        if not self.connector.taps or any(tap == 0 or tap < -1 for tap in self.connector.taps):
            raise UserError(f"connector.taps: {list(self.connector.taps)} given; a tap is a layer from 1 on, or -1 for the final norm")
        if (total := self.objective.drop_text + self.objective.drop_image + self.objective.drop_both) > 1:
            raise UserError(
                f"objective: drop_text + drop_image + drop_both is {total:g}; they are shares of the rows and may sum to 1 at most"
            )
        if not sum(source.weight for source in self.data):
            raise UserError("data: every weight is 0; give one source a weight above 0")
        if self.train.batch_size % self.train.grad_accum:
            raise UserError(f"train: batch_size {self.train.batch_size} (global) does not divide by grad_accum {self.train.grad_accum}")


_SECTIONS = tuple(f.name for f in fields(Recipe))


def _in_a_line(value: object) -> str:
    return yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=math.inf).strip()[1:-1]


def _part(tree: object, where: str) -> Part:
    if not isinstance(tree, Mapping) or "name" not in tree:
        raise UserError(f"{where}: give a mapping with a name, as {{name: {'auto' if where == 'brain' else 'sana'}, repo: ...}}")
    options = {str(key): value for key, value in tree.items() if key != "name"}
    return Part(text_of(tree["name"], f"{where}.name"), options)


def _sources(tree: object) -> tuple[Source, ...]:
    if not isinstance(tree, Sequence) or isinstance(tree, str) or not tree:
        raise UserError("data: give a list of sources, as [{source: flatland, task: t2i, weight: 1.0}]")
    sources = []
    for index, row in enumerate(tree):
        where = f"data.{index}"
        if not isinstance(row, Mapping) or "source" not in row:
            raise UserError(f"{where}: give a mapping with a source, as {{source: flatland, task: t2i, weight: 1.0}}")
        own = {key: row[key] for key in ("task", "weight") if key in row}
        checked: Source = section(Source, {"source": row["source"], **own}, where)
        options = {str(key): value for key, value in row.items() if key not in ("source", "task", "weight")}
        sources.append(dataclasses.replace(checked, options=options))
    return tuple(sources)
