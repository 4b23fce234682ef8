"""A folder of pictures that somebody else drew: our own evaluation folder, a benchmark's official layout, or plain files by id."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from metabridge.bridge.errors import UserError
from metabridge.bridge.pixels import UNREADABLE, eight_bits, on_white, upright
from metabridge.eval import store
from metabridge.eval.benchmarks import Benchmark
from metabridge.eval.items import INFRA_ERROR, MODEL_ERROR, OK, Item
from metabridge.eval.plan import Sample
from metabridge.eval.subjects import Drawing
from metabridge.eval.subjects.asked import refuse_rows, refuse_settings

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_ROW = "bridge"  # the row of an evaluation folder that is looked at
_WHO = "a folder of pictures, which are drawn already"

Key = tuple[str, str, int]  # group, id, which of the prompt's pictures


class Unreadable(Exception):
    """Bytes that are no picture; says why."""


@dataclass(frozen=True)
class Found:
    """The pictures of a benchmark in a folder of one layout."""

    files: Mapping[Key, Path]
    lacks: Callable[[Key], str]  # the line for a picture that is not there
    drawn_by: Mapping[str, Any] | None = None
    failed: Mapping[Key, str] = field(default_factory=dict)  # those that could not be drawn, and why


class PicturesSubject:
    alone = True

    def __init__(self, name: str, folder: Path, found: Found) -> None:
        self._found, self._hashes = found, {key: _sha256(path) for key, path in found.files.items()}
        # over the whole benchmark's pictures, whatever part of it is asked for
        names = sorted((os.path.relpath(path, folder).replace(os.sep, "/"), self._hashes[key]) for key, path in found.files.items())
        digest = hashlib.sha256(repr((names, sorted(found.failed))).encode()).hexdigest()
        self.identity: Mapping[str, Any] = {"kind": "images", "name": name, "fingerprint": digest}
        if found.drawn_by is not None:
            self.identity = {**self.identity, "drawn_by": dict(found.drawn_by)}

    def generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        refuse_settings(asked, (), _WHO)
        return {}

    def draw(
        self, row: str, samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> list[Drawing]:
        refuse_rows(samples)
        return [self._drawing((sample.item.group, sample.item.id, sample.k)) for sample in samples]

    def holds(self, records: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether all that was taken from the folder (lines of drawn.jsonl) is there as it was; what was missing may have come since."""
        return all(self._same(_key(name)[1], record) for name, record in records.items())

    def _same(self, key: Key, record: Mapping[str, Any]) -> bool:
        if record["state"] == OK:
            return key in self._hashes and self._hashes[key] == record.get("source")
        return record["state"] == INFRA_ERROR or (key not in self._hashes and self._found.failed.get(key) == record["reason"])

    def _drawing(self, key: Key) -> Drawing:
        if (path := self._found.files.get(key)) is None:
            if key in self._found.failed:
                return Drawing(None, state=MODEL_ERROR, reason=self._found.failed[key])
            return Drawing(None, state=INFRA_ERROR, reason=self._found.lacks(key))
        try:
            data = path.read_bytes()
            return Drawing(decoded(data), source=hashlib.sha256(data).hexdigest())
        except Unreadable as error:
            return Drawing(None, state=INFRA_ERROR, reason=f"{path}: {error}")
        except OSError as error:
            return Drawing(None, state=INFRA_ERROR, reason=f"{path}: cannot be read ({error.strerror})")


def load(word: str, *, benchmark: Benchmark, data: Path | None = None) -> PicturesSubject:
    """The folder that holds pictures of this benchmark. `data`: where the benchmark's prompts lie."""
    folder = Path(word).expanduser()
    if not folder.is_dir():
        raise UserError(f"images:{word}: no such folder; give the one that holds the pictures")
    items = benchmark.items(data)
    tried = []
    for layout in (_own, _official, _plain):
        found, looked_for = layout(folder, benchmark, items)
        if found is not None and found.files:
            return PicturesSubject(word, folder, found)
        tried += looked_for
    raise UserError(f"images:{word}: no picture of {benchmark.name} there; looked for {'; '.join(tried)}")


def decoded(data: bytes) -> Image.Image:
    """Upright RGB of 8 bits; what is transparent shows white, 16 bits are rounded. Raises Unreadable."""
    if not data:
        raise Unreadable("0 bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return on_white(eight_bits(upright(image)))
    except UnidentifiedImageError as error:  # whose text names an address in memory
        raise Unreadable(f"no picture in its {len(data)} bytes") from error
    except UNREADABLE as error:
        raise Unreadable(" ".join(str(error).split()) or type(error).__name__) from error


Layout = tuple[Found | None, list[str]]  # and what was looked for


def _own(folder: Path, benchmark: Benchmark, items: Sequence[Item]) -> Layout:
    """images/<row>/<group>/<id>-<k>.png of an evaluation of ours, and what its plan.json says of who drew."""

    def name(key: Key) -> str:
        return f"images/{_ROW}/{key[0]}/{key[1]}-{key[2]}.png"

    wanted = {(item.group, item.id): item for item in items}
    files = _grouped(folder / "images" / _ROW, wanted, (".png",))
    drawn_by, failed = None, {}
    if (folder / "plan.json").is_file():
        drawn_by, failed = _drawn_by(folder / "plan.json", benchmark, wanted), _failed(folder / "drawn.jsonl")
    found = Found(files, lambda key: f"{folder}/{name(key)}: no such picture", drawn_by, failed)
    return found, [f"{name(_first(items))}, as in an evaluation folder"]


def _drawn_by(path: Path, benchmark: Benchmark, wanted: Mapping[tuple[str, str], Item]) -> Mapping[str, Any]:
    plan = store.read_json(path)
    try:
        model, texts = dict(plan["identity"]["model"]), {(item["group"], item["id"]): item["text"] for item in plan["items"]}
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no plan of this version ({error}); give the folder of the pictures themselves") from error
    for key, item in wanted.items():
        if texts.get(key, item.text) != item.text:
            raise UserError(
                f"{path}: {texts[key]!r} is not prompt {item.id} of {benchmark.name}, {item.text!r}; "
                "pictures of other prompts are another benchmark"
            )
    return dict(model.get("drawn_by", model))


def _failed(path: Path) -> dict[Key, str]:
    """Pictures that the model could not draw: they are not missing, they count as wrong."""
    failed = {}
    records = store.read(path, {"key": str, "state": str, "reason": str})
    for record in {record["key"]: record for record in records}.values():  # the last word on each
        row, key = _key(record["key"])
        if row == _ROW and record["state"] == MODEL_ERROR:
            failed[key] = record["reason"]
    return failed


def _key(name: str) -> tuple[str, Key]:
    """bridge/animals/cat-0, as drawn.jsonl calls a picture: its row, and the rest."""
    row, group, file = name.split("/")
    ident, _, k = file.rpartition("-")
    return row, (group, ident, int(k))


def _official(folder: Path, benchmark: Benchmark, items: Sequence[Item]) -> Layout:
    """As the official scorer wants them."""
    if (layout := benchmark.layout_module()) is None:
        return None, []
    try:
        files = layout.pictures(items, folder)
    except UserError as error:
        return None, [f"the official layout ({error})"]
    return Found(files, lambda key: f"{folder}: no such picture, {key[2]} of {key[0]}/{key[1]} in the official layout"), []


def _plain(folder: Path, benchmark: Benchmark, items: Sequence[Item]) -> Layout:
    """<id>-<k>.png, <id>.png of a prompt's only or first picture, or <group>/<id>-<k>.png; also .jpg, .jpeg and .webp."""
    by_id = {item.id: item.group for item in items}
    if len(by_id) < len(items):  # an id names an item only together with its group
        by_id = {}
    grouped = _grouped(folder, {(item.group, item.id): item for item in items}, ENDINGS)
    first = _keyed(((by_id[path.stem], path.stem, 0), path) for path in _pictures(folder, ENDINGS) if path.stem in by_id)
    numbered = _keyed(((by_id[ident], ident, k), path) for path, ident, k in _numbered(folder, ENDINGS) if ident in by_id)
    group, ident, _ = _first(items)
    names = [*([f"{ident}-0.png", f"{ident}.png"] if by_id else []), f"{group}/{ident}-0.png"]
    found = Found(
        {**grouped, **first, **numbered},
        lambda key: f"{folder}/{'' if by_id else f'{key[0]}/'}{key[1]}-{key[2]}.png: no such picture",
    )
    return found, [f"{', '.join(names)} (or {', '.join(ENDINGS[1:])})"]


def _grouped(folder: Path, wanted: Mapping[tuple[str, str], Item], endings: Sequence[str]) -> dict[Key, Path]:
    """<group>/<id>-<k> below the folder."""
    groups = dict.fromkeys(group for group, _ in wanted)
    rows = ((group, row) for group in groups for row in _numbered(folder / group, endings))
    return _keyed(((group, ident, k), path) for group, (path, ident, k) in rows if (group, ident) in wanted)


def _numbered(folder: Path, endings: Sequence[str]) -> Iterator[tuple[Path, str, int]]:
    """Files <id>-<k>, with both."""
    for path in _pictures(folder, endings):
        if match := re.fullmatch(r"(.+)-(0|[1-9]\d*)", path.stem):
            yield path, match[1], int(match[2])


def _pictures(folder: Path, endings: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and not path.name.startswith("."))


def _keyed(rows: Iterable[tuple[Key, Path]]) -> dict[Key, Path]:
    found: dict[Key, Path] = {}
    for key, path in rows:
        if key in found:
            raise UserError(f"{path}: the picture {found[key].name} a second time; remove one of them")
        found[key] = path
    return found


def _first(items: Sequence[Item]) -> Key:
    return items[0].group, items[0].id, 0


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); mend or remove it") from error
