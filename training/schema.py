"""One schema for every source: the columns of a stored row -> an Example.

prompt text | images[] what the brain looks at | target what the hand should draw | thought | caption | history[] {role, text, images}
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.interfaces import Example, Turn
from metabridge.bridge.pixels import UNREADABLE, eight_bits, on_white, upright

FIELDS = ("prompt", "images", "target", "thought", "caption", "history")
USUAL = {  # names under which public sets keep a field, looked for in this order where `map` does not name a column
    "prompt": ("prompt", "instruction", "caption", "text", "txt"),
    "images": ("images", "input_images", "input_image", "source_images", "source_image"),
    "target": ("target", "output_image", "target_image", "image", "jpg", "png", "webp", "jpeg"),
    "thought": ("thought",),
    "caption": ("native_caption",),
    "history": ("history",),
}
LITERAL = "="  # `map: {prompt: "=Keep the picture."}` is this text for every row


class BadRow(Exception):
    """This one row cannot be used; another takes its place, and it is counted. The message says why, in words of the row."""


@dataclass(frozen=True)
class Raw:
    """A row as it is stored: nothing decoded."""

    columns: Mapping[str, Any]
    where: str  # for messages, as rows.jsonl:17
    root: Path | None = None  # relative paths of pictures start here


@dataclass(frozen=True)
class Schema:
    """Which columns hold what. A path has dots: `json.caption`, `input_images.0`."""

    fields: Mapping[str, tuple[str, ...]]  # field -> paths; several of a text are alternatives, several of pictures stand side by side

    @staticmethod
    def of(mapping: object, columns: Sequence[str], source: str) -> Schema:
        """From `map:` of a recipe and the columns of a first row."""
        if not isinstance(mapping, Mapping):
            raise UserError(
                f"data {source}.map: {mapping!r} given; give a mapping of fields to columns, as {{prompt: caption, target: jpg}}"
            )
        found: dict[str, tuple[str, ...]] = {}
        for field, value in mapping.items():
            if field not in FIELDS:
                raise UserError(unknown(f"data {source}.map.{field}", FIELDS, "field"))
            paths = tuple(value) if isinstance(value, list | tuple) else (value,)
            for path in paths:
                if not isinstance(path, str) or not path:
                    raise UserError(f"data {source}.map.{field}: {path!r} given; it is the name of a column")
                if not path.startswith(LITERAL) and path.split(".")[0] not in columns and path not in columns:
                    raise UserError(unknown(path, columns, f"column of data {source} ({field})"))
            found[str(field)] = paths
        taken = {path for paths in found.values() for path in paths}
        for field, names in USUAL.items():
            if field not in found:
                known = [name for name in names if name in columns and name not in taken]
                found |= {field: (known[0],)} if known else {}
        if missing := [field for field in ("prompt", "target") if field not in found]:
            raise UserError(
                f"data {source}: no column for {missing[0]}; the columns are {', '.join(columns) or '(none)'}: "
                f"name one, as map: {{{missing[0]}: {columns[0] if columns else 'COLUMN'}}}"
            )
        return Schema(found)

    def example(self, raw: Raw, choice: float) -> Example:
        """The row, its pictures opened but not decoded. `choice` in [0, 1) picks among a text's alternatives."""
        pictures = [picture(value, raw) for value in self.values(raw, "images")]
        targets = self.values(raw, "target")
        if not targets:
            raise BadRow("no target picture")
        return Example(
            prompt=self._text(raw, "prompt", choice) or "",
            images=tuple(pictures),
            target=picture(targets[0], raw),
            history=tuple(turn(entry, raw) for entry in self.values(raw, "history")),
            thought=self._text(raw, "thought", choice) or None,
            caption=self._text(raw, "caption", choice) or None,
        )

    def target_size(self, raw: Raw) -> tuple[int, int] | None:
        """Width and height of the target, from the picture's header; None where it cannot be read."""
        try:
            targets = self.values(raw, "target")
            if targets and (file := file_of(targets[0], raw)) is not None:
                with Image.open(file) as image:  # its header alone is read
                    return upright_size(image)
            return upright_size(picture(targets[0], raw)) if targets else None
        except (BadRow, *UNREADABLE):
            return None

    def texts(self, raw: Raw, field: str) -> list[str]:
        """Every alternative of a text."""
        values = [value for path in self.fields.get(field, ()) for value in _flat(_at(raw.columns, path))]
        for value in values:
            if not isinstance(value, str):
                raise BadRow(f"{field} is no text but {type(value).__name__}")
        return [value.strip() for value in values if value.strip()]

    def _text(self, raw: Raw, field: str, choice: float) -> str | None:
        texts = self.texts(raw, field)
        if not texts:
            if field == "prompt":
                raise BadRow("no prompt")
            return None
        return texts[int(choice * len(texts))]

    def values(self, raw: Raw, field: str) -> list[Any]:
        return [value for path in self.fields.get(field, ()) for value in _flat(_at(raw.columns, path))]


def picture(value: object, raw: Raw) -> Image.Image:
    """A picture from what a row holds: a path, its bytes, what Hugging Face datasets store, or a picture already."""
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, Mapping) and value.get("bytes"):  # datasets: Image(decode=False)
        value = value["bytes"]
    try:
        if (file := file_of(value, raw)) is not None:
            value = file.read_bytes()
        if not isinstance(value, bytes | bytearray | memoryview):
            raise BadRow(f"a picture is missing ({value!r:.60})")
        if not len(value):
            raise BadRow("a picture of zero bytes")
        return Image.open(io.BytesIO(value))
    except UNREADABLE as error:
        raise BadRow(f"a picture cannot be opened ({_said(error)})") from error


def file_of(value: object, raw: Raw) -> Path | None:
    """Where a picture lies that a row keeps as a path; None where it keeps the picture itself."""
    if isinstance(value, Mapping) and not value.get("bytes"):
        value = value.get("path")
    if not isinstance(value, str):
        return None
    if value.startswith(("http://", "https://")):
        raise BadRow(f"a picture is a URL ({value[:80]}); download it first")
    return Path(raw.root or ".", value).expanduser()


def decoded(image: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """Upright RGB pixels. `size` (width, height): no more of a JPEG is decoded than this needs; transparency lies on white."""
    try:
        if size is not None and image.format == "JPEG":
            image.draft("RGB", (max(size),) * 2)  # either way up
        image = upright(image)  # a copy only where it was turned: one is a third of a JPEG's decoding
        image.load()
        return on_white(eight_bits(image))
    except UNREADABLE as error:
        raise BadRow(f"a picture cannot be decoded ({_said(error)})") from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as it is looked at, without decoding: a PNG's own getexif would read all of it."""
    sideways = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return image.size[::-1] if sideways else image.size


def turn(entry: object, raw: Raw) -> Turn:
    """One earlier turn: {role: user | assistant, text, images, think}; the words of chat data, {from, value} and content, are known too."""
    if not isinstance(entry, Mapping):
        raise BadRow("history is no list of turns {role, text, images}")
    role = str(entry.get("role") or entry.get("from") or "")
    role = {"human": "user", "gpt": "assistant"}.get(role, role)
    if role not in ("user", "assistant"):
        raise BadRow(f"history: a turn's role is {role or 'missing'!r}; it is user or assistant")
    text = entry.get("text") or entry.get("content") or entry.get("value") or ""
    if not isinstance(text, str):
        raise BadRow("history: a turn's text is no text")
    think = entry.get("think", False)
    if not isinstance(think, bool) or (think and role == "assistant"):
        raise BadRow(
            "history: a turn's think is no true or false, or it is an assistant's; it says that a user's text was to be thought about"
        )
    return Turn(role, text, tuple(picture(value, raw) for value in _flat(entry.get("images"))), think)


def _at(columns: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none. A column whose own name has dots comes first."""
    if path.startswith(LITERAL):
        return path.removeprefix(LITERAL)
    if path in columns:
        return columns[path]
    node: Any = columns
    for key in path.split("."):
        if isinstance(node, Mapping):
            node = node.get(key)
        elif isinstance(node, list | tuple) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node


def _flat(value: object) -> list[Any]:
    """One value or a list of them, without what is missing."""
    rows = value if isinstance(value, list | tuple) else [value]
    return [row for row in rows if row is not None]


def _said(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose own words hold an address
        return "in no format that Pillow knows"
    return " ".join(str(error).split())[:120] or type(error).__name__
