"""How a terminal is told from others, by its environment and by what it answers; the answers come over a real pseudo terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time

import pytest
from PIL import Image
from rich.console import Console

from metabridge.scripts import chat_terminal
from metabridge.scripts.chat_terminal import ATTRIBUTES, GRAPHICS, show, way_of

SIXELS, PLAIN = "\x1b[?62;4;22c", "\x1b[?64;1;2c"


def never(question: str) -> str:
    raise AssertionError(f"asked {question!r}")


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, "blocks"),
        ({"TERM": "linux"}, "blocks"),
        ({"TERM": "dumb", "TERM_PROGRAM": "iTerm.app"}, "none"),
    ],
)
def test_what_the_environment_says_is_not_asked(environment: dict[str, str], way: str) -> None:
    assert way_of(environment, never) == way


@pytest.mark.parametrize(
    ("answer", "way"),
    [
        ("\x1b_Gi=31;OK\x1b\\" + PLAIN, "kitty"),
        ("\x1b_Gi=31;ENOTSUPPORTED\x1b\\" + SIXELS, "sixel"),
        (SIXELS, "sixel"),
        (PLAIN, "blocks"),
        ("\x1b[?4c", "blocks"),  # the first number is the terminal's kind, not what it can do
        ("", "blocks"),
    ],
)
def test_what_the_terminal_answers(answer: str, way: str) -> None:
    def ask(question: str) -> str:
        assert question == GRAPHICS + ATTRIBUTES
        return answer

    assert way_of({"TERM": "xterm-256color"}, ask) == way


def test_inside_tmux_the_variables_are_those_of_the_terminal_around_it() -> None:
    asked = []
    inside = {"TERM": "tmux-256color", "TMUX": "/tmp/tmux", "TERM_PROGRAM": "iTerm.app", "LC_TERMINAL": "iTerm2"}
    assert way_of(inside, lambda question: asked.append(question) or PLAIN) == "blocks"  # type: ignore[func-returns-value]
    assert asked == [ATTRIBUTES]


@pytest.mark.parametrize("answer", [SIXELS, ""])
def test_the_terminal_is_asked_and_left_as_it_was(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pseudo terminal that answers, or never does."""
    master, slave = pty.openpty()
    monkeypatch.setattr(chat_terminal, "WAIT", 5.0 if answer else 0.2)

    def terminal() -> None:
        heard = b""
        while not heard.endswith(b"\x1b[c"):
            heard += os.read(master, 100)
        for piece in re.findall("..?", answer, re.DOTALL):  # in pieces, as over a slow line
            os.write(master, piece.encode())
            time.sleep(0.01)

    with os.fdopen(slave, "r+b", buffering=0) as end:
        monkeypatch.setattr(sys, "stdin", end)
        monkeypatch.setattr(sys, "stdout", end)
        before, other = termios.tcgetattr(end.fileno()), threading.Thread(target=terminal)
        other.start()
        began = time.monotonic()
        assert chat_terminal.ask_terminal(GRAPHICS + ATTRIBUTES) == answer
        assert time.monotonic() - began < 4
        assert termios.tcgetattr(end.fileno()) == before
        other.join()
    os.close(master)


@pytest.mark.parametrize(
    ("way", "start"), [("kitty", "\x1b_Ga=T"), ("sixel", "\x1bP0;1q"), ("iterm", "\x1b]1337;File="), ("blocks", "\x1b[38")]
)
def test_every_way_shows_the_picture_and_ends_its_line(way: str, start: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    show(Image.new("RGB", (64, 64), "red"), way, console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().startswith(start) and console.file.getvalue().endswith("\n")


def test_none_shows_nothing() -> None:
    console = Console(file=io.StringIO())
    show(Image.new("RGB", (64, 64)), "none", console)
    assert isinstance(console.file, io.StringIO) and not console.file.getvalue()


def test_looking_at_a_terminal_needs_nothing_heavy() -> None:
    code = "import sys, metabridge.scripts.chat_terminal; print(sorted({'torch', 'diffusers', 'prompt_toolkit'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
