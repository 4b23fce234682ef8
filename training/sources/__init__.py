"""Where rows come from: a file a kind, whose name is its name in a recipe; a dotted name is a module of yours; a preset is a YAML file.

A source module has `load(**options)`, which returns a Table, a Stream or a Make of training/feeds.py.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.modules import module_of, names_in
from metabridge.bridge.reading import section
from metabridge.bridge.settings import Objective, Source, setting
from metabridge.training import presets
from metabridge.training.feeds import Feed, Made, Streamed, Table, Tabled
from metabridge.training.order import mix
from metabridge.training.schema import BadRow, Raw, Schema

OWN = ("think", "task")  # parameters of a load() that the objective and the source's own line give


@dataclass(frozen=True)
class Reading:
    """Options that every source has, beside `map`."""

    holdout: int = setting(0, low=0)  # rows kept out of the training, for validation
    taught: bool = True  # whether the hand's own text encoder knows these captions: no distillation without; false by default but for t2i
    think: float = setting(-1.0, low=0, high=1)  # these four in the place of the objective's
    drop_text: float = setting(-1.0, low=0, high=1)
    drop_image: float = setting(-1.0, low=0, high=1)
    drop_both: float = setting(-1.0, low=0, high=1)


RATES = ("think", "drop_text", "drop_image", "drop_both")
LOOKED_AT = 64  # rows, for the names of their columns
SHARED = ("map", *(f.name for f in fields(Reading)))


def names() -> list[str]:
    """The kinds of source: the names of the files here."""
    return names_in("metabridge.training.sources")


def resolve(source: Source) -> Source:
    """A preset's name -> the source it stands for; options of the recipe win."""
    if source.source not in presets.names():
        return source
    kind, task, options = presets.options(source.source, source.options)
    return Source(kind, task or source.task, source.weight, options)


def open_source(source: Source, objective: Objective, seed: int, number: int = 0, reach: int = 0) -> tuple[Feed, Objective]:
    """A source of a recipe -> its feed, and the objective with the rates that the source has of its own.

    `number`: which of the recipe's sources; `reach`: how far back rows may be asked for.
    """
    source = resolve(source)
    module = module_of("metabridge.training.sources", source.source, [*names(), *presets.names()], "source", "data.source", "rows")
    parameters = {name: p for name, p in inspect.signature(module.load).parameters.items() if name not in OWN}
    what = f"data {source.source}"
    for option in source.options:
        if option not in parameters and option not in SHARED:
            raise UserError(unknown(f"{what}.{option}", [*parameters, *SHARED, "source", "task", "weight"]))
    if missing := [name for name, p in parameters.items() if p.default is p.empty and name not in source.options]:
        raise UserError(f"{what}.{missing[0]}: missing; this source needs it")
    reading: Reading = section(Reading, {key: value for key, value in source.options.items() if key in SHARED and key != "map"}, what)
    objective = _rates(objective, source.options, reading)
    options = {name: value for name, value in source.options.items() if name in parameters}
    told = {"think": objective.think, "task": source.task}
    options |= {name: value for name, value in told.items() if name in inspect.signature(module.load).parameters}
    opened = module.load(**options)
    return _feed(opened, source, reading, mix(seed, number), reach), objective


def _feed(opened: Any, source: Source, reading: Reading, seed: int, reach: int) -> Feed:
    if callable(opened):
        if "map" in source.options:
            raise UserError(f"data {source.source}.map: this source makes its rows and has no columns; leave it out")
        return Made(opened, seed)
    mapping = source.options.get("map", {})
    if hasattr(opened, "blocks"):
        total = sum(opened.blocks)
        if not total:
            raise UserError(f"data {source.source}: no rows in {source.options.get('path', 'it')}; give another path")
        if reading.holdout >= total:
            raise UserError(f"data {source.source}.holdout: {reading.holdout} given, of {total} rows; give fewer")
        return Tabled(opened, Schema.of(mapping, _columns(_raws(opened, source.source), LOOKED_AT), source.source), seed, reading.holdout)
    first = _columns((row for row, _ in opened.rows(0) if isinstance(row, Raw)), LOOKED_AT)
    return Streamed(opened, Schema.of(mapping, first, source.source), seed, reading.holdout, reach=reach)


def _columns(rows: Iterator[Raw], count: int) -> list[str]:
    """The names of the columns, from the first rows that can be read: rows of JSON need not all have the same."""
    return list(dict.fromkeys(name for row in itertools.islice(rows, count) for name in row.columns))


def _raws(table: Table, source: str) -> Iterator[Raw]:
    """The rows that can be read; at least one."""
    bad: list[BadRow] = []
    for index in range(total := sum(table.blocks)):
        try:
            yield table.raw(index)
        except BadRow as error:
            bad.append(error)
    if len(bad) == total:
        raise UserError(f"data {source}: none of its {total} rows can be read; the first: {bad[0]}")


def _rates(objective: Objective, options: Mapping[str, Any], reading: Reading) -> Objective:
    rates = dataclasses.replace(objective, **{name: getattr(reading, name) for name in RATES if name in options})
    if (total := rates.drop_text + rates.drop_image + rates.drop_both) > 1:
        raise UserError(f"data: drop_text + drop_image + drop_both of a source is {total:g}; as shares of its rows they sum to 1 at most")
    return rates
