"""What a run is made of: defaults < YAML < dotted overrides, each checked. Imports no torch, so that a typo answers at once."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from metabridge.bridge.errors import UserError


def setting(default: Any, *, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A field with a default and what its value may be."""
    return field(default=default, metadata={"low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Part:
    """A brain or a hand: adapters/<kind>s/<name>.py: load(**options)."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Connector:
    queries: int = setting(16, low=1)
    taps: tuple[int, ...] = (-1,)  # k = output of decoder layer k, -1 = after the final norm
    width: int = setting(192, low=1)
    layers: int = setting(4, low=0)
    heads: int = setting(6, low=1)


@dataclass(frozen=True)
class Objective:
    name: str = setting("auto", choices=("auto", "flow", "epsilon", "v"))  # auto = what the hand predicts
    timesteps: str = setting("logit_normal", choices=("logit_normal", "uniform"))
    shift: float = setting(1.0, low=1e-3)
    distill: float = setting(0.0, low=0, high=1)  # share of the loss whose target is the hand's own prediction
    drop_text: float = setting(0.1, low=0, high=1)  # share of rows whose prompt is read as ""
    drop_image: float = setting(0.0, low=0, high=1)  # share of rows whose pictures are not read
    drop_both: float = setting(0.0, low=0, high=1)
    think: float = setting(0.0, low=0, high=1)  # share of rows read as prompt + thought


@dataclass(frozen=True)
class Source:
    """One source of rows; `weight` is its share beside the others' weights."""

    source: str
    task: str = setting("t2i", choices=("t2i", "edit", "compose", "reconstruct", "dialogue"))
    weight: float = setting(1.0, low=0)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Train:
    steps: int = setting(1000, low=1)
    batch_size: int = setting(64, low=1)  # global: over all processes and accumulation
    grad_accum: int = setting(1, low=1)
    lr: float = setting(1e-3, low=0)
    warmup: int = setting(50, low=0)
    schedule: str = setting("cosine", choices=("cosine", "constant"))
    weight_decay: float = setting(0.0, low=0)
    clip: float = setting(1.0, low=0)  # greatest norm of the gradient; 0 = no clipping
    ema: float = setting(0.999, low=0, high=0.999999)  # 0 = no EMA
    precision: str = setting("float32", choices=("float32", "bfloat16", "float64"))
    seed: int = setting(0, low=0, high=2**63 - 1)
    checkpoint_every: int = setting(500, low=0)  # 0 = at the end only


@dataclass(frozen=True)
class Log:
    wandb: str = setting("off", choices=("off", "offline", "online"))
    every: int = setting(10, low=0)  # steps between lines of metrics.jsonl; 0 = never
    sample_every: int = setting(500, low=0)  # steps between sample sheets; 0 = never
    prompts: tuple[str, ...] = ()  # of the sample sheet; none = the first prompts of the data


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
        tree = _yaml(text, where)
        if not isinstance(tree, dict):
            raise UserError(f"{where}: a recipe is a mapping with the keys {', '.join(_SECTIONS)}; this is {_kind(tree)}")
        for override in overrides:
            _override(tree, override)
        return Recipe.from_dict({"name": name} | tree)

    @staticmethod
    def from_dict(tree: Mapping[str, Any]) -> Recipe:
        _known(tree, _SECTIONS, "")
        if missing := [key for key in ("name", "brain", "hand", "data") if key not in tree]:
            raise UserError(f"{missing[0]}: missing; a recipe needs name, brain, hand and data")
        recipe = Recipe(
            name=_text(tree["name"], "name"),
            brain=_part(tree["brain"], "brain"),
            hand=_part(tree["hand"], "hand"),
            connector=_section(Connector, tree.get("connector"), "connector"),
            objective=_section(Objective, tree.get("objective"), "objective"),
            data=_sources(tree["data"]),
            train=_section(Train, tree.get("train"), "train"),
            log=_section(Log, tree.get("log"), "log"),
        )
        recipe._check()
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, every setting spelled out; from_dict gives the same recipe back."""
        tree: dict[str, Any] = {"name": self.name}
        for key in ("brain", "hand"):
            part: Part = getattr(self, key)
            tree[key] = {"name": part.name, **part.options}
        for key in ("connector", "objective"):
            tree[key] = _plain(dataclasses.asdict(getattr(self, key)))
        tree["data"] = [{"source": s.source, "task": s.task, "weight": s.weight, **s.options} for s in self.data]
        for key in ("train", "log"):
            tree[key] = _plain(dataclasses.asdict(getattr(self, key)))
        return tree

    def dump(self) -> str:
        """The resolved recipe as YAML, a line per section."""
        flow = {
            key: yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=math.inf) for key, value in self.to_dict().items()
        }
        return "".join(f"{key + ':':<11}{text.strip()[1:-1]}\n" for key, text in flow.items())

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


def unknown(key: str, known: Iterable[str], what: str = "setting") -> str:
    """The line for a name that does not exist: what was given, what it may have meant, what exists."""
    names = sorted(known)
    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], names, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{key}: no such {what}; {guess}it may be one of: {', '.join(names) or '(none)'}"


def _known(tree: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for key in tree:
        if key not in names:
            raise UserError(unknown(f"{where}.{key}" if where else str(key), names))


def _section(kind: type[Any], tree: object, where: str) -> Any:
    """A mapping -> one of the dataclasses above, each value coerced to its field's type and checked against its range."""
    if tree is None:
        return kind()
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: {_kind(tree)} given; it is a mapping of {', '.join(f.name for f in fields(kind))}")
    _known(tree, [f.name for f in fields(kind)], where)
    hints = get_type_hints(kind)
    values = {}
    for f in fields(kind):
        if f.name in tree:
            values[f.name] = _coerce(tree[f.name], hints[f.name], f"{where}.{f.name}")
            _in_range(values[f.name], f.metadata, f"{where}.{f.name}")
    return kind(**values)


def _part(tree: object, where: str) -> Part:
    if not isinstance(tree, Mapping) or "name" not in tree:
        raise UserError(f"{where}: give a mapping with a name, as {{name: {'auto' if where == 'brain' else 'sana'}, repo: ...}}")
    options = {str(key): value for key, value in tree.items() if key != "name"}
    return Part(_text(tree["name"], f"{where}.name"), options)


def _sources(tree: object) -> tuple[Source, ...]:
    if not isinstance(tree, Sequence) or isinstance(tree, str) or not tree:
        raise UserError("data: give a list of sources, as [{source: flatland, task: t2i, weight: 1.0}]")
    sources = []
    for index, row in enumerate(tree):
        where = f"data.{index}"
        if not isinstance(row, Mapping) or "source" not in row:
            raise UserError(f"{where}: give a mapping with a source, as {{source: flatland, task: t2i, weight: 1.0}}")
        own = {key: row[key] for key in ("task", "weight") if key in row}
        checked: Source = _section(Source, {"source": row["source"], **own}, where)
        options = {str(key): value for key, value in row.items() if key not in ("source", "task", "weight")}
        sources.append(dataclasses.replace(checked, options=options))
    return tuple(sources)


def _override(tree: dict[str, Any], override: str) -> None:
    """Apply `a.b=value` in place; the value is read as YAML. Unknown keys are found later, with everything else."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"override {override!r}: write key=value, as train.lr=1e-4")
    node: Any = tree
    for depth, key in enumerate(keys[:-1]):
        if isinstance(node, list):
            node = node[_index(node, key, path)]
        else:
            if node.get(key) is None:  # a section that is absent, or there with nothing in it
                node[key] = {}
            node = node[key]
        if not isinstance(node, dict | list):
            raise UserError(f"override {override!r}: {'.'.join(keys[: depth + 1])} is a value, it has no keys below it")
    value = _yaml(text, f"override {override!r}")
    if isinstance(node, list):
        node[_index(node, keys[-1], path)] = value
    else:
        node[keys[-1]] = value


def _index(node: list[Any], key: str, path: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise UserError(f"override {path}: {key!r} is no position in a list of {len(node)}; count from 0")
    return int(key)


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: no valid YAML: {' '.join(str(error).split())}") from error


def _coerce(value: object, hint: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        rows = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerce(row, get_args(hint)[0], where) for row in rows)
    if hint is str:
        if isinstance(value, bool):  # YAML reads a bare off / on as a bool
            value = "on" if value else "off"
        return _text(value, where)
    if isinstance(value, bool):
        raise UserError(f"{where}: {value} given; it is {_NAMES[hint]}")
    if hint is int and isinstance(value, int):  # not by way of float, which has 53 bits
        return value
    try:
        number = float(value)  # type: ignore[arg-type]  # PyYAML reads 1e-4 as a string
        if not math.isfinite(number) or (hint is int and number != int(number)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: {value!r} given; it is {_NAMES[hint]}") from None
    return hint(number)


_NAMES = {int: "a whole number", float: "a number"}


def _in_range(value: Any, metadata: Mapping[str, Any], where: str) -> None:
    if choices := metadata.get("choices"):
        if value not in choices:
            close = difflib.get_close_matches(value, choices, n=1)
            raise UserError(f"{where}: {value!r} given; {f'did you mean {close[0]}? ' if close else ''}it is one of: {', '.join(choices)}")
        return
    low, high = metadata.get("low"), metadata.get("high")
    if low is not None and value < low:
        raise UserError(f"{where}: {value} given; it is {low:g} at least")
    if high is not None and value > high:
        raise UserError(f"{where}: {value} given; it is {high:g} at most")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str | int | float) or not str(value):
        raise UserError(f"{where}: {_kind(value)} given; it is text")
    return str(value)


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()}


def _kind(value: object) -> str:
    names = {bool: "yes or no", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return "nothing" if value is None or value == "" else names.get(type(value), type(value).__name__)
