"""A server of `/v1/images/...` on this machine that does as it is told, and gives out pictures by GET."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any

from PIL import Image

from tests.eval.judge_server import Reply, of

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


class ImageServer:
    """`with ImageServer(script) as server`. `script`: a reply (or None: paint) each in turn, the last one for ever; or a function.

    GET /pictures/R-G-B.png is that color; any other GET is 404.
    """

    def __init__(self, script: Sequence[Reply | None] | Callable[[Seen], Reply]) -> None:
        self.script, self.seen = script, list[Seen]()
        self.busy = self.most_busy = 0
        self.broken: BaseException | None = None  # what a script raised
        self.lock, self.stopped = Lock(), Event()
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def word(self) -> str:
        return f"{self.root}/v1#{MODEL}"

    @property
    def posts(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "POST"]

    def __enter__(self) -> ImageServer:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        if self.broken is not None:
            raise self.broken

    def reply_to(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        fields, pictures = _read(headers.get("content-type", ""), body) if method == "POST" else ({}, ())
        with self.lock:
            seen = Seen(len(self.posts), method, path, headers, fields, pictures)
            self.seen.append(seen)
        if method == "GET":
            return _given(path)
        try:
            reply = self.script(seen) if callable(self.script) else self.script[min(seen.number, len(self.script) - 1)]
            return paints(seen) if reply is None else reply
        except Exception as error:
            self.broken = error
            raise

    def count(self, change: int) -> None:
        with self.lock:
            self.busy += change
            self.most_busy = max(self.most_busy, self.busy)


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


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a kept connection must not hold up the end of a test
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up is part of the play."""


def _handler(server: ImageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one piece; two would wait for each other

        def do_POST(self) -> None:
            self.serve(self.rfile.read(int(self.headers["content-length"])))

        def do_GET(self) -> None:
            self.serve(b"")

        def serve(self, body: bytes) -> None:
            server.count(1)
            try:
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.answer(server.reply_to(self.command, self.path, headers, body))
            finally:
                server.count(-1)

        def answer(self, reply: Reply) -> None:
            server.stopped.wait(reply.delay)
            if reply.status == 0:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body) + reply.missing))
            self.end_headers()
            self.wfile.write(reply.body)
            self.close_connection = self.close_connection or bool(reply.missing)

        def log_message(self, *args: Any) -> None:
            """Silent."""

    return Handler
