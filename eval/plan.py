"""What an evaluation will draw, written down before anything is drawn: `plan.json`.

A row of a table is one way to draw: `bridge` (the prompt alone), `think` (the brain's thought after the prompt) and `native` (the
hand under its own text encoder, the baseline). All draw the same prompts with the same seeds, so that their differences are paired.
Drawing is cut into fixed chunks, so that a run that was killed draws the rest to the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.eval import benchmarks, store
from metabridge.eval.benchmarks import Item

CHUNK = 32  # pictures drawn together
ROWS = {"bridge": ("composition", "reasoning"), "think": ("reasoning",), "native": ("composition",)}


@dataclass(frozen=True)
class Sample:
    """One picture to draw."""

    row: str
    item: Item
    k: int  # which of the prompt's pictures
    seed: int

    @property
    def key(self) -> str:
        return f"{self.row}/{self.item.kind}/{self.item.id}-{self.k}"

    @property
    def file(self) -> str:
        return f"images/{self.key}.png"


@dataclass(frozen=True)
class Plan:
    identity: dict[str, Any]  # what was measured: benchmark, bridge, generation, code
    items: tuple[Item, ...]
    wants: dict[str, Any]  # what the picture of an item must show, by the item's id

    @property
    def benchmark(self) -> dict[str, Any]:
        return dict(self.identity["benchmark"])

    def samples(self) -> list[Sample]:
        """Row by row, item by item, picture by picture."""
        base, images = self.benchmark["base_seed"], self.benchmark["images_per_prompt"]
        return [
            Sample(row, item, k, base + 1000 * item.number + k)
            for row in self.identity["generation"]["rows"]
            for item in self.items
            if item.part in ROWS[row]
            for k in range(images)
        ]

    def chunks(self) -> list[list[Sample]]:
        """Pictures that are drawn together: at most CHUNK of one row."""
        chunks: list[list[Sample]] = []
        for sample in self.samples():
            if not chunks or len(chunks[-1]) == CHUNK or chunks[-1][0].row != sample.row:
                chunks.append([])
            chunks[-1].append(sample)
        return chunks


def make(
    name: str,
    bridge: Mapping[str, Any],
    generation: Mapping[str, Any],
    code: Mapping[str, Any],
    *,
    limit: Mapping[str, int] | None = None,
    images: int | None = None,
    rows: Sequence[str] = tuple(ROWS),
) -> Plan:
    """`limit`: most prompts of a tag or kind, of each of a part, or of `all`; what is named more closely counts. `rows`: which of ROWS."""
    benchmark = benchmarks.load(name)
    prompts = _prompts(name, limit or {})
    images = benchmark.IMAGES if images is None else images
    if not 1 <= images <= 1000:
        raise UserError(f"--images {images}: a prompt has 1000 seeds; give 1 to 1000")
    pairs = benchmark.items(prompts)
    identity = {
        "benchmark": {
            "name": name,
            "version": benchmark.VERSION,
            "data_sha256": _data_hash(pairs),
            "prompts": prompts,
            "images_per_prompt": images,
            "base_seed": benchmark.BASE_SEED,
        },
        "bridge": dict(bridge),
        "generation": {**generation, "rows": list(rows), "chunk": CHUNK},
        "code": dict(code),
    }
    return Plan(identity, tuple(item for item, _ in pairs), {item.id: want for item, want in pairs})


def _prompts(name: str, limit: Mapping[str, int]) -> dict[str, int]:
    """Tag or kind -> its number of prompts."""
    benchmark = benchmarks.load(name)
    kinds = {kind: part for part, kinds in benchmark.PARTS.items() for kind in kinds}
    for key, number in limit.items():
        if key not in (known := ("all", *benchmark.PARTS, *kinds)):
            raise UserError(f"--limit {unknown(key, known, f'part, tag or kind of {name}')}")
        if not 1 <= number <= benchmark.PROMPTS:
            raise UserError(f"--limit {number}: {name} has {benchmark.PROMPTS} prompts a tag or kind; give 1 to {benchmark.PROMPTS}")
    return {kind: limit.get(kind, limit.get(part, limit.get("all", benchmark.PROMPTS))) for kind, part in kinds.items()}


def save(plan: Plan, folder: Path) -> Plan:
    """Write plan.json, or take up the one that is there if it is of the same evaluation."""
    path = folder / "plan.json"
    if path.exists():
        earlier = load(folder)
        asked, there = _measured(plan.identity), _measured(earlier.identity)
        for key in asked:
            if asked[key] != there.get(key):
                raise UserError(
                    f"{folder} holds another evaluation: its {key} is {there.get(key)}, asked for is {asked[key]}; "
                    "give another folder with -o, or remove this one"
                )
        return earlier
    store.write_json(path, {"identity": plan.identity, "items": [asdict(item) for item in plan.items]})
    return plan


def load(folder: Path) -> Plan:
    """The plan of an evaluation folder; what its pictures must show comes from the benchmark, checked by its hash."""
    path = folder / "plan.json"
    if not path.exists():
        raise UserError(f"{folder}: no plan.json there; `metabridge eval BRIDGE -o {folder}` starts an evaluation")
    identity = store.read_json(path)["identity"]
    asked = identity["benchmark"]
    pairs = benchmarks.load(asked["name"]).items(asked["prompts"])
    if (found := _data_hash(pairs)) != asked["data_sha256"]:
        raise UserError(
            f"{folder}: planned on {asked['name']} data {asked['data_sha256'][:12]}, this version has {found[:12]}; "
            "start anew in another folder with -o"
        )
    return Plan(identity, tuple(item for item, _ in pairs), {item.id: want for item, want in pairs})


def _measured(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two evaluations the same: neither a name nor a place on a disk, nor the commit."""
    bridge = identity["bridge"]
    parts = {f"{part} fingerprint": bridge[part]["fingerprint"][:16] for part in ("brain", "hand")}
    own = {"bridge fingerprint": bridge["fingerprint"][:16], **parts, "brain.quantize": bridge["brain"].get("quantize", "none")}
    benchmark = {f"benchmark {k}": v for k, v in identity["benchmark"].items() if k != "prompts"}
    prompts = {f"number of {kind} prompts": number for kind, number in identity["benchmark"]["prompts"].items()}
    return {**prompts, **benchmark, **own, **identity["generation"]}


def _data_hash(pairs: list[tuple[Item, Any]]) -> str:
    return hashlib.sha256("\n".join(repr(pair) for pair in pairs).encode()).hexdigest()
