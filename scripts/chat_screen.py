"""What a chat shows: words, thoughts, pictures, and how far a drawing is. Without a terminal: plain lines."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from metabridge.scripts.chat_terminal import show
from metabridge.scripts.console import console, say

GREY, RED = "bright_black", "red"


class Screen:
    def __init__(self, interactive: bool, way: str) -> None:
        """`way`: how pictures are shown, one of chat_terminal.WAYS."""
        self.interactive, self.way = interactive, way
        if way == "blocks" and (console.no_color or console.color_system is None):
            self.way = "none"

    def say(self, text: str, style: str = "") -> None:
        if style and self.interactive:
            console.print(Text(printable(text), style), soft_wrap=True)
        else:
            say(printable(text))

    def note(self, text: str) -> None:
        """For whoever sits at the terminal; a script has no use for it."""
        if self.interactive:
            self.say(text, GREY)

    def thought(self, text: str) -> None:
        self.say(text if self.interactive else f"thought: {text}", GREY)

    def picture(self, image: Image.Image, path: Path | None) -> None:
        show(image, self.way, console)
        if path is not None:
            self.say(str(path))

    def error(self, error: Exception | str) -> None:
        line = " ".join(str(error).split())
        if self.interactive:
            self.say(line, RED)
        else:
            print(f"metabridge: {line}", file=sys.stderr)

    @contextmanager
    def working(self, label: str) -> Iterator[Working]:
        """A bar that vanishes when all is done, or stopped; it has no end until `drawing` gives it one."""
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True, disable=not self.interactive) as progress:
            task = progress.add_task(label, total=None)
            with warnings_above(), interruptible() as check:
                yield Working(self, progress, task, check)


class Working:
    def __init__(self, screen: Screen, progress: Progress, task: TaskID, check: Callable[[], None]) -> None:
        self.screen, self.progress, self.task, self.check = screen, progress, task, check

    def thought(self, text: str) -> None:
        self.check()
        self.screen.thought(text)  # above the bar

    def drawing(self, steps: int) -> Any:
        """The callback of a drawing of so many steps."""

        def step(*_: Any) -> None:
            self.check()
            self.progress.update(self.task, description="drawing", total=steps, advance=1)

        return step


@contextmanager
def warnings_above() -> Iterator[None]:
    """The commands' warnings go to where rich has put sys.stderr: above the bar, not into it."""
    handlers = [one for one in logging.getLogger("metabridge").handlers if isinstance(one, logging.StreamHandler)]
    before = [one.stream for one in handlers]
    try:
        for one in handlers:
            one.setStream(sys.stderr)
        yield
    finally:
        for one, stream in zip(handlers, before, strict=True):
            one.setStream(stream)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Python swallows a Ctrl-C that falls into a finalizer, as of garbage that is collected meanwhile; what is yielded raises it then."""
    pressed = False

    def press(*_: Any) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it is ignored, as in the background of a shell
        signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def printable(text: str) -> str:
    """Words of a brain may be anything; what would move the cursor or change colours is not sent to a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
