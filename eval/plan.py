"""What an evaluation will draw, written down before anything is drawn: `plan.json`.

A row of a table is one way to draw (ROWS of the benchmarks): the prompt alone, the brain's thought after it or in its place, or the hand
under its own text encoder. All draw the same prompts with the same seeds, so that their differences are paired. Drawing is cut into fixed
chunks, so that a run that was killed, or split over processes, draws the rest to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.eval import store
from metabridge.eval.benchmarks import ROWS, Benchmark
from metabridge.eval.benchmarks import load as load_benchmark
from metabridge.eval.items import Item

CHUNK = 32  # pictures drawn together
BASE_SEED = 0
SEEDS = ("image", "official")
BEGUN = ("drawn.jsonl", "scored.jsonl")  # with one of them, a plan holds


@dataclass(frozen=True)
class Sample:
    """One picture to draw."""

    row: str
    item: Item
    k: int  # which of the prompt's pictures
    seed: int

    @property
    def key(self) -> str:
        return f"{self.row}/{self.item.group}/{self.item.id}-{self.k}"

    @property
    def file(self) -> str:
        return f"images/{self.key}.png"


@dataclass(frozen=True)
class Plan:
    identity: dict[str, Any]  # what is drawn: benchmark, model, generation, code
    items: tuple[Item, ...]
    scoring: dict[str, Any]  # how it is to be scored unless told otherwise: data, judge, models, compat
    definition: Benchmark

    @property
    def benchmark(self) -> dict[str, Any]:
        return dict(self.identity["benchmark"])

    @property
    def rows(self) -> list[str]:
        return list(self.identity["generation"]["rows"])

    def samples(self) -> list[Sample]:
        """Row by row, item by item, picture by picture."""
        images, parts = self.benchmark["images_per_prompt"], self.identity["generation"]["rows"]
        return [
            Sample(row, item, k, self._seed(item, k))
            for row, drawn in parts.items()
            for item in self.items
            if self.definition.part_of(item.group) in drawn
            for k in range(images)
        ]

    def _seed(self, item: Item, k: int) -> int:
        if self.benchmark["seeds"] == "official":
            return int(self.definition.official_seed or 0) + k
        return BASE_SEED + 1000 * item.number + k

    def chunks(self) -> list[list[Sample]]:
        """Pictures that are drawn together: at most CHUNK of one row."""
        chunks: list[list[Sample]] = []
        for sample in self.samples():
            if not chunks or len(chunks[-1]) == CHUNK or chunks[-1][0].row != sample.row:
                chunks.append([])
            chunks[-1].append(sample)
        return chunks


def make(
    benchmark: Benchmark,
    model: Mapping[str, Any],
    generation: Mapping[str, Any],
    code: Mapping[str, Any],
    *,
    limit: Mapping[str, int] | None = None,
    images: int | None = None,
    rows: Sequence[str] | None = None,
    seeds: str = "image",
    data: Path | None = None,
    scoring: Mapping[str, Any] | None = None,
) -> Plan:
    """`limit`: most prompts of a group, of each of a part, or of `all`; what is named more closely counts. `rows`: ways to draw."""
    images = benchmark.images if images is None else images
    if not 1 <= images <= 1000:
        raise UserError(f"--images {images}: a prompt has 1000 seeds; give 1 to 1000")
    if seeds not in SEEDS:
        raise UserError(f"--seeds {unknown(seeds, SEEDS, 'way to seed')}")
    if seeds == "official" and benchmark.official_seed is None:
        raise UserError(f"--seeds official: {benchmark.name} fixes no seeds; leave it at image")
    parts = drawn_parts(benchmark, rows)
    every = benchmark.items(data)
    _refuse_rows(parts, every, benchmark.name, model["kind"])
    prompts = prompts_of(benchmark, every, limit or {})
    items = _first(every, prompts)
    identity = {
        "benchmark": {
            "name": benchmark.name,
            "version": benchmark.version,
            "prompt_set": benchmark.prompt_set,
            "data_sha256": data_hash(items),
            "prompts": prompts,
            "images_per_prompt": images,
            "seeds": seeds,
            "base_seed": BASE_SEED if seeds == "image" else benchmark.official_seed,
        },
        "model": dict(model),
        "generation": {**generation, "rows": parts, "chunk": CHUNK},
        "code": dict(code),
    }
    return Plan(identity, items, dict(scoring or {}), benchmark)


def drawn_parts(benchmark: Benchmark, rows: Sequence[str] | None) -> dict[str, list[str]]:
    """Row -> the parts that it draws: those that the benchmark means it for; a row that it does not speak of draws all. In ROWS' order."""
    usual = {row: [name for name, part in benchmark.parts.items() if row in part.rows] for row in ROWS}
    chosen = [row for row in ROWS if usual[row]] if rows is None else rows
    for row in chosen:
        if row not in ROWS:
            raise UserError(f"--rows {unknown(row, ROWS, 'way to draw')}")
    return {row: usual[row] or list(benchmark.parts) for row in ROWS if row in chosen}


def _refuse_rows(parts: Mapping[str, Any], items: Sequence[Item], name: str, kind: str) -> None:
    """Ways to draw that cannot be, or that are no other than the prompt alone."""
    pictures, turns = (any(getattr(item, what) for item in items) for what in ("images", "turns"))
    if turns and kind in ("diffusers", "endpoint"):
        raise UserError(f"{name}: some of its prompts are conversations, which only a bridge draws; give a bridge, or images:DIR")
    if "native" in parts and (pictures or turns):
        raise UserError(
            f"--rows native: pictures come with the prompts of {name}, and the hand's own encoder reads text alone; leave it out"
        )
    if "rewrite" in parts and turns:
        raise UserError(f"--rows rewrite: {name} has conversations, in which the prompts stay; give --rows think")
    if "query-only" in parts and not (pictures or turns):
        raise UserError(f"--rows query-only: no pictures come with the prompts of {name}, so that none can be left out; leave it out")


def prompts_of(benchmark: Benchmark, items: Sequence[Item], limit: Mapping[str, int]) -> dict[str, int]:
    """Group -> its number of prompts that training may have shown."""
    there = Counter(item.group for item in items if not item.held_out)
    most = max(there.values())
    for key, number in limit.items():
        if key not in (known := ("all", *benchmark.parts, *there)):
            raise UserError(f"--limit {unknown(key, known, f'part, tag or kind of {benchmark.name}')}")
        own = there.get(key, most)
        if not 1 <= number <= own:
            raise UserError(f"--limit {number}: {benchmark.name} has {own} prompts a tag or kind; give 1 to {own}")
    parts = {group: benchmark.part_of(group) for group in there}
    return {group: min(number, limit.get(group, limit.get(parts[group], limit.get("all", number)))) for group, number in there.items()}


def _first(items: Sequence[Item], prompts: Mapping[str, int]) -> tuple[Item, ...]:
    """The first prompts of each group, and a quarter as many of those held out."""
    taken: Counter[tuple[str, bool]] = Counter()
    chosen = []
    for item in items:
        most = math.ceil(prompts[item.group] / 4) if item.held_out else prompts[item.group]
        if taken[item.group, item.held_out] < most:
            taken[item.group, item.held_out] += 1
            chosen.append(item)
    return tuple(chosen)


def save(plan: Plan, folder: Path, grown: Callable[[], bool] = lambda: False) -> Plan:
    """Write plan.json, or take up the one that is there if it is of the same evaluation. One that nothing came of yet is replaced.

    `grown` is asked of a model of another fingerprint: whether all that it drew so far is what it would draw now.
    """
    path = folder / "plan.json"
    if any((folder / name).exists() for name in BEGUN):
        if not path.exists():
            raise UserError(f"{folder}: pictures of a plan that is not there any more; give another folder with -o, or remove this one")
        earlier = load(folder)
        plan = _continued(plan, earlier, folder, grown)
        if (plan.identity, plan.scoring) == (earlier.identity, earlier.scoring):
            return plan
    store.write_json(path, {"identity": plan.identity, "scoring": plan.scoring, "items": [asdict(item) for item in plan.items]})
    return plan


def _continued(plan: Plan, earlier: Plan, folder: Path, grown: Callable[[], bool]) -> Plan:
    """The earlier plan, scored as is asked for now; refused where something else is to be drawn."""
    asked, there = _measured(plan.identity), _measured(earlier.identity)
    other = [key for key in asked if asked[key] != there.get(key)]
    identity = earlier.identity
    if other == [f"{plan.identity['model']['kind']} fingerprint"] and grown():
        identity = {**identity, "model": plan.identity["model"]}
    elif other:
        raise UserError(
            f"{folder} holds another evaluation: its {other[0]} is {there.get(other[0])}, asked for is {asked[other[0]]}; "
            "give another folder with -o, or remove this one"
        )
    return replace(plan, identity=identity, items=earlier.items)


def refuse_replaced(plan: Plan, folder: Path) -> None:
    """Before the first drawing is kept: until then, another run may have put its own plan there."""
    path = folder / "plan.json"
    if path.exists() and _measured(plan.identity) != _measured(store.read_json(path)["identity"]):
        raise UserError(f"{folder}: another evaluation was planned there while this one drew; give each a folder of its own with -o")


def load(folder: Path) -> Plan:
    """The plan of an evaluation folder."""
    path = folder / "plan.json"
    if not path.exists():
        raise UserError(f"{folder}: no plan.json there; `metabridge eval BRIDGE -o {folder}` starts an evaluation")
    tree = store.read_json(path)
    if odd := _odd(tree):
        raise UserError(f"{path}: not a plan that this version can read ({odd}); start anew in another folder with -o")
    try:
        identity, scoring = tree["identity"], tree["scoring"]
        items = tuple(Item(**{**item, "images": tuple(item["images"]), "turns": tuple(item.get("turns", ()))}) for item in tree["items"])
        asked = identity["benchmark"]
        name, version, sha256 = scoring.get("benchmark", asked["name"]), asked["version"], asked["data_sha256"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a plan that this version can read ({error}); start anew in another folder with -o") from error
    benchmark = load_benchmark(name)
    if version != benchmark.version:
        raise UserError(
            f"{folder}: planned on {name} version {version}, this is version {benchmark.version}; start anew in another folder with -o"
        )
    if (found := data_hash(items)) != sha256:
        raise UserError(
            f"{folder}: planned on {name} data {sha256[:12]}, its plan.json holds {found[:12]}; start anew in another folder with -o"
        )
    return Plan(identity, items, scoring, benchmark)


_KINDS: Mapping[tuple[str, ...], store.Kinds] = {
    (): {"identity": dict, "scoring": dict, "items": list},
    ("identity",): {"benchmark": dict, "model": dict, "generation": dict},
    ("identity", "benchmark"): {"name": str, "version": int, "data_sha256": str, "prompts": dict, "images_per_prompt": int, "seeds": str},
    ("identity", "model"): {"kind": str, "name": str, "fingerprint": str},
    ("identity", "generation"): {"rows": dict},
}
_ITEM: store.Kinds = {"number": int, "id": str, "group": str, "text": str, "want": dict, "images": list, "held_out": bool}


def _odd(tree: Any) -> str:
    """What keeps a tree from being a plan; empty where nothing does."""
    for path, kinds in _KINDS.items():
        node = tree
        for key in path:
            node = node[key]
        if odd := store.odd_in(node, kinds):
            return ": ".join([*path, odd])
    return next((f"items.{place}: {odd}" for place, item in enumerate(tree["items"]) if (odd := store.odd_in(item, _ITEM))), "")


def _measured(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two evaluations the same: neither a name nor a place on a disk, nor the commit."""
    model = identity["model"]
    own = {f"{model['kind']} fingerprint": model["fingerprint"][:16]}
    if model["kind"] == "bridge":
        own |= {f"{part} fingerprint": model[part]["fingerprint"][:16] for part in ("brain", "hand")}
        own["brain.quantize"] = model["brain"].get("quantize", "none")
    benchmark = {f"benchmark {k}": v for k, v in identity["benchmark"].items() if k != "prompts"}
    prompts = {f"number of {group} prompts": number for group, number in identity["benchmark"]["prompts"].items()}
    return {**prompts, **benchmark, **own, **identity["generation"]}


def data_hash(items: Sequence[Item]) -> str:
    """Of the prompts and of what their pictures must show."""
    rows = [asdict(item) for item in items]
    for row in rows:
        if not row["turns"]:  # as it was before there were conversations
            del row["turns"]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
