"""Servers on this machine, as one of chat completions, that do as they are told: answers, errors, silence, lines that go dead."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from PIL import Image

MODEL = "scripted-judge"


@dataclass(frozen=True)
class Seen:
    """A request that has arrived."""

    number: int  # 0, 1, ... over the server's life
    path: str
    headers: dict[str, str]  # names in lower case
    body: dict[str, Any]

    @property
    def parts(self) -> list[dict[str, Any]]:
        contents = [message["content"] for message in self.body["messages"]]
        texts = [[{"type": "text", "text": content}] if isinstance(content, str) else content for content in contents]
        return [part for content in texts for part in content]

    @property
    def text(self) -> str:
        return "\n".join(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def images(self) -> list[Image.Image]:
        uris = [part["image_url"]["url"] for part in self.parts if part["type"] == "image_url"]
        return [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]


@dataclass(frozen=True)
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before the first byte
    missing: int = 0  # bytes announced and never sent: the line goes dead


DROPPED = Reply(status=0)  # the line goes dead before the first byte


def says(text: str | None, *, model: str | None = MODEL, finish: str = "stop", delay: float = 0.0, **message: Any) -> Reply:
    """An answer; `message`: more of its fields, as refusal or reasoning_content."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return of({"object": "chat.completion", "model": model, "choices": [choice], "usage": usage}, delay=delay)


def fails(status: int, message: str = "", code: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI's endpoint words it; retry_after="2" is a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return of({"error": {"message": message, "code": code}}, status=status, headers=named)


def of(tree: Any, **more: Any) -> Reply:
    return Reply(json.dumps(tree).encode(), **more)


S = TypeVar("S")


class ScriptedServer(Generic[S]):
    """`with ... as server`: what came in is `server.seen`. A subclass says what it sees in a request."""

    def __init__(self, script: Any) -> None:
        """`script`: a reply each in turn, the last one for ever; or a function of the request."""
        self.script = script
        self.seen: list[S] = []
        self.times: list[float] = []
        self.busy = self.most_busy = 0  # requests in work
        self.broken: BaseException | None = None  # what a script raised
        self.lock, self.stopped = Lock(), Event()
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        if self.broken is not None:
            raise self.broken

    def see(self, method: str, path: str, headers: dict[str, str], body: bytes) -> S:
        raise NotImplementedError

    def reply(self, seen: S) -> Reply:
        number = seen.number  # type: ignore[attr-defined]
        found: Reply = self.script(seen) if callable(self.script) else self.script[min(number, len(self.script) - 1)]
        return found

    def reply_to(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        try:
            with self.lock:
                seen = self.see(method, path, headers, body)
                self.seen.append(seen)
                self.times.append(time.monotonic())
            return self.reply(seen)
        except Exception as error:
            self.broken = error
            raise

    def count(self, change: int) -> None:
        with self.lock:
            self.busy += change
            self.most_busy = max(self.most_busy, self.busy)


class JudgeServer(ScriptedServer[Seen]):
    def __init__(self, script: Reply | Sequence[Reply] | Callable[[Seen], Reply]) -> None:
        super().__init__([script] if isinstance(script, Reply) else script)

    @property
    def address(self) -> str:
        return f"{self.root}/v1"

    @property
    def word(self) -> str:
        """What `--judge` takes."""
        return f"{self.address}#{MODEL}"

    def see(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Seen:
        return Seen(len(self.seen), path, headers, json.loads(body))


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a kept connection must not hold up the end of a test
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up is part of the play."""


def _handler(server: ScriptedServer[Any]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each reply takes 40 ms

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            length = int(headers.get("content-length", 0))
            if len(body := self.rfile.read(length)) < length:  # the client was killed
                self.close_connection = True
                return
            server.count(1)
            try:
                self.answer(server.reply_to(self.command, self.path, headers, body))
            finally:
                server.count(-1)

        do_GET = do_POST

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
