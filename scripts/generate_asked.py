"""What `metabridge generate` is asked for: prompts, from the command line or a file, each with its pictures, thought and seed."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.pixels import UNREADABLE
from metabridge.bridge.thinking import MODES

ROW = ("prompt", "images", "thought", "seed")  # of a prompts file
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Options:
    """The command line; None, False or () = not given."""

    images: tuple[Path, ...] = ()
    prompts: Path | None = None
    think: bool = False
    think_mode: str | None = None
    thought: str | None = None
    n: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    image_guidance: float | None = None
    negative: str | None = None
    preserve: float | None = None
    height: int | None = None
    width: int | None = None
    batch_size: int | None = None
    max_new_tokens: int | None = None
    quantize: str | None = None
    offload: bool = False
    json: bool = False
    again: Path | None = None

    def given(self) -> list[str]:
        """The options that say how to draw, as they are typed."""
        names = {"images": "--image", "n": "-n"}
        values = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name not in ("offload", "json", "again")]
        said = [name for name, value in values if value is not None and value is not False and value != ()]
        return [names.get(name, f"--{name.replace('_', '-')}") for name in said]


@dataclass(frozen=True)
class Source:
    """A picture that is given."""

    path: Path
    sha256: str

    @property
    def image(self) -> Image.Image:
        """Decoded when it is asked for: a list may have more pictures than memory holds."""
        return _decoded(self)


@dataclass(frozen=True)
class Job:
    """A prompt with all that comes with it."""

    prompt: str
    sources: tuple[Source, ...]
    thought: str | None  # given, or written by now
    seed: int
    where: str = "prompt"  # for what is wrong with it
    rewritten: bool = False  # the thought is read in the place of the prompt


def jobs_of(prompts: Sequence[str], options: Options) -> list[Job]:
    if prompts and options.prompts:
        raise UserError(f"--prompts {options.prompts}: prompts are given beside it; give the one or the other")
    seen: dict[Path, Source] = {}
    shared = [_source(path, f"--image {path}", seen) for path in options.images]
    seed = options.seed or 0
    if options.prompts is None:
        jobs = [Job(prompt, tuple(shared), options.thought, seed) for prompt in prompts]
    else:
        rows = _rows(options.prompts)
        jobs = [_job(row, where, options.prompts.parent, shared, seed, seen) for where, row in rows]
        if options.seed is not None and all(row.get("seed") is not None for _, row in rows):
            raise UserError(f"--seed {options.seed}: has no effect, each row of {options.prompts} has a seed of its own; leave it out")
    _refuse(jobs, options)
    return jobs


def _refuse(jobs: Sequence[Job], options: Options) -> None:
    """What is empty, or has no effect."""
    if not jobs:
        raise UserError("PROMPT: none given; say what to draw, or give --prompts FILE")
    for job in jobs:
        check_text(job.prompt, job.where, "say what to draw")
        if job.thought is not None:
            check_text(
                job.thought, "--thought" if job.where == "prompt" else f"{job.where}: thought", "say how to draw it, or leave it out"
            )
    if options.negative is not None:
        check_text(options.negative, "--negative", "say what not to draw, or leave it out")
    if options.thought is not None and (len(jobs) > 1 or options.prompts):
        raise UserError("--thought: goes with one prompt; give each its own in a file of rows (--prompts FILE.jsonl)")
    if options.think_mode is not None and not options.think:
        raise UserError(f"--think-mode {options.think_mode}: has no effect without --think; add --think")
    if options.think_mode is not None and options.think_mode not in MODES:
        raise UserError(f"--think-mode: {options.think_mode!r} given; it is one of: {', '.join(MODES)}")
    if options.max_new_tokens is not None and not options.think:
        raise UserError(f"--max-new-tokens {options.max_new_tokens}: has no effect without --think; add --think")
    if options.think and all(job.thought is not None for job in jobs):
        raise UserError("--think: has no effect, the thought is given; leave out the one or the other")


def check_text(text: str, where: str, advice: str) -> None:
    if not text.strip():
        raise UserError(f"{where}: empty; {advice}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: holds bytes that are no UTF-8; write it in UTF-8") from None


def _rows(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Where a row stands, and the row: JSON where the first line is, else a prompt a line. Empty lines are none."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"--prompts {file}: cannot be read ({reason}); give a file of prompts") from error
    lines = [(f"{file}, line {number}", line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"--prompts {file}: no prompt in it; write one a line")
    if not lines[0][1].startswith("{"):
        return [(where, {"prompt": line}) for where, line in lines]
    return [(where, _json(line, where)) for where, line in lines]


def _json(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({' '.join(str(error).split())}); write each row as the first one, on a line") from error
    if not isinstance(row, dict):
        raise UserError(f'{where}: not a row; write {{"prompt": ...}}')
    for key in row:
        if key not in ROW:
            raise UserError(unknown(f"{where}.{key}", ROW, "key of a row"))
    return row


def _job(row: dict[str, Any], where: str, folder: Path, shared: list[Source], seed: int, seen: dict[Path, Source]) -> Job:
    """`shared`: pictures that go with every prompt, before its own."""
    if not isinstance(prompt := row.get("prompt"), str):
        raise UserError(f"{where}: prompt is {'missing' if prompt is None else 'not a text'}; say what to draw")
    names = row.get("images") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{where}: images is not a list of paths; write ["a.png"]')
    if not isinstance(thought := row.get("thought"), str | None):
        raise UserError(f"{where}: thought is not a text; write one, or leave it out")
    own = seed if row.get("seed") is None else row["seed"]
    if not isinstance(own, int) or isinstance(own, bool) or not 0 <= own <= LARGEST_SEED:
        raise UserError(f"{where}: seed is {own!r}; it is a whole number from 0 to 2**63 - 1")
    sources = [_source(folder / name, f"{where}: {folder / name}", seen) for name in names]
    return Job(prompt, (*shared, *sources), thought, own, where)


def _source(path: Path, where: str, seen: dict[Path, Source]) -> Source:
    """Each file is looked at once, however many prompts it goes with."""
    if path not in seen:
        seen[path], _ = opened(path, where)
    return seen[path]


@lru_cache(maxsize=16)
def _decoded(given: Source) -> Image.Image:
    found, image = opened(given.path, str(given.path))
    if found != given:
        raise UserError(f"{given.path}: is another picture now than when this began; run the command again")
    return image


def opened(path: Path, where: str) -> tuple[Source, Image.Image]:
    """Read a picture to its last byte, so that a file cut short is found here."""
    from metabridge.bridge.asked import check_picture

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{where}: no such file; give a picture") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UserError(f"{where}: cannot be read ({getattr(error, 'strerror', error)}); give a picture") from error
    if not data:
        raise UserError(f"{where}: is empty (0 bytes); give a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused here
            with Image.open(io.BytesIO(data)) as image:
                check_picture(image)
                image.load()
                return Source(path, hashlib.sha256(data).hexdigest()), ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise UserError(f"{where}: not a picture that can be read; give a PNG, JPEG or WebP") from None
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('image: ')}") from error
    except UNREADABLE as error:
        raise UserError(f"{where}: damaged or unreadable ({' '.join(str(error).split())}); give another file") from error
