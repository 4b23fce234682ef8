"""One run at a time in a folder: a lock that the kernel holds, and lets go of with the process, however that ends."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metabridge.bridge.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder; a UserError that names the process which holds it already."""
    with open(folder / NAME, "a+", encoding="utf-8") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{folder}: {file.read() or 'another process'} trains in it now; wait for it, or give another --out") from None
        except OSError as error:  # a network disk without locks
            log.warning("%s: its disk has no locks (%s); see to it that no second run uses it", folder, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
