"""An OpenAI-compatible endpoint: waits for what passes, stops at once at what would be the same for every request, hides the key."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from metabridge.bridge.errors import UserError
from metabridge.eval.judges.key import Key
from metabridge.eval.judges.wire import Again, Stop, Unauthorized, one_line, retry_after

log = logging.getLogger(__name__)

T = TypeVar("T")
TRIES = 8  # of a request
BAD_TRIES = 3  # where an answer comes that cannot be used
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before the second try, doubled before each next one; a random part of a PAUSE comes on top
LONGEST_WAIT = 120.0  # seconds, however long a server asks to wait
CONNECT = 10.0  # seconds to get a connection
OUTAGE = 8  # requests given up in a row, for want of a server, after which the others are not tried
PASSING = {408, 409, 429}  # and 5xx
_OUT_OF_CREDIT = re.compile(r"insufficient.?(?:quota|balance|credit|funds)|billing.?hard.?limit", re.I)
_QUERY = {"api-version"}  # names in an address that hold no secret


class Failed(Exception):
    """This request got no answer that can be used; others may."""


@dataclass(frozen=True)
class Address:
    base: str  # up to .../v1
    query: str
    model: str

    @property
    def host(self) -> str:
        """Name and port alone."""
        return urlsplit(self.base).netloc

    def url(self, path: str) -> str:
        return f"{self.base}/{path}{self.query and '?' + self.query}"


def parse(word: str, kind: str, form: str, paths: Sequence[str], variable: str) -> Address:
    """`word`: URL#MODEL, where the URL may end in one of `paths`; a user writes it as `form` shows. `variable`: where a key belongs."""
    place, _, model = word.partition("#")
    try:
        url = urlsplit(place)
        _ = url.port  # read only when asked for
    except ValueError:  # whose text repeats parts of the address
        raise UserError(f"{kind}: no address given; write {form}") from None
    if url.scheme not in ("http", "https") or not url.hostname or any(character.isspace() for character in place):
        raise UserError(f"{kind}: no address given; write {form}")
    host = url.netloc.rpartition("@")[2]
    # what stands in an address ends up in plans, results and the history of a shell
    if "@" in url.netloc:
        raise UserError(f"{kind} at {host}: a name or password stands in the address; put the key into {variable} instead")
    if names := sorted({name for name, _ in parse_qsl(url.query, keep_blank_values=True)} - _QUERY):
        raise UserError(f"{kind} at {host}: the address has ?{names[0]}=, which may be a secret; put the key into {variable} instead")
    if not model.strip():
        raise UserError(f"{kind} at {host}: says no model; write {form}")
    path = url.path.rstrip("/")
    for end in paths:
        path = path.removesuffix(f"/{end}")
    return Address(f"{url.scheme}://{url.netloc}{path or '/v1'}", url.query, model.strip())


def key_of(variables: Sequence[str]) -> Key | None:
    """The first of these variables that is set."""
    for variable in variables:
        if value := os.environ.get(variable, "").strip():
            # the libraries below repeat a header they cannot send in their errors
            if not (value.isascii() and value.isprintable() and " " not in value):
                raise UserError(f"{variable}: holds blanks or signs that no key has; set it to the key alone")
            return Key(variable, value)
    return None


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
        max_calls: int | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """`variables`: where the key may be. `max_calls`: posts, repeated ones among them. `sleep`: what waits between tries."""
        self.name, self.timeout, self.stopped = f"{name} {address.model} at {address.host}", timeout, ""
        self._address, self._variables, self._key = address, variables, key_of(variables)
        times, limits = httpx.Timeout(timeout, connect=CONNECT), httpx.Limits(max_connections=concurrency)
        headers = {"Authorization": self._key.header} if self._key else {}
        self._client = httpx.Client(timeout=times, limits=limits, headers=headers)
        self._strange = httpx.Client(timeout=times, limits=limits, follow_redirects=True)  # other hosts, which must not see the key
        for client in (self._client, self._strange):
            weakref.finalize(self, client.close)
        self._lock, self._closed = Lock(), Event()
        self._sleep = self._closed.wait if sleep is None else sleep
        self._given_up, self._calls, self._most = 0, 0, max_calls
        if self._key:
            log.info("%s: the key in %s is sent", self.name, self._key.variable)

    def post(self, path: str, read: Callable[[httpx.Response], T], **body: Any) -> T:
        """What `read` makes of the response. Raises Failed, whatever `read` raises, or UserError at what every request would meet."""
        return self._run(lambda: self._client.post(self._address.url(path), **body), read, counted=True)

    def get(self, url: str, read: Callable[[httpx.Response], T]) -> T:
        """A file of any host, without the key."""
        return self._run(lambda: self._strange.get(url), read, counted=False)

    def hide(self, tree: Any) -> Any:
        """Text or JSON without the key."""
        return self._key.hide(tree) if self._key else tree

    def close(self) -> None:
        """Wakes those who wait between tries; nothing is sent any more."""
        self._closed.set()

    def _run(self, send: Callable[[], httpx.Response], read: Callable[[httpx.Response], T], counted: bool) -> T:
        retrying = Retrying(
            retry=retry_if_exception_type(Again),
            stop=_enough,
            wait=_pause,
            sleep=self._sleep,  # type: ignore[arg-type]  # what it returns is not looked at
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            answer: T = retrying(self._try, send, read, counted)
        except Again as error:
            raise self._give_up(error, retrying.statistics["attempt_number"]) from error
        except Stop as error:
            raise self._stop(self._advice(error)) from error
        self._given_up = 0
        return answer

    def _try(self, send: Callable[[], httpx.Response], read: Callable[[httpx.Response], T], counted: bool) -> T:
        if self.stopped:
            raise UserError(self.stopped)
        if self._closed.is_set():
            raise Failed("closed while the request was waiting")
        if counted:
            self._take()
        try:
            response = send()
        except httpx.TimeoutException as error:
            what = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
            raise Again(f"{what} within {CONNECT if what == 'no connection' else self.timeout:g} s", away=True) from error
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise Again(f"connection lost ({one_line(self.hide(str(error))) or type(error).__name__})", away=True) from error
        return read(response)

    def _take(self) -> None:
        with self._lock:
            if self._most is not None and self._calls >= self._most:
                raise Failed(f"budget: the {self._most} calls that were allowed are used up; allow more")
            self._calls += 1

    def _tell(self, state: RetryCallState) -> None:
        assert state.outcome is not None and state.next_action is not None
        pause = state.next_action.sleep
        log.info("%s: %s; try %d in %.1f s", self.name, state.outcome.exception(), state.attempt_number + 1, pause)

    def _give_up(self, error: Again, tries: int) -> Exception:
        told = f"{error}, at the last of {tries} tries"
        with self._lock:
            self._given_up += error.away
            if self._given_up < OUTAGE:
                return Failed(told)
        return self._stop(f"does not answer any more ({told}); see that it runs, then run the same command again: what is done stays done")

    def _stop(self, advice: str) -> UserError:
        """Every later request ends the same way, without a call."""
        self.stopped = f"{self.name}: {advice}"
        return UserError(self.stopped)

    def _advice(self, error: Stop) -> str:
        if not isinstance(error, Unauthorized):
            return str(error)
        if self._key is None:
            unset = " nor ".join(self._variables)
            return f"wants a key ({error}), and neither {unset} is set; set {self._variables[0]} and run the same command again"
        return f"refuses the key in {self._key.variable} ({error}); set it to one that is allowed there and run the same command again"


def tree_of(text: str) -> Any:
    """The JSON in a response, or its text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def said(tree: Any) -> str:
    """The message of an error, with its code, out of the forms that servers give it."""
    if not isinstance(tree, dict):
        return one_line(tree if isinstance(tree, str) else json.dumps(tree))
    error = tree.get("error") or tree
    parts = [error.get(name) for name in ("message", "detail", "code", "type")] if isinstance(error, dict) else [error]
    return one_line(" ".join(str(part) for part in parts if part))


def fault(response: httpx.Response, status: int, told: str) -> Exception:
    """What a status that is no success stands for."""
    told = f"{status}: {told}" if told else str(status)
    if status in (401, 403):
        return Unauthorized(told)
    if status == 402 or (status in (400, 429) and _OUT_OF_CREDIT.search(told)):
        return Stop(f"no credit left ({told}); fill it up and run the same command again")
    if status in (404, 405, 410) or 300 <= status < 400:
        return Stop(f"no such address or model there ({told}); correct the address or the model's name")
    if status in PASSING or status >= 500:
        return Again(told, after=retry_after(response.headers), away=True)
    return Failed(f"refused the request ({told})")


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
