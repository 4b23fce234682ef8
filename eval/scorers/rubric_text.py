"""What a judge is told: a text of the benchmark's file, of its data, or of the user's own, filled in for each item.

In a text, {prompt} is what was to be drawn, and each other name is a text of the item's `want`, as {explanation}. What stands before a line
that is [user] alone is the system message. A text of the benchmark's data has its own word for the prompt and is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from metabridge.bridge.errors import UserError, unknown
from metabridge.eval.items import Item
from metabridge.eval.judges import Message
from metabridge.eval.scorers.rubric_spec import Call, Spec

_PLACE = re.compile(r"\{([a-z]\w*)\}")
_USER = re.compile(r"^\[user\][ \t]*\n", re.MULTILINE)


@dataclass(frozen=True)
class Texts:
    """A call's text, or one for each group."""

    by_group: Mapping[str, str]  # one for all lies under ""
    prompt: str = ""  # the data's own word for the prompt

    def messages(self, item: Item, pictures: Sequence[Image.Image]) -> tuple[Message, ...]:
        text = self.by_group.get(item.group, self.by_group.get(""))
        if text is None:
            raise UserError(f"the judge's texts have none for {item.group}; they have {', '.join(sorted(self.by_group))}")
        parts = (
            [text.replace(self.prompt, item.text)]
            if self.prompt
            else [_filled(part.strip(), item) for part in _USER.split(text, maxsplit=1)]
        )
        system = tuple(Message("system", (part,)) for part in parts[:-1] if part)
        return (*system, Message("user", (parts[-1], *pictures)))


def load(spec: Spec, data: Path | None) -> dict[str, Texts]:
    """Call -> what it says; the user's own texts where the spec's template names them."""
    if not spec.template:
        return {call.name: Texts({"": call.text}) if isinstance(call.text, str) else _of_data(call, data) for call in spec.calls}
    path = Path(spec.template).expanduser()
    files = {call.name: path if len(spec.calls) == 1 else path / f"{call.name}.txt" for call in spec.calls}
    return {name: Texts({"": _read(file, "scoring.template")}) for name, file in files.items()}


def sha256(texts: Mapping[str, Texts]) -> str:
    """Of everything that a judge is told, before an item is filled in."""
    tree = {name: [dict(text.by_group), text.prompt] for name, text in texts.items()}
    return hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _filled(text: str, item: Item) -> str:
    fields = {"prompt": item.text, **{name: value for name, value in item.want.items() if isinstance(value, str)}}

    def field(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise UserError(f"the judge's text: {unknown(match[0], [f'{{{name}}}' for name in fields], 'place')}")
        return fields[match[1]]

    return _PLACE.sub(field, text)


def _of_data(call: Call, data: Path | None) -> Texts:
    assert not isinstance(call.text, str)
    where = f"scoring.calls.{call.name}.text"
    if data is None:
        raise UserError(f"{where}: {call.text['file']} lies in the benchmark's data folder, and none is given")
    path = data / call.text["file"]
    written = _read(path, where)
    try:
        texts = json.loads(written)
    except ValueError as error:
        raise UserError(f"{path}: no valid JSON ({error}); fetch the benchmark's data again") from error
    place = call.text["prompt"]
    if not isinstance(texts, dict) or not texts or not all(isinstance(text, str) and place in text for text in texts.values()):
        raise UserError(f"{path}: it is a mapping of groups to texts with {place} in them; fetch the benchmark's data again")
    return Texts(texts, place)


def _read(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: {path} cannot be read ({getattr(error, 'strerror', None) or error}); give a file of text") from error
