"""What a stream does when the network breaks off: it waits, tries again where it was, and in the end says so in one line."""

from __future__ import annotations

import logging
import time

import httpx

from metabridge.bridge.errors import UserError

log = logging.getLogger(__name__)

CLIENTS = ("aiohttp", "botocore", "requests")  # whose errors are of a network, by the name of their package
TRIES = 6
PAUSE = 1.0  # seconds before the second try, doubled before each next one


def of_network(error: Exception) -> bool:
    """Whether it is of a connection, a server or a disk, and not of what a file holds: Arrow's errors of damaged data are OSErrors too."""
    if isinstance(error, httpx.HTTPError | ConnectionError | TimeoutError | FileNotFoundError):
        return True
    if isinstance(error, OSError):
        return error.errno is not None
    return type(error).__module__.split(".")[0] in CLIENTS


class Patience:
    """How often in a row reading has failed."""

    def __init__(self, what: str) -> None:
        self.what, self.failures = what, 0

    def worked(self) -> None:
        self.failures = 0

    def failed(self, where: str, error: Exception) -> None:
        """Wait, or give up."""
        self.failures += 1
        if self.failures == TRIES or isinstance(error, FileNotFoundError):
            raise UserError(
                f"{self.what}: reading broke off at {where} ({said(error)}); nothing is lost: run the same command again"
            ) from error
        pause = PAUSE * 2 ** (self.failures - 1)
        log.warning("%s: %s: %s; again in %g s", self.what, where, said(error), pause)
        time.sleep(pause)


def said(error: Exception) -> str:
    """Its message in one line."""
    text = "".join(sign if sign.isprintable() else " " for sign in str(error))
    return " ".join(text.split())[:200] or type(error).__name__
