"""What a terminal can show: found from the environment, else asked of the terminal itself; and how large a picture may be in it."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Callable, Mapping

from PIL import Image
from rich.console import Console

from metabridge.scripts.chat_encode import blocks, fitted, iterm, kitty, resized, sixel

WAYS = ("kitty", "sixel", "iterm", "blocks", "none")
PROGRAMS = {"kitty": "kitty", "ghostty": "kitty", "iTerm.app": "iterm", "WezTerm": "iterm", "mintty": "iterm", "Apple_Terminal": "blocks"}
TERMS = {"xterm-kitty": "kitty", "xterm-ghostty": "kitty", "linux": "blocks"}
ATTRIBUTES = "\x1b[c"  # every terminal answers this one, with 4 among its numbers where it shows sixels
GRAPHICS = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"  # answered where kitty's protocol is known
ANSWER = re.compile(r"\x1b\[\?([\d;]*)c")
WAIT = 1.0  # seconds; only a terminal that does not answer at all takes them
CELL = (10, 20)  # pixels of a character where the terminal does not say
ROWS = {"blocks": 32}  # of a picture at most, so that what was said before stays in sight; blocks are coarse


def way_of(environment: Mapping[str, str], ask: Callable[[str], str]) -> str:
    """One of WAYS. `ask` sends a question to the terminal and gives what it answers."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term == "dumb":
        return "none"
    if "TMUX" in environment or term.startswith(("tmux", "screen")):
        # the other variables speak of the terminal around it, and tmux takes the question about graphics for a title
        return understood(ask(ATTRIBUTES))
    if program in PROGRAMS:
        return PROGRAMS[program]
    if environment.get("LC_TERMINAL") == "iTerm2":  # over ssh
        return "iterm"
    return TERMS.get(term) or understood(ask(GRAPHICS + ATTRIBUTES))


def understood(answer: str) -> str:
    if "\x1b_Gi=31;OK" in answer:
        return "kitty"
    found = ANSWER.search(answer)
    return "sixel" if found and "4" in found[1].split(";")[1:] else "blocks"


def ask_terminal(question: str) -> str:
    """What the terminal answers within WAIT; nothing on systems without termios."""
    try:
        import termios
        import tty
    except ImportError:
        return ""
    keyboard, answer, end = sys.stdin.fileno(), "", time.monotonic() + WAIT
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard, termios.TCSADRAIN)  # the answer is not shown
        os.write(sys.stdout.fileno(), question.encode())
        while not ANSWER.search(answer) and select.select([keyboard], [], [], max(0.0, end - time.monotonic()))[0]:
            answer += os.read(keyboard, 1024).decode(errors="replace")
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
    return answer


def cell() -> tuple[int, int]:
    """Width and height of a character in pixels."""
    try:
        import fcntl
        import struct
        import termios

        rows, columns, width, height = struct.unpack("HHHH", fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8)))
    except (ImportError, OSError):
        return CELL
    return (width // columns, height // rows) if columns and rows and width >= columns and height >= rows else CELL


def show(image: Image.Image, way: str, console: Console) -> None:
    """Show a picture below what was said, in one of WAYS."""
    if way == "none":
        return
    columns, rows = console.width - 1, max(4, min(ROWS.get(way, 20), console.height - 4))
    if way == "blocks":
        console.print(blocks(resized(image, fitted(image.size, (columns, 2 * rows), enlarge=False))), end="")
        return
    wide, high = cell()
    width, height = fitted(image.size, (columns * wide, rows * high))
    if way == "sixel":
        text = sixel(resized(image, (width, height)))
    else:
        small = resized(image, fitted(image.size, (2 * width, 2 * height), enlarge=False))  # twice: screens of two dots a pixel
        text = {"kitty": kitty, "iterm": iterm}[way](small, -(-width // wide), -(-height // high))
    console.file.write(text + "\n")
    console.file.flush()
