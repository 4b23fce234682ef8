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
from metabridge.bridge.reading import kind_of, read_yaml
from metabridge.eval import store
from metabridge.eval.benchmarks.checks import check_groups, check_metrics, is_folder
from metabridge.eval.benchmarks.form import record
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
DRAWN_BY_BRIDGE = ("bridge", "think", "rewrite", "query-only")
ROWS = {
    "bridge": "the prompt alone",
    "think": "the brain's thought after the prompt",
    "rewrite": "the brain's thought in the prompt's place",
    "query-only": "the prompt alone, and no picture given to the hand",
    "native": "the hand's own text encoder",
}


@dataclass(frozen=True)
class Metric:
    """How values of pictures become a number of the table."""

    name: str
    title: str = ""
    note: str = ""
    of: str = ""  # the value it is made from; its own name if not given
    # a prompt's pictures: mean | any (the best of them) | ratio (sum / sum of NAME.of); set: all pictures together
    within: str = field(default="mean", metadata={"choices": WITHIN})
    weights: str | Mapping[str, float] = "equal"  # of the groups in the overall number: equal | prompts | group -> weight
    low: float = 0.0
    high: float | None = 1.0  # None: without bound
    digits: int = field(default=2, metadata={"low": 0, "high": 10})
    better: str = field(default="higher", metadata={"choices": ("higher", "lower")})

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

    groups: tuple[str, ...] = ()  # none named: all that the reader gives
    rows: tuple[str, ...] = field(default=("bridge",), metadata={"choices": tuple(ROWS)})
    title: str = ""
    note: str = ""
    label: str = "group"  # what its groups are called: tag, kind, dimension
    held_out: str = ""  # what was kept out of training, where a part of its items was
    chance: Mapping[str, float] = field(default_factory=dict)  # group -> what guessing scores

    def holds(self, group: str) -> bool:
        return not self.groups or group in self.groups


@dataclass(frozen=True)
class JudgeNeed:
    """Which judge a benchmark asks."""

    needed: bool = True
    official: str = ""
    recommended: str = ""
    calls: int = field(default=0, metadata={"low": 0})  # questions for the whole benchmark, where none has to be repeated
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
        items: list[Item] = self.reader_module().load(self.reader_options, data)
        if not items:
            raise UserError(f"{self.name}: its reader gives no prompts; see that its files are whole")
        if not isinstance(items, list) or not all(isinstance(item, Item) for item in items):
            raise UserError(f"{self.name}: its reader gives {kind_of(items)}; it is a list of Items")
        places = Counter((item.group, item.id) for item in items)
        for item in items:
            if not re.fullmatch(r"[\w.,+-]+", item.id) or ".." in item.id or not is_folder(item.group):
                raise UserError(f"{self.name}: {item.group}/{item.id!r} is no name for a picture's file; mend its reader")
            if places[item.group, item.id] > 1:
                raise UserError(
                    f"{self.name}: {item.group}/{item.id} is there {places[item.group, item.id]} times; give each prompt its own id"
                )
        known = [group for part in self.parts.values() for group in part.groups]
        if wrong := next((item.group for item in items if not any(part.holds(item.group) for part in self.parts.values())), None):
            raise UserError(f"{self.name}: {unknown(wrong, known, 'group')}; its reader gives another than its file names")
        return items

    def reader_module(self) -> Any:
        return _module("reader", self.reader, "a list of Items")

    def scorer_module(self) -> Any:
        return _module("scorer", self.scorer, "a Scorer")

    def layout_module(self) -> Any:
        """Who knows the official folder layout; None where nobody does."""
        if not self.layout:
            return None
        try:
            return importlib.import_module(self.layout if "." in self.layout else f"metabridge.eval.layouts.{self.layout}")
        except ModuleNotFoundError as error:
            raise UserError(f"layout: {self.layout}: no module {error.name} in this environment; install it") from error

    def part_of(self, group: str) -> str:
        return next(name for name, part in self.parts.items() if part.holds(group))

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
        return parse(path.stem, read_yaml(store.read_text(path, "give a benchmark's YAML file"), name), name)
    if name not in names():
        raise UserError(unknown(name, names(), "benchmark"))
    from importlib.resources import files

    where = f"benchmark {name}"
    return parse(name, read_yaml((files(PACKAGE) / f"{name}.yaml").read_text(encoding="utf-8"), where), where)


@dataclass(frozen=True)
class _Seed:
    official: int = field(metadata={"low": 0})


@dataclass(frozen=True)
class _File:
    """The file as it is written."""

    title: str
    task: str = field(metadata={"choices": TASKS})
    prompts: Mapping[str, Any]
    images: int = field(metadata={"low": 1, "high": 1000})
    scoring: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    version: int = field(default=1, metadata={"low": 1})
    prompt_set: str = "raw"
    groups: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    seed: _Seed | None = None
    data: DataSpec | None = None
    judge: JudgeNeed | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    layout: str = ""
    facets: str = ""
    badge: str = field(default="unverified", metadata={"choices": tuple(BADGES)})
    badge_note: str = ""
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Prompts:
    reader: str
    count: int = field(metadata={"low": 1})


@dataclass(frozen=True)
class _Scoring:
    scorer: str


def parse(name: str, tree: Any, where: str) -> Benchmark:
    file: _File = record(_File, tree, where)
    prompts, reader_options = _split(_Prompts, file.prompts, f"{where}.prompts")
    scoring, scorer_options = _split(_Scoring, file.scoring, f"{where}.scoring")
    for kind, word, at in [
        ("reader", prompts.reader, "prompts.reader"),
        ("scorer", scoring.scorer, "scoring.scorer"),
        *([("layout", file.layout, "layout")] if file.layout else []),
    ]:
        _known_module(kind, word, f"{where}.{at}")
    parts = dict(file.parts) or {"score": Part(groups=tuple(file.groups))}
    check_groups(file.groups, parts, where)
    check_metrics(file.metrics, file.published, [group for part in parts.values() for group in part.groups], where)
    return Benchmark(
        name=name,
        title=file.title,
        task=file.task,
        version=file.version,
        count=prompts.count,
        images=file.images,
        reader=prompts.reader,
        reader_options=reader_options,
        scorer=scoring.scorer,
        scorer_options=scorer_options,
        groups=file.groups,
        parts=parts,
        metrics=file.metrics,
        data=DataSpec.parse(tree["data"], f"{where}.data") if file.data else None,
        judge=file.judge,
        models=file.models,
        prompt_set=file.prompt_set,
        official_seed=file.seed.official if file.seed else None,
        layout=file.layout,
        facets=file.facets,
        badge=file.badge,
        badge_note=file.badge_note,
        published=file.published,
        notes=file.notes,
    )


def _split(kind: type[Any], tree: Mapping[str, Any], where: str) -> tuple[Any, dict[str, Any]]:
    """What is ours of a mapping, and the options for the module that it names."""
    own = {f.name for f in fields(kind)}
    return record(kind, {key: tree[key] for key in tree if key in own}, where), {key: tree[key] for key in tree if key not in own}


def modules(kind: str) -> list[str]:
    """Readers, scorers or layouts by name. What belongs to one of them alone, as geneval_rules to geneval, is none itself."""
    names = names_in(f"metabridge.eval.{kind}s")
    return [name for name in names if not any(name.startswith(f"{other}_") for other in names)]


def _known_module(kind: str, name: str, where: str) -> None:
    """A dotted one, of a third party, is looked for when it is needed."""
    if "." not in name and name not in modules(kind):
        raise UserError(f"{where}: {unknown(name, modules(kind), kind)}")
    if not all(word.isidentifier() for word in name.split(".")):
        raise UserError(f"{where}: {name!r} is no name of a module; write it as package.module")


def _module(kind: str, name: str, returned: str) -> Any:
    return module_of(f"metabridge.eval.{kind}s", name, modules(kind), kind, f"{kind}s", returned)
