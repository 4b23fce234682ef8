"""`metabridge chat` out of a pipe, and what stands behind its lines; test_chat_tmux.py has it in a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from PIL import Image
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from metabridge.bridge.conversation import SETTINGS, Conversation
from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.scripts.chat_commands import COMMANDS, answer, as_path, completions
from metabridge.scripts.chat_prompt import Commands, history, session
from metabridge.scripts.chat_screen import Screen
from metabridge.scripts.chat_state import Branch, Chat, uninterrupted

LONG = 300 * "x"  # of letters, where a file system takes 255
Piped = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def piped(metabridge: Command, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Piped:
    """Run a chat over the given lines: exit code, lines of output without the bridge's, errors."""

    def run(lines: list[str], *arguments: object) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
        code, out, err = metabridge("chat", trained, *arguments)
        first, *others = out.splitlines()
        assert first == f"bridge: {trained} ({trained / 'bridge'})"
        # a brain of random weights does not find an end
        return code, others, "".join(line for line in err.splitlines(keepends=True) if "replies were cut at" not in line)

    return run


@pytest.fixture
def chat(bridge: Bridge, tmp_path: Path) -> Chat:
    conversation = Conversation(BridgePipeline(bridge, "tiny"), think=False, max_new_tokens=4, num_inference_steps=2)
    return Chat(conversation.pipeline, Branch(conversation, tmp_path / "out"), Screen(False, "none"), seed=3)


def turns(folder: str | Path) -> list[str]:
    return [turn["prompt"] for turn in json.loads((Path(folder) / "conversation.json").read_text())["turns"]]


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def test_lines_of_a_pipe_are_drawn_in_turn(piped: Piped) -> None:
    code, out, err = piped(["a red star", "", "make it blue"], "-o", "d", "--seed", 5)
    assert (code, err) == (0, "")
    assert [line for line in out if not line.startswith("thought: ")] == ["d/turn-01.png", "d/turn-02.png"]
    assert turns("d") == ["a red star", "make it blue"]
    with Image.open("d/turn-02.png") as picture:
        told = dict(picture.text)  # type: ignore[attr-defined]
    settings = json.loads(told.pop("settings"))
    assert (told["prompt"], told["seed"], told["turn"]) == ("make it blue", "5", "2") and "thought" in told
    assert settings["think"] is True and settings["num_inference_steps"] > 0 and settings["quantize"] == "none"


def test_without_a_folder_one_is_made_with_the_first_picture(piped: Piped, trained: Path) -> None:
    code, _, _ = piped(["/undo", "/settings"])
    assert code == 2 and not list(Path().iterdir())
    code, out, _ = piped(["/think off", "a star"])
    (folder,) = Path().iterdir()
    assert code == 0 and folder.name.startswith(f"chat-{trained.name}-") and out == [f"{folder}/turn-01.png"]


def test_a_bad_line_is_one_line_and_the_chat_goes_on(piped: Piped, tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("L", (8193, 1)).save(tmp_path / "wide.png")
    lines = {
        "/hlep": f"/hlep: no such command; did you mean /help? it may be one of: {', '.join(sorted(COMMANDS))}",
        "/undo": "undo: nothing has been said yet",
        "/again": "again: nothing was drawn in the last turn; draw something first",
        "/undo now": "/undo now: /undo takes nothing after it",
        "/ask": "/ask: give QUESTION",
        "/image gone.png": "/image gone.png: no such file; give a picture",
        "/image empty.png": "/image empty.png: is empty (0 bytes); give a picture",
        "/think maybe": "/think maybe: it is on or off",
        "/seed -1": "/seed -1: a seed is a whole number from 0 to 2^63 - 1; or off, for a new one each time",
        f"/seed {2**63}": f"/seed {2**63}: a seed is a whole number from 0 to 2^63 - 1; or off, for a new one each time",
        "/set guidance 3": f"guidance: no such setting; did you mean guidance_scale? it may be one of: {', '.join(sorted(SETTINGS))}",
        "/set guidance_scale nan": "/set guidance_scale: 'nan' given; it is a number, or default",
        "/set num_inference_steps 2.5": "/set num_inference_steps: '2.5' given; it is a whole number, or default",
        "/set num_inference_steps 0": "num_inference_steps: 0 given; it is 1 at least",
        "/set preserve 2": "preserve: 2 given; it is 0 (draw all anew) to 1 (keep all)",
        "/set references perhaps": "/set references perhaps: it is on or off",
        "/set references off": "references: False given, but this hand is given no source pictures in any case; leave it out",
        "/image wide.png": "/image wide.png: 8193x1 pixels given; 8192 a side at most, scale it down first",
        f"/load {LONG}": f"{LONG}: no such folder; give one that a conversation was saved in",
        f"/save {LONG}": f"{LONG}: the conversation cannot be saved (File name too long); make room or give another folder",
        "/load gone": "gone: no such folder; give one that a conversation was saved in",
        "/branch a/b": "a/b: not a name for a branch; give letters, digits, - and _",
        "/branch main": "main: there is a branch of this name; /switch main goes to it, or give another name",
        "/switch mian": "mian: no such branch; did you mean main? it may be one of: main",
    }
    code, out, err = piped([*lines, "/think off", "a star"], "-o", "d")
    assert code == 2 and out == ["d/turn-01.png"]
    assert err.splitlines() == [f"metabridge: {line}" for line in lines.values()]


def test_undo_and_again_overwrite_no_picture(piped: Piped) -> None:
    lines = ["/think off", "/seed 7", "a star", "/again", "a circle", "/undo", "a heart", "/again 7", "/history"]
    code, out, err = piped(lines, "-o", "d")
    assert (code, err) == (0, "")
    assert out == [
        "d/turn-01.png",
        "d/turn-01-2.png",
        "d/turn-02.png",
        "taken back: a circle (d/turn-02.png stays)",
        "d/turn-02-2.png",
        "d/turn-02-3.png",
        "1  a star",
        "   d/turn-01-2.png, seed 8",
        "2  a heart",
        "   d/turn-02-3.png, seed 7",
    ]
    assert turns("d") == ["a star", "a heart"]
    assert not np.array_equal(pixels("d/turn-01.png"), pixels("d/turn-01-2.png"))
    assert np.array_equal(pixels("d/turn-02-2.png"), pixels("d/turn-02-3.png"))


def test_again_leaves_out_what_says_nothing_of_the_turn(piped: Piped) -> None:
    """preserve waits for a turn with a picture, also where a turn is drawn again."""
    lines = ["/think off", "/set preserve 1", "/set image_guidance_scale 1.5", "/seed 7", "a star", "/again 7", "make it blue", "/again 8"]
    code, out, _ = piped(lines, "-o", "d")
    assert code == 0 and out == ["d/turn-01.png", "d/turn-01-2.png", "d/turn-02.png", "d/turn-02-2.png"]
    assert np.array_equal(pixels("d/turn-01.png"), pixels("d/turn-01-2.png"))


def test_settings_hold_from_the_next_picture_on(piped: Piped) -> None:
    lines = ["/think off", "/seed 7", "a star", "/set num_inference_steps 1", "/again 7", "/set num_inference_steps default", "/again 7"]
    code, _, err = piped([*lines, "/set preserve 0.5", "/set negative_prompt a blue  sky", "/settings"], "-o", "d")
    assert (code, err) == (0, "")
    first, second, third = (pixels(f"d/turn-01{k}.png") for k in ("", "-2", "-3"))
    assert not np.array_equal(first, second) and np.array_equal(first, third)
    code, out, _ = piped(["/settings"], "--resume", "d")
    assert code == 0 and "think                 off" in out and "seed                  a new one each time" in out
    assert "preserve              0.5" in out and "negative_prompt       a blue  sky" in out
    assert any(re.fullmatch(r"num_inference_steps   \d+ \(default\)", line) for line in out)


def test_a_conversation_goes_on_where_it_was(piped: Piped) -> None:
    lines = ["a star", "make it blue"]
    code, _, err = piped(lines, "-o", "whole", "--seed", 5)
    assert (code, err) == (0, "")
    assert piped(lines[:1], "-o", "d", "--seed", 5)[0] == 0
    code, out, err = piped(lines[1:], "--resume", "d", "--seed", 5)
    assert (code, err, out[-1]) == (0, "", "d/turn-02.png")
    assert turns("d") == turns("whole") == lines
    assert np.abs(pixels("d/turn-02.png") - pixels("whole/turn-02.png")).max() <= 1  # read afresh, equal to 1e-5


def test_pictures_go_with_the_next_prompt_or_question_alone(piped: Piped, picture: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "my pictures").mkdir()
    picture.save(tmp_path / "my pictures" / "a.png")
    given = ["/image my pictures/a.png", "/image 'my pictures/a.png'", "/image my\\ pictures/a.png"]
    lines = ["/think off", *given, "mix them", "alone", given[0], "/ask what is it?", given[0], "/image", "none"]
    code, _, err = piped(lines, "-o", "d")
    assert (code, err) == (0, "")
    saved = json.loads(Path("d/conversation.json").read_text())["turns"]
    assert [len(turn["images"]) for turn in saved] == [3, 0, 1, 0]
    assert saved[2]["drawn"] is None and isinstance(saved[2]["said"], str)


def test_branches_are_apart_and_saved_apart(piped: Piped) -> None:
    lines = ["/think off", "a star", "/branch red", "make it red", "/switch main", "make it blue", "/save kept", "/load kept", "and green"]
    code, out, err = piped([*lines, "/branches", "/save kept"], "-o", "d")
    assert code == 2 and err == "metabridge: /save kept: holds a conversation already; give another folder\n"
    assert turns("d") == ["a star", "make it blue"] == turns("kept")
    assert turns("d/red") == ["a star", "make it red"] and turns("d/kept") == ["a star", "make it blue", "and green"]
    assert out[-3:] == ["  main  2 turns, d", "  red  2 turns, d/red", "* kept  3 turns, d/kept"]
    code, out, _ = piped(["/branch red", "another"], "--resume", "d")
    assert code == 0 and turns("d/red") == ["a star", "make it red"]  # a branch of an earlier time is not written over
    assert turns("d/red-2") == ["a star", "make it blue", "another"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--resume", "gone"], "--resume gone: no conversation.json there; give the folder of a chat"),
        (["-o", "d"], "-o d: holds a conversation already; --resume d goes on with it, or give another folder"),
        (["-o", "file"], "-o file: is a file; give a folder"),
        (["--show", "kity"], "kity: no such way to --show pictures; did you mean kitty? it may be one of: auto, blocks, "),
    ],
)
def test_what_is_refused_before_anything_is_loaded(metabridge: Command, tmp_path: Path, arguments: list[str], line: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "conversation.json").write_text("{}")
    (tmp_path / "file").touch()
    code, out, err = metabridge("chat", "flatland", *arguments)
    assert (code, out) == (2, "") and err.startswith(f"metabridge: {line}")


def test_help_names_every_command(piped: Piped) -> None:
    code, out, _ = piped(["/help"])
    assert code == 0 and all(any(line.startswith(f"{name} ") for line in out) for name in COMMANDS)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_leaves_no_trace_of_the_turn(chat: Chat, picture: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    answer(chat, "a star")
    chat.waiting = [picture]
    kept = chat.conversation, list(chat.branch.files), sorted(chat.out.rglob("*"))
    chat.conversation.settings["num_inference_steps"] = 20_000
    for line in ("a circle", "/again"):
        stop = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        stop.start()
        with pytest.raises(KeyboardInterrupt):
            answer(chat, line)
        stop.join()
    assert (chat.conversation, chat.branch.files, sorted(chat.out.rglob("*"))) == kept and chat.waiting == [picture]
    chat.conversation.settings["num_inference_steps"] = 2
    answer(chat, "a circle")
    twin = Conversation(chat.pipeline, think=False, num_inference_steps=2)
    twin.draw("a star", seed=3)
    drawn, expected = chat.conversation.turns[-1].drawn, twin.draw("a circle", picture, seed=3).drawn
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))


def test_a_turn_that_cannot_be_saved_is_not_lost(chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    chat.branch.folder = tmp_path / "file" / "out"
    answer(chat, "a star")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("; make room or give another path (the chat goes on; /save DIR saves all of it elsewhere)")
    assert "the conversation cannot be saved (Not a directory)" in second
    answer(chat, f"/save {tmp_path / 'elsewhere'}")
    assert turns(tmp_path / "elsewhere") == ["a star"]


def test_saving_is_not_interrupted() -> None:
    with uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)


class Swallows:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_a_finalizer_swallows_stops_the_next_step() -> None:
    with Screen(False, "none").working("drawing") as working:
        step, one = working.drawing(2), Swallows()
        step()
        del one
        with pytest.raises(KeyboardInterrupt):
            step()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_brain_says_does_not_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(False, "none").thought("a [red] star\x1b[2J\x07")
    assert capsys.readouterr().out == "thought: a [red] star\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}\n"


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("a b.png", "a b.png"),
        ("'a b.png'", "a b.png"),
        ("a\\ b.png", "a b.png"),
        ("it's.png", "it's.png"),
        ("~/a.png", f"{Path.home()}/a.png"),
    ],
)
def test_paths_as_in_a_shell(written: str, path: str) -> None:
    assert as_path("/image", written) == Path(path)


def test_a_home_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"^/image ~no-such-user/a\.png: .*; give the whole path$"):
        as_path("/image", "~no-such-user/a.png")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("/th", ["/think"]),
        ("/think ", ["/think on", "/think off"]),
        ("/set guid", ["/set guidance_scale"]),
        ("/switch m", ["/switch main"]),
        ("/image pic", ["/image pictures"]),
        ("/image 'pic", ["/image 'pictures"]),
        ("/ask w", []),
        ("a red", []),
    ],
)
def test_tab_completes_commands_words_and_paths(chat: Chat, typed: str, completed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chat.out.parent)
    Path("pictures").mkdir()
    found = Commands(completions(chat)).get_completions(Document(typed), CompleteEvent())
    assert [typed[: len(typed) + one.start_position] + one.text for one in found] == completed


def test_keys_complete_a_line_and_keep_lines_together(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with create_pipe_input() as keyboard:
        prompt = session(completions(chat))
        prompt.app.input, prompt.app.output = keyboard, DummyOutput()
        keyboard.send_text("/hel\t\r\x1b[200~a star\r\nand a heart\x1b[201~\ra circle\x1b\rtoo\r")
        assert prompt.prompt() == "/help"
        assert prompt.prompt() == "a star\nand a heart"
        assert prompt.prompt() == "a circle\ntoo"
    assert next(iter(FileHistory(str(tmp_path / "metabridge" / "chat-history")).load_history_strings())) == "a circle\ntoo"


def test_a_history_that_cannot_be_written_is_that_of_this_chat(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert isinstance(history(tmp_path / "file" / "chat-history"), InMemoryHistory)
