"""Any server that speaks `/v1/chat/completions`: waits for what passes, and stops at once at what would be the same for every question."""

from __future__ import annotations

import logging
import random
import weakref
from collections.abc import Callable, Mapping
from threading import BoundedSemaphore, Event, Lock
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from metabridge.bridge.errors import UserError
from metabridge.eval.judges import JudgeError, Request, key, wire, words
from metabridge.eval.judges.answers import Answer
from metabridge.eval.judges.budget import Budget

log = logging.getLogger(__name__)

TRIES = 8  # of a question
EMPTY_TRIES = 3  # when the model says nothing
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before the second try, doubled before each next one; a random part of a PAUSE comes on top
LONGEST_WAIT = 120.0  # seconds, however long a server asks to wait
CONNECT = 10.0  # seconds to get a connection
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
        self.identity: Mapping[str, Any] = {"kind": "endpoint", "id": model, "revision": None, "host": words.host(address)}
        self.concurrency, self.timeout, self.budget = concurrency, timeout, budget or Budget()
        self._url, self._model, self._key = words.post_url(address), model, key.from_environment()
        self._client = _client(self._key, timeout, concurrency)
        weakref.finalize(self, self._client.close)
        self._places, self._lock, self._closed = BoundedSemaphore(concurrency), Lock(), Event()
        self._sleep = self._closed.wait if sleep is None else sleep
        self._given_up, self._stopped = 0, ""
        if self._key:
            log.info("judge %s: sends the key in %s to %s", model, self._key.variable, self.identity["host"])

    def ask(self, request: Request, attempt: int = 0) -> Answer:
        with self._places:
            body = wire.body(request, self._model)
            retrying = Retrying(
                retry=retry_if_exception_type(wire.Again),
                stop=_enough,
                wait=_pause,
                sleep=self._sleep,
                before_sleep=self._tell,
                reraise=True,
            )
            try:
                answer = retrying(self._try, body)
            except wire.Again as error:
                raise self._give_up(error, retrying.statistics["attempt_number"]) from error
            except wire.Stop as error:
                raise self._stop(self._advice(error)) from error
            self._given_up = 0
            return answer

    def close(self) -> None:
        """Wakes those who wait between tries; no question is sent any more."""
        self._closed.set()

    def _try(self, body: Mapping[str, Any]) -> Answer:
        if self._stopped:
            raise UserError(self._stopped)
        if self._closed.is_set():
            raise JudgeError("closed while the question was waiting")
        self.budget.take()
        try:
            response = self._client.post(self._url, json=body)
        except httpx.TimeoutException as error:
            what = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
            raise wire.Again(f"{what} within {CONNECT if what == 'no connection' else self.timeout:g} s", away=True) from error
        except httpx.RequestError as error:
            raise wire.Again(f"connection lost ({wire.one_line(self._hide(str(error))) or type(error).__name__})", away=True) from error
        return wire.read(response.status_code, response.headers, response.text, self._model, self._hide)

    def _hide(self, tree: Any) -> Any:
        return self._key.hide(tree) if self._key else tree

    def _tell(self, state: RetryCallState) -> None:
        assert state.outcome is not None and state.next_action is not None
        pause = state.next_action.sleep
        log.info("judge %s: %s; try %d of %d in %.1f s", self._model, state.outcome.exception(), state.attempt_number + 1, TRIES, pause)

    def _give_up(self, error: wire.Again, tries: int) -> Exception:
        told = f"{error}, at the last of {tries} tries"
        with self._lock:
            self._given_up += error.away
            if self._given_up < OUTAGE:
                return JudgeError(told)
        return self._stop(
            f"does not answer any more ({told}); see that it runs, then run the same command again: no answer is asked for twice"
        )

    def _stop(self, advice: str) -> UserError:
        """Every later question ends the same way, without a call."""
        self._stopped = f"judge {self._model} at {self.identity['host']}: {advice}"
        self._closed.set()
        return UserError(self._stopped)

    def _advice(self, error: wire.Stop) -> str:
        if not isinstance(error, wire.Unauthorized):
            return str(error)
        if self._key is None:
            unset = " nor ".join(key.VARIABLES)
            return f"wants a key ({error}), and neither {unset} is set; set {key.VARIABLES[0]} and run the same command again"
        return f"refuses the key in {self._key.variable} ({error}); set it to one that is allowed there and run the same command again"


def _client(secret: key.Key | None, timeout: float, concurrency: int) -> httpx.Client:
    return httpx.Client(
        timeout=httpx.Timeout(timeout, connect=CONNECT),
        limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        headers={"Authorization": secret.header} if secret else {},
    )


def _enough(state: RetryCallState) -> bool:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, wire.Again)
    return state.attempt_number >= (EMPTY_TRIES if error.empty else TRIES)


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: as long as the server says, else twice as long each time, not all at the same moment."""
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, wire.Again)
    if error.after:
        return min(error.after, LONGEST_WAIT)
    return min(PAUSE * 2.0 ** (state.attempt_number - 1), LONGEST_PAUSE) + random.uniform(0, PAUSE)
