"""Rows written as webdataset shards, which our own source reads without a map: the same rows give the same bytes, at any time.

OUT/shard-000000.tar    000000017.jpg (target), 000000017.0.jpg, .1.jpg ... (pictures to look at), 000000017.turn0.jpg (of the history),
                        000000017.json {prompt, thought, native_caption, history}; the key is the row's number in its source
OUT/manifest.json       what was converted how, and the shards; `complete` once all are there
OUT/bad_rows.jsonl      rows that could not be used, with the reason
OUT/.progress/          a record for each shard that is whole, until all are
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import whole, write_whole
from metabridge.training.feeds import Made, Streamed, Tabled
from metabridge.training.schema import BadRow, Raw, decoded, upright_size
from metabridge.training.survey import Row, row_at

VERSION = 1
KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # formats whose bytes may stay as they are
SAVED = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
FORMATS = ("keep", *SAVED)
MEASURED = 64  # rows, for how many fill a shard of so many bytes


@dataclass(frozen=True)
class Pictures:
    """How pictures are stored."""

    format: str = "keep"
    size: int = 0  # greatest length of the shorter side; 0 = as it is
    quality: int = 92

    def encode(self, image: Image.Image) -> tuple[str, bytes]:
        """Extension and bytes: those that were stored, where nothing has to change. BadRow of a picture that cannot be decoded."""
        data = stored(image)
        known = KEPT.get(image.format or "", "png")
        wanted = known if self.format == "keep" else self.format
        width, height = upright_size(image)
        shrunk = 0 < self.size < min(width, height)
        keep = data is not None and image.format in KEPT and wanted == known and not shrunk
        # at an eighth of its size a JPEG is read to its end just the same
        pixels = decoded(image, (1, 1) if keep else (self.size, self.size) if shrunk else None)
        if keep:
            assert data is not None
            return wanted, data
        if shrunk:
            scale = self.size / min(width, height)
            pixels = pixels.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        pixels.save(buffer, SAVED[wanted], quality=self.quality)
        return wanted, buffer.getvalue()


def stored(image: Image.Image) -> bytes | None:
    """The bytes that a picture was opened from; None of one that was drawn."""
    file = getattr(image, "fp", None)
    if file is None:
        return None
    place = file.tell()
    file.seek(0)
    data: bytes = file.read()
    file.seek(place)
    return data


def members(row: Row, pictures: Pictures) -> dict[str, bytes]:
    """Extension -> content of a row."""
    example = row.example
    if example is None or example.target is None:
        raise BadRow(row.error or "no target picture")
    found: dict[str, bytes] = {}

    def put(image: Image.Image, place: str) -> str:
        extension, data = pictures.encode(image)
        found[f"{place}{extension}"] = data
        return f"{place}{extension}"

    put(example.target, "")
    for number, image in enumerate(example.images):
        put(image, f"{number}.")
    count = itertools.count()
    history = [
        {"role": turn.role, "text": turn.text, "images": [put(image, f"turn{next(count)}.") for image in turn.images], "think": turn.think}
        for turn in example.history
    ]
    texts = {"prompt": _one(row.prompts), "thought": _one(row.thoughts), "native_caption": example.caption, "history": history}
    found["json"] = json.dumps(texts, ensure_ascii=False).encode()
    return found


def _one(texts: tuple[str, ...]) -> str | list[str] | None:
    return list(texts) if len(texts) > 1 else texts[0] if texts else None


@dataclass(frozen=True)
class Job:
    """What is converted to where; sent to every process."""

    feed: Made | Tabled | Streamed
    out: Path
    pictures: Pictures
    rows: int | None  # None = until a stream ends
    per_shard: int

    @property
    def shards(self) -> int | None:
        return None if self.rows is None else -(-self.rows // self.per_shard)

    def record(self, number: int) -> Path:
        return self.out / ".progress" / f"{name_of(number)}.json"

    def done(self, number: int) -> dict[str, Any] | None:
        """The record of a shard that is whole, from this run or one before."""
        try:
            record: dict[str, Any] = json.loads(self.record(number).read_bytes())
            return record if (self.out / record["name"]).stat().st_size == record["bytes"] else None
        except (OSError, ValueError):
            return None


def name_of(number: int) -> str:
    return f"shard-{number:06d}.tar"


def write_shard(job: Job, number: int, met: Any = None) -> dict[str, Any]:
    """A shard of a table. `met` is called after each row."""
    assert job.rows is not None and not isinstance(job.feed, Streamed)
    feed = job.feed
    first = number * job.per_shard
    rows = (row_at(feed, index) for index in range(first, min(first + job.per_shard, job.rows)))
    return _write(job, number, rows, met)


def stream_shards(job: Job, met: Any = None) -> Iterator[dict[str, Any]]:
    """Every shard of a stream, in order; those that are whole are not read again."""
    assert isinstance(job.feed, Streamed)
    state, left = None, job.rows
    for number in itertools.count():
        record = job.done(number)
        if record is None:
            stream, after = job.feed.stream.rows(0, state), [state]
            rows = _streamed(job.feed, itertools.islice(stream, job.per_shard if left is None else min(left, job.per_shard)), after)
            record = _write(job, number, rows, met, after)
        state = record["state"]
        if record["rows"] or record["bad"]:
            yield record
        left = None if left is None else left - record["rows"] - len(record["bad"])
        if left == 0 or record["rows"] + len(record["bad"]) < job.per_shard:
            return


def _streamed(feed: Streamed, rows: Iterator[tuple[Raw | BadRow, Any]], after: list[Any]) -> Iterator[Row]:
    for row, state in rows:
        after[0] = state
        yield Row("a row of the stream", error=str(row)) if isinstance(row, BadRow) else Row.of(row, feed.schema)


def _write(job: Job, number: int, rows: Iterator[Row], met: Any, after: list[Any] | None = None) -> dict[str, Any]:
    path, good, bad = job.out / name_of(number), 0, []
    try:
        with whole(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for index, row in enumerate(rows, number * job.per_shard):
                try:
                    for extension, data in members(row, job.pictures).items():
                        info = tarfile.TarInfo(f"{index:09d}.{extension}")  # of no time and of nobody, so that bytes are the same
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
                    good += 1
                except BadRow as row_error:
                    bad.append({"row": index, "where": row.where, "reason": str(row_error)})
                if met is not None:
                    met(not bad or bad[-1]["row"] != index)
        if not good and not bad:  # a stream that ended with the shard before
            path.unlink()
        size = path.stat().st_size if good or bad else 0
        record = {"name": path.name, "rows": good, "bytes": size, "bad": bad, "state": None if after is None else after[0]}
        write_whole(job.record(number), json.dumps(record).encode())
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "make room" if full else "mend it"
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); the shards before are whole: {advice} and run the same command again"
        ) from error
    return record


def rows_per_shard(feed: Made | Tabled, rows: int, size: int, pictures: Pictures) -> int:
    """How many rows fill a shard of about `size` bytes, by some of them, evenly over all."""
    sizes = []
    for place in range(min(MEASURED, rows)):
        try:
            found = members(row_at(feed, place * rows // min(MEASURED, rows)), pictures)
            sizes.append(sum(512 + -(-len(data) // 512) * 512 for data in found.values()))
        except BadRow:
            continue
    return max(1, round(size / (sum(sizes) / len(sizes)))) if sizes else rows


def begin(out: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of an earlier run of the same command in this folder, if there is one; a UserError if it was another command."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".progress").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror}); give another folder") from error
    for leftover in out.glob(".shard-*.tmp"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    if not (out / "manifest.json").is_file():
        if next(out.glob("*.tar"), None):
            raise UserError(f"--out {out}: holds tars of something else; give another folder")
        return None
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_bytes())
    for key in asked | manifest["asked"]:
        was, now = manifest["asked"].get(key), asked.get(key)
        if was != now:
            raise UserError(
                f"--out {out}: holds shards made with {key} {was!r}, and {now!r} is given; give another folder, or the same {key}"
            )
    return manifest


def write_manifest(job: Job, asked: Mapping[str, Any], shards: list[dict[str, Any]] | None) -> None:
    """Before the first shard, `shards` None, and after the last."""
    found = [
        {key: record[key] if key != "bad" else len(record[key]) for key in ("name", "rows", "bad", "bytes")} for record in shards or ()
    ]
    manifest = {
        "version": VERSION,
        "complete": shards is not None,
        "asked": dict(asked),
        "rows_per_shard": job.per_shard,
        **{key: sum(record[key] for record in found) for key in ("rows", "bad", "bytes")},
        "shards": found,
    }
    if shards is not None:
        lines = (json.dumps(bad, ensure_ascii=False) + "\n" for record in shards for bad in record["bad"])
        write_whole(job.out / "bad_rows.jsonl", "".join(lines).encode())
    write_whole(job.out / "manifest.json", (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    if shards is not None:
        for record in (job.out / ".progress").iterdir():
            record.unlink()
        (job.out / ".progress").rmdir()
