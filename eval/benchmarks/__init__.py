"""One YAML file a benchmark; the file's name is its name on the command line. A path to such a file is a benchmark of one's own.

The file says what a reader must know (title, licence, judge, badge, notes), which reader makes its items, which scorer scores them, and
how values become the table. docs/evaluation.md shows one from scratch.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.modules import module_of, names_in
from metabridge.bridge.reading import kind_of, read_yaml, refuse_unknown
from metabridge.eval.data import DataSpec
from metabridge.eval.items import Item

PACKAGE = "metabridge.eval.benchmarks"
TASKS = ("t2i", "edit", "subject")
BADGES = {
    "exact": "the official protocol, step by step",
    "variant": "another protocol on the same prompts: its numbers stand only beside each other",
    "unverified": "built to the official protocol, never compared with official results",
}
WITHIN = ("mean", "any", "ratio", "set")
DRAWN_BY_BRIDGE = ("bridge", "think", "rewrite")
ROWS = {
    "bridge": "the prompt alone",
    "think": "the brain's thought after the prompt",
    "rewrite": "the brain's thought in the prompt's place",
    "native": "the hand's own text encoder",
}


@dataclass(frozen=True)
class Metric:
    """How values of pictures become a number of the table."""

    name: str
    title: str = ""
    note: str = ""
    of: str = ""  # the value it is made from; its own name if not given
    within: str = "mean"  # a prompt's pictures: mean | any (the best of them) | ratio (sum / sum of NAME.of); set: all pictures together
    weights: str | Mapping[str, float] = "equal"  # of the groups in the overall number: equal | prompts | group -> weight
    low: float = 0.0
    high: float | None = 1.0  # None: without bound
    digits: int = 2
    better: str = "higher"

    @property
    def source(self) -> str:
        return self.of or self.name

    @property
    def worst(self) -> float | None:
        return self.low if self.better == "higher" else self.high

    def share(self, value: float) -> float:
        """A value between 0 = worst and 1 = best, for colors and order."""
        if self.high is None:
            return 1.0
        share = (value - self.low) / (self.high - self.low)
        return share if self.better == "higher" else 1 - share


@dataclass(frozen=True)
class Part:
    """Groups that are averaged into one number, and in which ways they are drawn unless told otherwise."""

    groups: tuple[str, ...] = ()
    rows: tuple[str, ...] = ("bridge",)
    title: str = ""
    note: str = ""
    label: str = "group"  # what its groups are called: tag, kind, dimension
    held_out: str = ""  # what was kept out of training, where a part of its items was
    chance: Mapping[str, float] = field(default_factory=dict)  # group -> what guessing scores


@dataclass(frozen=True)
class JudgeNeed:
    """Which judge a benchmark asks."""

    needed: bool = True
    official: str = ""
    recommended: str = ""
    calls: int = 0  # questions for the whole benchmark, where none has to be repeated
    note: str = ""


@dataclass(frozen=True)
class Published:
    """A number from the literature; it is shown only beside a result of the same variant."""

    name: str
    metric: str
    value: float
    variant: str
    source: str


@dataclass(frozen=True)
class Benchmark:
    name: str
    title: str
    task: str
    version: int
    count: int  # prompts
    images: int  # a prompt
    reader: str
    reader_options: Mapping[str, Any]
    scorer: str
    scorer_options: Mapping[str, Any]
    groups: Mapping[str, str]  # group -> title
    parts: Mapping[str, Part]
    metrics: tuple[Metric, ...]
    data: DataSpec | None = None
    judge: JudgeNeed | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    prompt_set: str = "raw"  # or what was done to the official prompts: rewritten
    official_seed: int | None = None
    layout: str = ""  # module of metabridge.eval.layouts: the official folder layout
    facets: str = ""
    badge: str = "unverified"
    badge_note: str = ""
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()

    def items(self, data: Path | None) -> list[Item]:
        """Every prompt, in the benchmark's order."""
        items: list[Item] = _module("metabridge.eval.readers", self.reader, "a list of Items").load(self.reader_options, data)
        if not items:
            raise UserError(f"{self.name}: its reader gives no prompts; see that its files are whole")
        places = Counter((item.group, item.id) for item in items)
        for item in items:
            if not re.fullmatch(r"[\w.,+-]+", item.id) or ".." in item.id or "/" in item.group:
                raise UserError(f"{self.name}: {item.group}/{item.id!r} is no name for a picture's file; mend its reader")
            if places[item.group, item.id] > 1:
                raise UserError(
                    f"{self.name}: {item.group}/{item.id} is there {places[item.group, item.id]} times; give each prompt its own id"
                )
        known = [group for part in self.parts.values() for group in part.groups]
        if wrong := next((item.group for item in items if item.group not in known), None):
            raise UserError(f"{self.name}: {unknown(wrong, known, 'group')}; its reader gives another than its file names")
        return items

    def scorer_module(self) -> Any:
        return _module("metabridge.eval.scorers", self.scorer, "a Scorer")

    def layout_module(self) -> Any:
        """Who knows the official folder layout; None where nobody does."""
        return (
            importlib.import_module(self.layout if "." in self.layout else f"metabridge.eval.layouts.{self.layout}")
            if self.layout
            else None
        )

    def part_of(self, group: str) -> str:
        return next(name for name, part in self.parts.items() if group in part.groups)

    def title_of(self, group: str) -> str:
        return self.groups.get(group, group)


def names() -> list[str]:
    return names_in(PACKAGE, ".yaml")


def load(name: str) -> Benchmark:
    """A benchmark by its name, or by the path of its file."""
    path = Path(name)
    if path.suffix == ".yaml":
        if not path.is_file():
            raise UserError(f"{name}: no such file; give a benchmark's YAML file, or one of: {', '.join(names())}")
        return parse(path.stem, read_yaml(path.read_text(encoding="utf-8"), name), name)
    if name not in names():
        raise UserError(unknown(name, names(), "benchmark"))
    from importlib.resources import files

    where = f"benchmark {name}"
    return parse(name, read_yaml((files(PACKAGE) / f"{name}.yaml").read_text(encoding="utf-8"), where), where)


_KEYS = [
    *("title", "task", "version", "prompt_set", "prompts", "groups", "parts", "images", "seed", "data", "scoring", "judge", "models"),
    *("metrics", "layout", "facets", "badge", "badge_note", "published", "notes"),
]


def parse(name: str, tree: Any, where: str) -> Benchmark:
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: {kind_of(tree)} given; it is a mapping of {', '.join(_KEYS)}")
    refuse_unknown(tree, _KEYS, where)
    for key in ("title", "task", "prompts", "images", "scoring", "metrics"):
        if key not in tree:
            raise UserError(f"{where}.{key}: missing")
    prompts, scoring = dict(tree["prompts"]), dict(tree["scoring"])
    groups = dict(tree.get("groups") or {})
    parts = {
        key: _record(Part, part, f"{where}.parts.{key}") for key, part in (tree.get("parts") or {"score": {"groups": list(groups)}}).items()
    }
    metrics = tuple(_record(Metric, metric, f"{where}.metrics.{i}") for i, metric in enumerate(tree["metrics"]))
    for key, value, known in [
        ("task", tree["task"], TASKS),
        ("badge", tree.get("badge", "unverified"), BADGES),
        *((f"metrics.{metric.name}.within", metric.within, WITHIN) for metric in metrics),
        *((f"metrics.{metric.name}.better", metric.better, ("higher", "lower")) for metric in metrics),
        *((f"parts.{key}.rows", row, ROWS) for key, part in parts.items() for row in part.rows),
    ]:
        if value not in known:
            raise UserError(f"{where}.{key}: {unknown(str(value), known, 'value')}")
    return Benchmark(
        name=name,
        title=tree["title"],
        task=tree["task"],
        version=tree.get("version", 1),
        count=prompts.pop("count"),
        images=tree["images"],
        reader=prompts.pop("reader"),
        reader_options=prompts,
        scorer=scoring.pop("scorer"),
        scorer_options=scoring,
        groups=groups,
        parts=parts,
        metrics=metrics,
        data=DataSpec.parse(tree["data"], f"{where}.data") if "data" in tree else None,
        judge=_record(JudgeNeed, tree["judge"], f"{where}.judge") if "judge" in tree else None,
        models=dict(tree.get("models") or {}),
        prompt_set=tree.get("prompt_set", "raw"),
        official_seed=(tree.get("seed") or {}).get("official"),
        layout=tree.get("layout", ""),
        facets=tree.get("facets", ""),
        badge=tree.get("badge", "unverified"),
        badge_note=tree.get("badge_note", ""),
        published=tuple(_record(Published, row, f"{where}.published.{i}") for i, row in enumerate(tree.get("published") or ())),
        notes=tuple(tree.get("notes") or ()),
    )


def _record(kind: type[Any], tree: Any, where: str) -> Any:
    """A mapping as one of the dataclasses above; lists become tuples."""
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: {kind_of(tree)} given; it is a mapping of {', '.join(f.name for f in fields(kind))}")
    refuse_unknown(tree, [f.name for f in fields(kind)], where)
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()})
    except TypeError as error:
        raise UserError(f"{where}: {str(error).partition(') ')[2] or error}") from error


def _module(package: str, name: str, returned: str) -> Any:
    return module_of(package, name, names_in(package), package.rpartition(".")[2].removesuffix("s"), package.rpartition(".")[2], returned)
