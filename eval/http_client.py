"""An OpenAI-compatible endpoint: waits for what passes, stops at once at what would be the same for every request, hides the key."""

from __future__ import annotations

import json
import logging
import math
import random
import re
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Event, Lock
from typing import Any, TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from metabridge.bridge.errors import UserError
from metabridge.eval.address import Address, key_of
from metabridge.eval.calls import Again, Budget, Failed, Stop, Unauthorized, one_line

log = logging.getLogger(__name__)

T = TypeVar("T")
TRIES = 8  # of a request
BAD_TRIES = 3  # where an answer comes that cannot be used
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before the second try, doubled before each next one; a random part of a PAUSE comes on top
LONGEST_WAIT = 120.0  # seconds, however long a server asks to wait
CONNECT = 10.0  # seconds to get a connection
PASSING = {408, 409, 429}  # and 5xx
_OUT_OF_CREDIT = re.compile(r"insufficient.?(?:quota|balance|credit|funds)|billing.?hard.?limit", re.I)


class Client:
    """Thread-safe. `concurrency`: how many threads will use it."""

    def __init__(
        self,
        name: str,
        address: Address,
        variables: Sequence[str],
        *,
        concurrency: int,
        timeout: float,
        outage: int,
        budget: Budget | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """`variables`: where the key may be. `sleep`: what waits between tries.

        `outage`: requests given up in a row, for want of a server, after which the others are not tried. `budget`: of posts.
        """
        self.name, self.timeout, self.stopped = f"{name} {address.model} at {address.host}", timeout, ""
        self._address, self._variables, self._key = address, variables, key_of(variables)
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx.Client(timeout=httpx.Timeout(timeout, connect=CONNECT), limits=limits)
        weakref.finalize(self, self._client.close)
        self._lock, self._closed = Lock(), Event()
        self._sleep = self._closed.wait if sleep is None else sleep
        self._given_up, self._outage, self._budget = 0, outage, budget or Budget()
        if self._key:
            log.info("%s: the key in %s is sent", self.name, self._key.variable)

    def post(self, path: str, read: Callable[[httpx.Response], T], **body: Any) -> T:
        """What `read` makes of the response. Raises Failed, whatever `read` raises, or UserError at what every request would meet."""
        headers = self._key.headers if self._key else {}

        def send() -> httpx.Response:
            self._budget.take()
            return self._client.post(self._address.url(path), headers=headers, **body)

        return self._run(send, read)

    def get(self, url: str, read: Callable[[httpx.Response], T]) -> T:
        """A file of any host, without the key."""
        return self._run(lambda: self._client.get(url, follow_redirects=True), read)

    def hide(self, tree: Any) -> Any:
        """Text or JSON without the key."""
        return self._key.hide(tree) if self._key else tree

    def close(self) -> None:
        """Wakes those who wait between tries; nothing is sent any more."""
        self._closed.set()

    def _run(self, send: Callable[[], httpx.Response], read: Callable[[httpx.Response], T]) -> T:
        retrying = Retrying(
            retry=retry_if_exception_type(Again),
            stop=_enough,
            wait=_pause,
            sleep=self._sleep,  # type: ignore[arg-type]  # what it returns is not looked at
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            answer: T = retrying(self._try, send, read)
        except Again as error:
            raise self._give_up(error, retrying.statistics["attempt_number"]) from error
        except Stop as error:
            raise self._stop(self._advice(error)) from error
        self._given_up = 0
        return answer

    def _try(self, send: Callable[[], httpx.Response], read: Callable[[httpx.Response], T]) -> T:
        if self.stopped:
            raise UserError(self.stopped)
        if self._closed.is_set():
            raise Failed("closed while the question was waiting")
        try:
            response = send()
        except httpx.TimeoutException as error:
            what = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
            raise Again(f"{what} within {CONNECT if what == 'no connection' else self.timeout:g} s", away=True) from error
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise Again(f"connection lost ({one_line(self.hide(str(error))) or type(error).__name__})", away=True) from error
        return read(response)

    def _tell(self, state: RetryCallState) -> None:
        assert state.outcome is not None and state.next_action is not None
        pause = state.next_action.sleep
        log.info("%s: %s; try %d in %.1f s", self.name, state.outcome.exception(), state.attempt_number + 1, pause)

    def _give_up(self, error: Again, tries: int) -> Exception:
        told = f"{error}, at the last of {tries} tries"
        with self._lock:
            self._given_up += error.away
            if self._given_up < self._outage:
                return Failed(told)
        return self._stop(f"does not answer any more ({told}); see that it runs, then run the same command again: what is done stays done")

    def _stop(self, advice: str) -> UserError:
        """Every later request ends the same way, without a call."""
        self.stopped = f"{self.name}: {advice}"
        self.close()
        return UserError(self.stopped)

    def _advice(self, error: Stop) -> str:
        if not isinstance(error, Unauthorized):
            return str(error)
        if self._key is None:
            unset = " nor ".join(self._variables)
            return f"wants a key ({error}), and neither {unset} is set; set {self._variables[0]} and run the same command again"
        return f"refuses the key in {self._key.variable} ({error}); set it to one that is allowed there and run the same command again"


def tree_of(text: str, hide: Callable[[Any], Any] = lambda tree: tree) -> Any:
    """The JSON in a response, or its text, without what `hide` takes out."""
    try:
        return hide(json.loads(text))
    except (ValueError, RecursionError):
        return hide(text)


def status_of(status: int, fields: Mapping[str, Any], answer: str) -> int:
    """Of a response without an `answer` in its fields: a router passes on an error of the model's host as a success."""
    error = fields.get("error")
    if not 200 <= status < 300 or not error or fields.get(answer):
        return status
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def said(tree: Any) -> str:
    """The message of an error, with its code, out of the forms that servers give it."""
    if not isinstance(tree, dict):
        return one_line(tree if isinstance(tree, str) else json.dumps(tree))
    error = tree.get("error") or tree
    parts = [error.get(name) for name in ("message", "detail", "code", "type")] if isinstance(error, dict) else [error]
    return one_line(" ".join(str(part) for part in parts if part))


def fault(status: int, headers: Mapping[str, str], told: str, also: Collection[int] = ()) -> Exception:
    """What a status that is no success stands for. `also`: more of those that pass."""
    told = f"{status}: {told}" if told else str(status)
    if status in (401, 403):
        return Unauthorized(told)
    if status == 402 or (status in (400, 429) and _OUT_OF_CREDIT.search(told)):
        return Stop(f"no credit left ({told}); fill it up and run the same command again")
    if status in (404, 405, 410) or 300 <= status < 400:
        return Stop(f"no such address or model there ({told}); correct the address or the model's name")
    if status in PASSING or status in also or status >= 500:
        return Again(told, after=retry_after(headers), away=True)
    return Failed(f"refused the request ({told})")


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds until the server wants to be asked again; it may say so in seconds or as a date."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, math.ceil((then.replace(tzinfo=then.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()))


def _enough(state: RetryCallState) -> bool:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, Again)
    return state.attempt_number >= (BAD_TRIES if error.empty else TRIES)


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: as long as the server says, else twice as long each time, not all at the same moment."""
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, Again)
    if error.after:
        return min(error.after, LONGEST_WAIT)
    doubled: float = PAUSE * 2 ** (state.attempt_number - 1)
    return min(doubled, LONGEST_PAUSE) + random.uniform(0, PAUSE)
