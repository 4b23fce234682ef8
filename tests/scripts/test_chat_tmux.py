"""`metabridge chat` in a real terminal: keys are typed, and the screen is read."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed: no terminal to type into")]

LONG = 120.0


class Terminal:
    """A tmux server of its own, with one window."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, str(folder / "tmux")

    def tmux(self, *words: str) -> str:
        done = subprocess.run(["tmux", "-S", self.socket, "-f", "/dev/null", *words], capture_output=True, text=True)
        return done.stdout

    def start(self, command: list[str]) -> None:
        # readline, which pytest imports, tells children of a terminal of 80 x 24; Ctrl-C reaches the shell, too
        line = f"unset COLUMNS LINES; trap : INT; cd {shlex.quote(str(self.folder))}; {shlex.join(command)}; echo ended with $?; sleep 1000"
        self.tmux("new-session", "-d", "-x", "100", "-y", "50", f"sh -c {shlex.quote(line)}")

    def type(self, text: str) -> None:
        self.line()
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def key(self, *names: str) -> None:
        self.tmux("send-keys", *names)

    def screen(self) -> list[str]:
        return self.tmux("capture-pane", "-p", "-S", "-1000").rstrip().splitlines()

    def line(self) -> None:
        """Until a line is asked for: between two of them the keys are the terminal's own."""
        end = time.monotonic() + LONG
        while not (screen := self.screen()) or screen[-1].rstrip() != ">":
            assert time.monotonic() < end, screen
            time.sleep(0.1)

    def wait(self, text: str, count: int = 1) -> list[str]:
        """Until so many lines of the screen hold `text`."""
        end = time.monotonic() + LONG
        while time.monotonic() < end:
            screen = self.screen()
            if sum(text in line for line in screen) >= count:
                return screen
            time.sleep(0.1)
        raise AssertionError(f"{text!r} did not come:\n" + "\n".join(self.screen()))


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for name in ("TMUX", "TERM_PROGRAM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one = Terminal(tmp_path)
    yield one
    one.tmux("kill-server")


def chat(*more: str) -> list[str]:
    return [sys.executable, "-m", "metabridge.scripts.cli", "chat", "flatland", *more]


def test_a_chat_in_a_terminal(terminal: Terminal) -> None:
    terminal.start(chat("-o", "d", "--seed", "1"))
    screen = terminal.wait("say what to draw; /help lists the commands")
    assert [line.split(":")[0] for line in screen[:5]] == ["bridge", "brain", "hand", "device", "think"]

    terminal.type("a red star")
    screen = terminal.wait("d/turn-01.png")
    at = screen.index("> a red star")
    assert screen[at + 1] == "a red star"  # the thought
    assert screen[at + 2 : at + 34] == ["▀" * 64] * 32 and screen[at + 34] == "d/turn-01.png"

    terminal.type("/set num_inference_steps 100000")
    terminal.type("two blue circles")
    terminal.wait("/100000 ")  # the bar
    terminal.key("C-c")
    screen = terminal.wait("stopped; it is as if this had not been asked")
    assert not any("100000 " in line for line in screen)  # the bar is gone
    terminal.type("/set num_inference_steps default")
    terminal.type("/history")
    terminal.wait("d/turn-01.png, seed 1")
    assert [turn["prompt"] for turn in saved(terminal)["turns"]] == ["a red star"]

    terminal.type("two blue circles")
    terminal.wait("d/turn-02.png")
    terminal.type("/undo")
    terminal.wait("taken back: two blue circles (d/turn-02.png stays)")
    terminal.type("/hsitory")
    terminal.wait("/hsitory: no such command; did you mean /history? it may be one of:")
    terminal.type("/save copy")
    terminal.wait("saved: copy")
    terminal.line()
    terminal.key("/he", "Tab", "Enter")  # completed
    terminal.wait("Ctrl-D")

    terminal.line()
    terminal.key("no", "C-c")  # the line is cleared, once without a word
    terminal.wait("> no")
    terminal.line()
    assert not any("to leave" in line for line in terminal.screen())
    terminal.key("C-c")
    terminal.wait("to leave: /quit or Ctrl-D")
    terminal.line()
    terminal.key("C-d")
    screen = terminal.wait("ended with 0")
    assert "to go on: metabridge chat flatland --resume d" in screen and not any("Traceback" in line for line in screen)
    assert [turn["prompt"] for turn in saved(terminal)["turns"]] == ["a red star"]
    assert (terminal.folder / "copy" / "conversation.json").exists()
    assert "+two blue circles" in (terminal.folder / "state" / "metabridge" / "chat-history").read_text()


def saved(terminal: Terminal) -> dict[str, list[dict[str, str]]]:
    return dict(json.loads((terminal.folder / "d" / "conversation.json").read_text()))


def test_a_pipe_that_is_interrupted_says_how_to_go_on(tmp_path: Path) -> None:
    lines = "/think off\na star\n/set num_inference_steps 100000\na circle\n"
    with subprocess.Popen(
        chat("-o", "d"),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    ) as child:
        assert child.stdin and child.stdout and child.stderr
        child.stdin.write(lines)
        child.stdin.flush()
        while "turn-01.png" not in child.stdout.readline():
            pass
        time.sleep(1)
        child.send_signal(2)
        assert child.wait(LONG) == 130
        assert child.stderr.read() == "metabridge: stopped; to go on: metabridge chat flatland --resume d\n"
    assert len(json.loads((tmp_path / "d" / "conversation.json").read_text())["turns"]) == 1
