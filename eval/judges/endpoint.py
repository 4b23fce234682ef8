"""Any server that speaks `/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import BoundedSemaphore
from typing import Any

import httpx

from metabridge.eval.calls import Budget
from metabridge.eval.http_client import Client
from metabridge.eval.judges import Request, wire, words
from metabridge.eval.judges.answers import Answer

OUTAGE = 20  # questions given up in a row, for want of a server, after which the others are not tried


class Endpoint:
    """Thread-safe. A question keeps its place among the `concurrency` open ones while it waits, so that a busy server is not pressed."""

    def __init__(
        self,
        address: str,
        model: str,
        *,
        concurrency: int = 8,
        timeout: float = 120.0,
        budget: Budget | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """`timeout`: seconds to wait for an answer. `sleep`: what waits between tries."""
        place = words.address_of(f"{address}#{model}")
        self.identity: Mapping[str, Any] = {"kind": "endpoint", "id": model, "revision": None, "host": place.host}
        self.concurrency = concurrency
        self._client = Client(
            "judge", place, words.VARIABLES, concurrency=concurrency, timeout=timeout, outage=OUTAGE, budget=budget, sleep=sleep
        )
        self._places = BoundedSemaphore(concurrency)

    def ask(self, request: Request, attempt: int = 0) -> Answer:
        with self._places:
            return self._client.post(words.CHAT, self._read, json=wire.body(request, self.identity["id"]))

    def close(self) -> None:
        """Wakes those who wait between tries; no question is sent any more."""
        self._client.close()

    def _read(self, response: httpx.Response) -> Answer:
        return wire.read(response.status_code, response.headers, response.text, self.identity["id"], self._client.hide)
