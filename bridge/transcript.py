"""A conversation on disk: conversation.json, in words, beside the pictures that it names.

A picture's file is named after what is in it and never written again; conversation.json is replaced in one step, after the pictures and
before those that it no longer names go. So at every moment the folder holds one whole conversation, what else lies in it stays, and saving
after each turn writes that turn alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from metabridge.bridge.conversation import Conversation, Turn, known
from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.files import write_whole
from metabridge.bridge.identity import PARTS, difference
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.pixels import UNREADABLE

FORMAT = 1
FILE, PICTURES = "conversation.json", "pictures"
NAMED = re.compile(r"\d+-(drawn|given)-[0-9a-f]{16}\.png")
EXACT = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that a PNG holds as they are

KINDS = {"negative_prompt": (str, type(None)), "references": (bool,)}  # of settings; the others are numbers

Entry = dict[str, Any]


def save(conversation: Conversation, folder: str | Path) -> None:
    """Write the whole conversation; what was saved there before is there until then."""
    folder = Path(folder)
    try:
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        turns = [_entry(folder, number, turn) for number, turn in enumerate(conversation.turns, 1)]
        config = {
            "format": FORMAT,
            "bridge": {"name": conversation.pipeline.name, **conversation.pipeline.identity},
            "think": conversation.think,
            "max_new_tokens": conversation.max_new_tokens,
            "settings": conversation.settings,
            "turns": turns,
        }
        write_whole(folder / FILE, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())
        _clear(folder / PICTURES, turns)
    except OSError as error:
        line = error.strerror or " ".join(str(error).split())
        raise UserError(f"{folder}: the conversation cannot be saved ({line}); make room or give another folder") from error


def load(pipeline: BridgePipeline, folder: str | Path) -> Conversation:
    """Go on with a saved conversation, with the bridge that it was held with."""
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; give one that a conversation was saved in")
    config = Read(_json(folder), str(folder / FILE))
    if config.tree.get("format") != FORMAT:
        raise UserError(f"{config.where}: format {config.tree.get('format')!r}, this version reads {FORMAT}; update metabridge")
    if differs := difference(_checked_bridge(config.part("bridge")).tree, pipeline.identity):
        raise UserError(f"{folder}: this conversation was held with {differs}; give the bridge {config.tree['bridge']['name']}")
    turns = [_turn(folder, Read(tree, f"{config.where}: turns.{k}"), k) for k, tree in enumerate(config.value("turns", list))]
    conversation = Conversation(pipeline, config.value("think", bool), config.value("max_new_tokens", int), **_settings(config))
    conversation.resume(turns)
    return conversation


@dataclasses.dataclass(frozen=True)
class Read:
    """A mapping of conversation.json; what is missing in it, or of another kind, is named."""

    tree: dict[str, Any]
    where: str

    def __post_init__(self) -> None:
        if not isinstance(self.tree, dict):
            raise UserError(f"{self.where} is damaged; copy the conversation again")

    def value(self, key: str, *kinds: type[Any]) -> Any:
        # of a number: true is none
        if not isinstance(found := self.tree.get(key, ...), kinds) or (isinstance(found, bool) and bool not in kinds):
            raise UserError(f"{self.where}: {key} is missing or damaged; copy the conversation again")
        return found

    def part(self, key: str) -> Read:
        return Read(self.value(key, dict), f"{self.where}: {key}")


def _json(folder: Path) -> Any:
    try:
        return json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no {FILE} in it; give a folder that a conversation was saved in") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / FILE}: cannot be read ({' '.join(str(error).split())}); copy the conversation again") from error


def _checked_bridge(read: Read) -> Read:
    """All that `difference` will look at is there."""
    for key in ("name", "content"):
        read.value(key, str)
    for kind in PARTS:
        for key in ("repo", "fingerprint"):
            read.part(kind).value(key, str)
    return read


def _entry(folder: Path, number: int, turn: Turn) -> Entry:
    """A turn as conversation.json has it, its pictures written."""
    return {
        "prompt": turn.prompt,
        "images": [_written(folder, number, "given", image) for image in turn.images],
        "think": turn.think,
        "said": turn.said,
        "drawn": None if turn.drawn is None else _written(folder, number, "drawn", turn.drawn),
        "seed": turn.seed,
        "settings": turn.settings,
        "forgotten": turn.forgotten,
    }


def _turn(folder: Path, read: Read, before: int) -> Turn:
    """One that has so many before it."""
    if extra := read.tree.keys() - (names := {f.name for f in dataclasses.fields(Turn)}):
        raise UserError(unknown(f"{read.where}.{min(extra)}", names, "part of a turn"))
    if not 0 <= (forgotten := read.value("forgotten", int)) <= before:
        raise UserError(f"{read.where}: forgotten is {forgotten}, of {before} turns before it; copy the conversation again")
    return Turn(
        prompt=read.value("prompt", str),
        images=tuple(_picture(folder, shown, f"{read.where}: images") for shown in read.value("images", list)),
        think=read.value("think", bool),
        said=read.value("said", str, type(None)),
        drawn=None if read.value("drawn", str, dict, type(None)) is None else _picture(folder, read.tree["drawn"], f"{read.where}: drawn"),
        seed=read.value("seed", int, type(None)),
        settings=_settings(read),
        forgotten=forgotten,
    )


def _settings(read: Read) -> dict[str, Any]:
    try:
        settings = known(read.value("settings", dict))
    except UserError as error:
        raise UserError(f"{read.where}: {error}") from error
    for name in settings:
        Read(settings, f"{read.where}: settings").value(name, *KINDS.get(name, (int, float, type(None))))
    return settings


def _written(folder: Path, number: int, kind: str, image: Image.Image) -> str | Entry:
    """The picture's file, as seen from the folder; for a mode that PNG has not, with how its bytes are to be understood."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if image.mode == "PA":  # whose palette its bytes do not hold
        image = image.convert("RGBA")
    held = (image.mode, image.size, image.getpalette("RGBA") if image.mode == "P" else None, image.info.get("transparency"), orientation)
    digest = hashlib.sha256(repr(held).encode() + image.tobytes()).hexdigest()
    name = f"{PICTURES}/{number:02d}-{kind}-{digest[:16]}.png"
    raw = image.mode not in EXACT
    if not (folder / name).exists():
        write_whole(folder / name, _png(_as_bytes(image) if raw else image, orientation))
    return {"file": name, "mode": image.mode, "size": list(image.size), "orientation": orientation} if raw else name


def _as_bytes(image: Image.Image) -> Image.Image:
    """A grey picture whose rows are the bytes of another's."""
    data = image.tobytes()
    return Image.frombytes("L", (len(data) // image.height, image.height), data)


def _png(image: Image.Image, orientation: int) -> bytes:
    """How a picture is held counts as much as its pixels: a brain reads it upright. What else a camera noted does not travel."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif if orientation != 1 else b"")
    return buffer.getvalue()


def _picture(folder: Path, shown: object, where: str) -> Image.Image:
    held: Mapping[str, Any] = shown if isinstance(shown, Mapping) else {"file": shown}
    if not isinstance(name := held.get("file"), str):
        raise UserError(f"{where} is damaged; copy the conversation again")
    try:
        with Image.open(folder / name) as found:
            found.load()
        if "mode" not in held:
            return found
        image = Image.frombytes(held["mode"], tuple(held["size"]), found.tobytes())
        image.getexif()[ExifTags.Base.Orientation] = held["orientation"]
        return image
    except FileNotFoundError:
        raise UserError(f"{where}: {folder / name} is missing; copy the conversation again") from None
    except UNREADABLE as error:
        line = " ".join(str(error).split())
        raise UserError(f"{where}: {folder / name} cannot be read ({line}); copy the conversation again") from error


def _clear(pictures: Path, turns: list[Entry]) -> None:
    """Remove pictures of turns that were taken back."""
    shown = [each for turn in turns for each in (*turn["images"], turn["drawn"]) if each is not None]
    kept = {Path(each if isinstance(each, str) else each["file"]).name for each in shown}
    for path in pictures.iterdir():
        if NAMED.fullmatch(path.name) and path.name not in kept:
            path.unlink()
