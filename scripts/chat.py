"""`metabridge chat`: a conversation in the terminal, or out of a pipe."""

from __future__ import annotations

import io
import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from metabridge.bridge.errors import UserError, unknown
from metabridge.scripts.chat_terminal import WAYS, ask_terminal, way_of
from metabridge.scripts.interrupts import heard_ctrl_c, uninterrupted

if TYPE_CHECKING:
    from metabridge.scripts.chat_state import Chat

FILE = "conversation.json"


def chat_command(
    bridge: str,
    out: Path | None,
    resume: Path | None,
    think: bool | None,
    seed: int | None,
    show: str,
    max_new_tokens: int | None,
    quantize: str | None,
    offload: bool,
) -> None:
    check(out, resume, show)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if show == "auto":
        show = way_of(os.environ, ask_terminal) if interactive else "none"
    from metabridge.scripts.generate import load

    with heard_ctrl_c():
        pipeline = load(bridge, quantize, offload=offload)
        from metabridge.bridge import transcript
        from metabridge.bridge.conversation import Conversation
        from metabridge.scripts.chat_screen import Screen
        from metabridge.scripts.chat_state import Branch, Chat, unused

    conversation = Conversation(pipeline, pipeline.bridge.thinks) if resume is None else transcript.load(pipeline, resume)
    if think is not None:
        conversation.think = think
    if max_new_tokens is not None:
        conversation.max_new_tokens = max_new_tokens
    folder = out or resume or unused(Path(), f"chat-{Path(bridge).name}-{time.strftime('%Y%m%d-%H%M%S')}")
    chat = Chat(pipeline, Branch(conversation, folder, [None] * len(conversation.turns)), Screen(interactive, show), seed)
    if interactive:
        at_terminal(chat)
    else:
        piped(chat)


def check(out: Path | None, resume: Path | None, show: str) -> None:
    """What can be refused before anything heavy is loaded."""
    if show not in ("auto", *WAYS):
        raise UserError(unknown(show, ("auto", *WAYS), "way to --show pictures"))
    if resume is not None and not os.path.isfile(resume / FILE):
        raise UserError(f"--resume {resume}: no {FILE} there; give the folder of a chat")
    if out is not None and out != resume and os.path.exists(out / FILE):
        raise UserError(f"-o {out}: holds a conversation already; --resume {out} goes on with it, or give another folder")
    if out is not None and os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"-o {out}: is a file; give a folder")


def at_terminal(chat: Chat) -> None:
    from metabridge.scripts.chat_commands import Left, answer, completions
    from metabridge.scripts.chat_prompt import session

    about(chat)
    prompt, cleared = session(completions(chat)), False
    while True:
        try:
            line = prompt.prompt(lambda: before_line(chat)).strip()
        except KeyboardInterrupt:
            if cleared:
                chat.screen.note("to leave: /quit or Ctrl-D")
            cleared = True
            continue
        except EOFError:
            break
        cleared = False
        try:
            if line:
                answer(chat, line)
        except UserError as error:
            chat.screen.error(error)
        except KeyboardInterrupt:
            with uninterrupted():
                chat.screen.note("stopped; it is as if this had not been asked")
        except Left:
            break
    for line in to_go_on(chat):
        chat.screen.say(line)


def to_go_on(chat: Chat) -> list[str]:
    held = chat.pipeline.bridge.brain.identity.get("quantize", "none")
    command = ["metabridge", "chat", chat.pipeline.name, *(["--quantize", held] if held != "none" else [])]
    folders = [branch.folder for branch in chat.branches.values() if branch.conversation.turns]
    return [f"to go on: {shlex.join([*command, '--resume', str(folder)])}" for folder in folders]


def about(chat: Chat) -> None:
    """One short block; the line of the bridge is there already."""
    bridge = chat.pipeline.bridge
    for part, identity in (("brain", bridge.brain.identity), ("hand", bridge.hand.identity)):
        chat.screen.say(f"{part}: {identity['repo']}")
    chat.screen.say(f"device: {bridge.device}")
    chat.screen.say(f"think: {'on' if chat.conversation.think else 'off'}")
    if chat.conversation.turns:
        chat.screen.say(f"turns: {len(chat.conversation.turns)}, as /history shows them")
    chat.screen.note("say what to draw; /help lists the commands")


def before_line(chat: Chat) -> str:
    name = "" if len(chat.branches) == 1 else chat.name
    return f"{name}{f' +{len(chat.waiting)}' if chat.waiting else ''}> ".lstrip()


def piped(chat: Chat) -> None:
    """Every line is answered; one that cannot be is said on stderr, and the exit code is 2 then."""
    from metabridge.scripts.chat_commands import Left, answer

    failed = 0
    try:
        for line in lines():
            try:
                answer(chat, line)
            except UserError as error:
                chat.screen.error(error)
                failed += 1
    except Left:
        pass
    except KeyboardInterrupt:
        with uninterrupted():
            chat.screen.error("; ".join(["stopped", *to_go_on(chat)]))
        sys.exit(130)
    if failed:
        sys.exit(2)


def lines() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for line in sys.stdin:
        if line.strip():
            yield line.strip()
