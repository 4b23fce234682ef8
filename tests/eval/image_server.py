"""A server of `/v1/images/...` on this machine that does as it is told, and gives out pictures by GET."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from tests.eval.judge_server import Reply, ScriptedServer, of

MODEL = "scripted-painter"
SIZE = (24, 16)


@dataclass(frozen=True)
class Seen:
    """A request that has arrived; of a multipart one the pictures, too."""

    number: int  # 0, 1, ... over the server's life
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    fields: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[tuple[str, Image.Image], ...] = ()  # name of its field, picture


def color(fields: dict[str, Any]) -> tuple[int, int, int]:
    """The picture of a prompt and a seed: one color."""
    seed = int(fields.get("seed", 0))
    return (sum(map(ord, fields["prompt"])) % 256, seed // 1000, seed % 1000)


def encoded(fill: tuple[int, int, int], size: tuple[int, int] = SIZE, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, fill).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def paints(seen: Seen) -> Reply:
    """What is asked for, as OpenAI's endpoint answers."""
    width, _, height = seen.fields.get("size", "x".join(map(str, SIZE))).partition("x")
    data = encoded(color(seen.fields), (int(width), int(height)))
    return of({"created": 1, "data": [{"b64_json": base64.b64encode(data).decode()}]})


class ImageServer(ScriptedServer[Seen]):
    """A reply of None in its script: paint. GET /pictures/R-G-B.png is that color; any other GET is 404."""

    def __init__(self, script: Sequence[Reply | None] | Callable[[Seen], Reply]) -> None:
        super().__init__(script)

    @property
    def word(self) -> str:
        return f"{self.root}/v1#{MODEL}"

    @property
    def posts(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "POST"]

    def see(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Seen:
        fields, pictures = _read(headers.get("content-type", ""), body) if method == "POST" else ({}, ())
        return Seen(len(self.posts), method, path, headers, fields, pictures)

    def reply(self, seen: Seen) -> Reply:
        return _given(seen.path) if seen.method == "GET" else super().reply(seen) or paints(seen)


def _given(path: str) -> Reply:
    name = path.partition("?")[0].removeprefix("/pictures/").removesuffix(".png")
    if not path.startswith("/pictures/"):
        return Reply(status=404)
    red, green, blue = map(int, name.split("-"))
    return Reply(encoded((red, green, blue)), headers={"content-type": "image/png"})


def _read(kind: str, body: bytes) -> tuple[dict[str, Any], tuple[tuple[str, Image.Image], ...]]:
    if not kind.startswith("multipart/form-data"):
        return json.loads(body), ()
    whole = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(f"content-type: {kind}\r\n\r\n".encode() + body)
    fields, pictures = {}, []
    for part in whole.iter_parts():
        name, content = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        if part.get_filename():
            pictures.append((str(name), Image.open(io.BytesIO(content))))
        else:
            fields[str(name)] = content.decode()
    return fields, tuple(pictures)
