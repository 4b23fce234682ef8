"""A file over HTTP, in as many tries as it takes: each goes on where the one before, or an earlier run, broke off."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from metabridge.bridge.errors import UserError

if TYPE_CHECKING:
    import httpx
    import tenacity

log = logging.getLogger(__name__)

TRIES = 5
PAUSE = 1.0  # seconds before the second try, doubled before each next one


def download(url: str, part: Path, heard: Callable[[int, int | None], None], otherwise: str) -> None:
    """`part` as long as what lies at `url`. `heard` is told the bytes there and in all; `otherwise` is what to do where it fails."""
    import httpx
    import tenacity

    tries = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_exponential(multiplier=PAUSE, max=30),
        retry=tenacity.retry_if_exception(_passes),
        before_sleep=_say,
        reraise=True,
    )
    # compressed, a range would be one of the compressed bytes
    with httpx.Client(follow_redirects=True, timeout=30.0, headers={"Accept-Encoding": "identity"}) as client:
        try:
            tries(_stream, client, url, part, heard)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UserError(f"{url}: cannot be fetched ({_said(error)}); {otherwise}") from error


def _say(state: tenacity.RetryCallState) -> None:
    assert state.outcome is not None and state.next_action is not None
    log.warning("%s: %s; again in %.0f s", state.args[1], _said(state.outcome.exception()), state.next_action.sleep)


def _said(error: BaseException | None) -> str:
    """In one line."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    return " ".join(str(error).split()) or type(error).__name__


def _passes(error: BaseException) -> bool:
    """Whether another try may help: a connection that broke, a server that is busy."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in (408, 425, 429) or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


def _stream(client: httpx.Client, url: str, part: Path, heard: Callable[[int, int | None], None]) -> None:
    done = part.stat().st_size if part.exists() else 0
    with client.stream("GET", url, headers={"Range": f"bytes={done}-"} if done else {}) as answer:
        if answer.status_code == 416:  # nothing comes after what is there
            return
        answer.raise_for_status()
        if answer.status_code != 206:  # the whole file, whatever was asked for
            done = 0
        rest = answer.headers.get("Content-Length")
        total = None if rest is None else done + int(rest)
        with part.open("ab" if done else "wb") as out:
            for block in answer.iter_bytes():
                out.write(block)
                done += len(block)
                heard(done, total)
            out.flush()
            os.fsync(out.fileno())
