"""Several processes of one command on this machine.

torch.distributed.run would do, but it buries a one-line error in a page of its own, and its exit code is always 1.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType

GRACE = 5.0  # seconds that the others have to fail alike, once one has failed


def launch(arguments: Sequence[str], processes: int, cuda: bool) -> int:
    """Run `python ARGUMENTS` as ranks 0..processes-1; the exit code of the run.

    The first rank has the terminal; of another one hears only if it fails alone.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes))),
    }
    if not cuda:
        shared["ACCELERATE_USE_CPU"] = "true"  # without it each process would train alone, and say nothing
    with ExitStack() as stack:
        children, said = [], []
        for rank in range(processes):
            said.append(stack.enter_context(tempfile.TemporaryFile()))
            children.append(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=None if rank == 0 else subprocess.DEVNULL,
                    stderr=None if rank == 0 else said[rank],
                    start_new_session=True,  # a Ctrl-C comes through us, once
                )
            )
        received = stack.enter_context(forwarded(children))
        failed = watch(children, received)
        if received.count(signal.SIGINT) > 1:
            return 130
        if not failed:
            return 0
        told = [rank for rank in sorted(failed) if children[rank].returncode == 2]  # in one line: the others' traceback follows from it
        rank = told[0] if told else 0 if children[0].returncode > 0 else failed[0]
        if rank:
            said[rank].seek(0)
            sys.stderr.write(said[rank].read().decode(errors="replace"))
        code: int = children[rank].returncode
        return abs(code)


def watch(children: Sequence[subprocess.Popen[bytes]], received: Sequence[int]) -> list[int]:
    """Wait for all, and end those that still run a moment after another has failed, or after a second Ctrl-C.

    The ranks that failed, in that order.
    """
    failed: list[int] = []
    deadline = float("inf")
    while None in [child.poll() for child in children]:
        failed += [rank for rank, child in enumerate(children) if child.returncode and rank not in failed]
        if (failed or received.count(signal.SIGINT) > 1) and deadline == float("inf"):
            deadline = time.monotonic() + GRACE
        if time.monotonic() > deadline:
            for child in children:
                if child.poll() is None:
                    child.kill()
        time.sleep(0.05)
    return failed + [rank for rank, child in enumerate(children) if child.returncode and rank not in failed]


@contextmanager
def forwarded(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM go to every child; each saves and ends by itself. Yields the list of what came."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
