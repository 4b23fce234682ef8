"""Work on several things at a time, where most of it is waiting for an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def as_they_come(work: Callable[[T], R], things: Iterable[T], workers: int) -> Iterator[R]:
    """Results in the order in which they are done; of an error or Ctrl-C, those that are done come first, and nothing is waited for.

    No more things are begun than there are workers. Their threads are daemons, as Python waits for all others before it ends.
    """
    if workers == 1:
        yield from map(work, things)
        return
    waiting, done = iter(things), SimpleQueue[tuple[R | None, BaseException | None]]()

    def run(thing: T) -> None:
        try:
            done.put((work(thing), None))
        except BaseException as error:
            done.put((None, error))

    def begin(most: int) -> int:
        threads = [Thread(target=run, args=(thing,), daemon=True) for thing in islice(waiting, most)]
        for thread in threads:
            thread.start()
        return len(threads)

    running = begin(workers)
    stop: BaseException | None = None
    while running:
        try:
            result, error = done.get(block=stop is None)
        except Empty:
            break
        except KeyboardInterrupt as interrupt:
            stop = stop or interrupt
            continue
        running -= 1
        if error is None:
            running += begin(1) if stop is None else 0
            yield result  # type: ignore[misc]
        stop = stop or error
    if stop is not None:
        raise stop
