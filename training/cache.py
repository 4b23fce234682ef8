"""What training would work out for a row anew in every epoch, kept on disk: latents of its target, native conditions of its captions.

CACHE/latents-jsonl-1f0c.../00000.safetensors   one entry a row; the name holds what they depend on: rows, autoencoder, size
CACHE/native-jsonl-88ab.../00000.safetensors    one entry a caption, for distillation; text encoder in the name
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metabridge.bridge.artifact import fingerprint
from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole
from metabridge.bridge.interfaces import Condition, Hand
from metabridge.bridge.model import in_range
from metabridge.bridge.settings import Source
from metabridge.training.feeds import Tabled
from metabridge.training.frames import Frames, Size
from metabridge.training.order import mix
from metabridge.training.schema import BadRow, Raw, file_of
from metabridge.training.sources import RATES

VERSION = 2  # of how a picture becomes latents; a change makes every cache a new one
SHARD = 256  # rows
SAMPLES = 64  # rows that are looked at, to tell a source that has changed


class Shards:
    """Tensors by row, in files of SHARD rows each. Pickles; every process opens the files for itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.safetensors"

    def read(self, shard: int, names: Sequence[str]) -> dict[str, Tensor]:
        """Those of the tensors that are there."""
        if (found := _open(self.path(shard))) is None:
            return {}
        file, there = found
        return {name: file.get_tensor(name) for name in names if name in there}

    def write(self, shard: int, tensors: Mapping[str, Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.path(shard), save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def _open(path: Path) -> tuple[Any, frozenset[str]] | None:
    return _mapped(path) if path.exists() else None


@lru_cache(maxsize=64)
def _mapped(path: Path) -> tuple[Any, frozenset[str]]:
    """A file, mapped into memory, and the names in it."""
    try:
        file = safe_open(path, framework="pt")
        return file, frozenset(file.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:80]}); remove it and run metabridge data cache again"
        ) from error


class SourceCache:
    """The cache of one source: where it lies, what it holds of a row."""

    def __init__(self, root: Path, source: Source, feed: Tabled, hand: Hand, frames: Frames, mode: str) -> None:
        what = rows_of(source, feed)
        looked = {"autoencoder": _autoencoder(hand), "sizes": frames.sizes, "upscale": frames.upscale, "mode": mode, "version": VERSION}
        told = {"hand": hand.identity["fingerprint"], "tokens": getattr(getattr(hand, "native", None), "max_sequence_length", None)}
        self.latents_of = Shards(root / f"latents-{source.source}-{_digest(what | looked)}")
        self.native_of = Shards(root / f"native-{source.source}-{_digest(what | told)}")
        self.about = {"latents": what | looked, "native": what | told}
        self.feed, self.mode = feed, mode
        self.shards = -(-sum(feed.table.blocks) // SHARD)

    def rows(self, shard: int) -> range:
        return range(shard * SHARD, min((shard + 1) * SHARD, sum(self.feed.table.blocks)))

    def latents(self, index: int, shape: tuple[int, int, int]) -> Tensor | None:
        """[C, h, w] of a row, where they are there and of that shape."""
        tensor = self.latents_of.read(index // SHARD, [str(index)]).get(str(index))
        return tensor if tensor is not None and tensor.shape == shape else None

    def condition(self, index: int, caption: str) -> Condition | None:
        """[1, L, D], what the hand's text encoder makes of a caption of the row, or of none."""
        key = _key(caption)
        shard = index // SHARD if caption else self.shards
        found = self.native_of.read(shard, [f"{key}.embeds", f"{key}.mask", f"{key}.pooled"])
        if f"{key}.embeds" not in found:
            return None
        return Condition(found[f"{key}.embeds"][None], found[f"{key}.mask"][None], _row(found.get(f"{key}.pooled")))

    def kept(self) -> int:
        """Rows whose latents are there."""
        return sum(len(found[1]) for shard in range(self.shards) if (found := _open(self.latents_of.path(shard))) is not None)


def row_noise(index: int) -> int:
    """Seed of the noise with which latents are sampled: the row's own, the same in every epoch."""
    return mix(index, 5) >> 1


def rows_of(source: Source, feed: Tabled) -> dict[str, Any]:
    """What says which rows a table has: not in what order, nor how often, they are trained on."""
    options = {key: value for key, value in source.options.items() if key not in (*RATES, "holdout")}
    for key in ("path", "root"):
        if isinstance(options.get(key), str):
            options[key] = str(Path(options[key]).expanduser().resolve())
    rows = sum(feed.table.blocks)
    looked = [_seen(feed, index * (rows - 1) // max(1, SAMPLES - 1)) for index in range(min(SAMPLES, rows))]
    return {"source": source.source, "options": options, "rows": rows, "samples": _digest({"rows": looked})}


def _seen(feed: Tabled, index: int) -> list[str]:
    """What tells a row from another that stands in its place later: bytes by their checksum, files by size and time."""
    try:
        raw = feed.table.raw(index)
        targets = [file_of(value, raw) or value for value in feed.schema.values(raw, "target")]
        files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) if isinstance(file, Path) else _sum(file) for file in targets]
        return [raw.where, repr(feed.schema.texts(raw, "prompt")), repr(files)]
    except (BadRow, OSError):
        return ["bad"]


def _sum(value: object) -> int:
    value = value.get("bytes") if isinstance(value, Mapping) else value
    return zlib.crc32(value) if isinstance(value, bytes) else 0


@torch.no_grad()
def fill(
    cache: SourceCache, hand: Hand, frames: Frames, shards: Sequence[int], native: bool, device: torch.device, batch: int = 16
) -> Iterator[int]:
    """Work out the shards that are missing; after each, the number of its rows. Rows that cannot be used are left out."""
    about = cache.latents_of.folder / "about.json"
    for shard in shards:
        rows = cache.rows(shard)
        raws = dict(_readable(cache, rows))
        if not cache.latents_of.path(shard).exists():
            cache.latents_of.write(shard, dict(_latents(cache, hand, frames, raws, device, batch)))
        if native and not cache.native_of.path(shard).exists():
            captions = {text for raw in raws.values() for text in _captions(cache, raw)}
            cache.native_of.write(shard, dict(_native(hand, sorted(captions), batch)))
        if not about.exists():
            write_whole(about, (json.dumps(cache.about, indent=1, default=str) + "\n").encode())
        yield len(rows)
    if native and not cache.native_of.path(cache.shards).exists():
        cache.native_of.write(cache.shards, dict(_native(hand, [""], batch)))


def _readable(cache: SourceCache, rows: range) -> Iterator[tuple[int, Raw]]:
    for index in rows:
        try:
            yield index, cache.feed.table.raw(index)
        except BadRow:
            continue


def _latents(
    cache: SourceCache, hand: Hand, frames: Frames, raws: Mapping[int, Raw], device: torch.device, batch: int
) -> Iterator[tuple[str, Tensor]]:
    waiting: dict[Size, list[tuple[int, Tensor]]] = {}

    def flush(size: Size) -> Iterator[tuple[str, Tensor]]:
        rows = waiting.pop(size)
        pixels = in_range(torch.stack([pixels for _, pixels in rows]).to(device))
        seeds = [row_noise(index) for index, _ in rows] if cache.mode == "sample" else None
        for (index, _), latents in zip(rows, hand.encode(pixels, seeds).cpu(), strict=True):
            yield str(index), latents.clone()

    def prepared(row: tuple[int, Raw]) -> tuple[int, Size, Tensor] | None:
        index, raw = row
        try:
            if (found := cache.feed.schema.target_size(raw)) is None:
                return None
            size, target = frames.nearest(*found), cache.feed.schema.example(raw, 0.0).target
            return index, size, torch.from_numpy(frames.fit(target, size).copy()).permute(2, 0, 1)  # type: ignore[arg-type]
        except BadRow:
            return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without holding the interpreter
        for row in pool.map(prepared, raws.items()):
            if row is not None:
                index, size, pixels = row
                waiting.setdefault(size, []).append((index, pixels))
                if len(waiting[size]) == batch:
                    yield from flush(size)
    for size in list(waiting):
        yield from flush(size)


def _captions(cache: SourceCache, raw: Raw) -> set[str]:
    """All that the hand's text encoder may be told of a row: `Mixture` takes the caption, or the thought, or the prompt."""
    try:
        return {text for field in ("caption", "thought", "prompt") for text in cache.feed.schema.texts(raw, field)}
    except BadRow:
        return set()


def _native(hand: Hand, captions: Sequence[str], batch: int) -> Iterator[tuple[str, Tensor]]:
    for start in range(0, len(captions), batch):
        some = captions[start : start + batch]
        condition = hand.describe(some)
        if condition is None:
            raise UserError("objective.distill: this hand has no text encoder to learn from; set objective.distill=0")
        condition = condition.apply(lambda tensor: tensor.cpu())
        for k, caption in enumerate(some):
            length = int(condition.mask[k].nonzero().max()) + 1  # padding on the right is made anew where conditions meet
            key = _key(caption)
            yield f"{key}.embeds", condition.embeds[k, :length].clone()
            yield f"{key}.mask", condition.mask[k, :length].clone()
            if condition.pooled is not None:
                yield f"{key}.pooled", condition.pooled[k].clone()


def _autoencoder(hand: Hand) -> str:
    vae = getattr(hand, "vae", None)
    return hand.identity["fingerprint"] if vae is None else fingerprint(vae.state_dict())


def _row(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor[None]


def _key(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()[:16]


def _digest(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()[:12]
