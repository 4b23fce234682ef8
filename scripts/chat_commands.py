"""The /commands of a chat."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from metabridge.bridge import transcript
from metabridge.bridge.conversation import SETTINGS
from metabridge.bridge.drawing import PICTURED, settings_of
from metabridge.bridge.errors import UserError, unknown
from metabridge.scripts.chat_prompt import PATH, Words
from metabridge.scripts.chat_screen import GREY
from metabridge.scripts.chat_state import DEFAULTS, Chat
from metabridge.scripts.generate_asked import opened

SWITCH = {"on": True, "off": False}
DEFAULT = "default"
SEEDS = 2**63


class Left(Exception):
    """The end of the chat."""


@dataclass(frozen=True)
class Command:
    run: Callable[[Chat, str], None]
    argument: str
    what: str
    completion: str | Callable[[Chat], list[str]] | None = None


def answer(chat: Chat, line: str) -> None:
    """What a line asks for: a /command, or a picture."""
    if not line.startswith("/"):
        chat.draw(line)
        return
    name, _, argument = line.partition(" ")
    if name not in COMMANDS:
        raise UserError(unknown(name, COMMANDS, "command"))
    command, argument = COMMANDS[name], argument.strip()
    if argument and not command.argument:
        raise UserError(f"{name} {argument}: {name} takes nothing after it")
    if not argument and command.argument and not command.argument.startswith("["):
        raise UserError(f"{name}: give {command.argument}")
    command.run(chat, argument)


def completions(chat: Chat) -> dict[str, str | Words | None]:
    def bound(given: str | Callable[[Chat], list[str]] | None) -> str | Words | None:
        return (lambda: given(chat)) if callable(given) else given

    return {name: bound(command.completion) for name, command in COMMANDS.items()}


def image(chat: Chat, argument: str) -> None:
    if not argument:
        chat.waiting = []
        chat.screen.note("no picture goes with the next prompt")
        return
    path = as_path("/image", argument)
    _, found = opened(path, f"/image {path}")
    chat.waiting = [*chat.waiting, found]
    chat.screen.note(f"with the next prompt: {len(chat.waiting)} picture{'s' * (len(chat.waiting) > 1)}")


def think(chat: Chat, argument: str) -> None:
    chat.conversation.think = switched("/think", argument)
    chat.settle()


def seed(chat: Chat, argument: str) -> None:
    chat.seed = None if argument == "off" else as_seed("/seed", argument, "; or off, for a new one each time")


def again(chat: Chat, argument: str) -> None:
    chat.again(as_seed("/again", argument) if argument else None)


def put(chat: Chat, argument: str) -> None:
    name, _, text = argument.partition(" ")
    if name not in SETTINGS:
        raise UserError(unknown(name, SETTINGS))
    settings = {key: value for key, value in chat.conversation.settings.items() if key != name}
    if (text := text.strip()) != DEFAULT:
        settings[name] = as_setting(name, text)
    settings_of(chat.pipeline.bridge.hand, [PICTURED], **settings)
    chat.conversation.settings = settings
    chat.settle()


def settings(chat: Chat, _: str) -> None:
    conversation, hand = chat.conversation, chat.pipeline.bridge.hand
    own = {"guidance_scale": hand.default_guidance, "num_inference_steps": hand.default_steps}
    own |= dict(zip(("height", "width"), hand.default_size, strict=True))
    given = DEFAULTS | own
    rows = [("think", "on" if conversation.think else "off"), ("seed", "a new one each time" if chat.seed is None else str(chat.seed))]
    for name in SETTINGS:
        value = conversation.settings.get(name, given[name])
        rows.append((name, f"{shown(value)}{'' if name in conversation.settings else f' ({DEFAULT})'}"))
    table(chat, rows)


def ask(chat: Chat, argument: str) -> None:
    chat.ask(argument)


def undo(chat: Chat, _: str) -> None:
    chat.undo()


def history(chat: Chat, _: str) -> None:
    for number, (turn, file) in enumerate(zip(chat.conversation.turns, chat.branch.files, strict=True), 1):
        seen = f" [{len(turn.images)} picture{'s' * (len(turn.images) > 1)}]" if turn.images else ""
        chat.screen.say(f"{number}  {turn.prompt}{seen}")
        if turn.said:
            chat.screen.say(f"   {turn.said}", GREY)
        if turn.drawn is not None:
            chat.screen.say(f"   {f'{file}, ' if file else ''}seed {turn.seed}", GREY)


def save(chat: Chat, argument: str) -> None:
    folder = as_path("/save", argument)
    if os.path.exists(folder / transcript.FILE):
        raise UserError(f"/save {argument}: holds a conversation already; give another folder")
    transcript.save(chat.conversation, folder)
    chat.screen.say(f"saved: {folder}")


def load(chat: Chat, argument: str) -> None:
    """Beside what there is, so that nothing of it is lost."""
    folder = as_path("/load", argument)
    conversation = transcript.load(chat.pipeline, folder)
    name = re.sub(r"[^\w.-]", "-", folder.resolve().name).lstrip(".-") or "loaded"
    names = (name, *(f"{name}-{k}" for k in range(2, len(chat.branches) + 2)))
    chat.open(next(name for name in names if name not in chat.branches), conversation, [None] * len(conversation.turns))
    chat.screen.note(f"{len(conversation.turns)} turns of {folder}, on branch {chat.name}; /switch goes back")


def branch(chat: Chat, argument: str) -> None:
    chat.open(argument, chat.conversation.branch(), list(chat.branch.files))


def branches(chat: Chat, _: str) -> None:
    for name, one in chat.branches.items():
        chat.screen.say(f"{'*' if name == chat.name else ' '} {name}  {len(one.conversation.turns)} turns, {one.folder}")


def switch(chat: Chat, argument: str) -> None:
    if argument not in chat.branches:
        raise UserError(unknown(argument, chat.branches, "branch"))
    chat.name = argument


def help_(chat: Chat, _: str) -> None:
    table(chat, [("PROMPT", "draw it"), *((f"{name} {one.argument}", one.what) for name, one in COMMANDS.items())])
    table(chat, [("Alt-Enter", "another line"), ("Tab", "complete"), ("Ctrl-C", "stop a drawing"), ("Ctrl-D", "leave")])


def leave(chat: Chat, _: str) -> None:
    raise Left


COMMANDS = {
    "/image": Command(image, "[PATH]", "look at this picture with the next prompt, too; without PATH at none", PATH),
    "/think": Command(think, "on|off", "whether the brain writes a thought before it draws", lambda _: list(SWITCH)),
    "/seed": Command(seed, "N|off", "draw from this seed; off: from a new one each time", lambda _: ["off"]),
    "/set": Command(put, "NAME VALUE", f"a setting of drawing; VALUE {DEFAULT}: as it was", lambda _: list(SETTINGS)),
    "/settings": Command(settings, "", "show them all"),
    "/again": Command(again, "[SEED]", "the last picture from another seed, with the settings of now"),
    "/undo": Command(undo, "", "take the last turn back"),
    "/ask": Command(ask, "QUESTION", "an answer in words"),
    "/history": Command(history, "", "all turns"),
    "/save": Command(save, "DIR", "a copy of the conversation", PATH),
    "/load": Command(load, "DIR", "open a saved conversation as a branch", PATH),
    "/branch": Command(branch, "NAME", "go on in a copy of this conversation"),
    "/branches": Command(branches, "", "list them"),
    "/switch": Command(switch, "NAME", "go to another branch", lambda chat: list(chat.branches)),
    "/help": Command(help_, "", "this list"),
    "/quit": Command(leave, "", "leave; all of it is saved"),
}


def table(chat: Chat, rows: list[tuple[str, str]]) -> None:
    wide = max(len(left) for left, _ in rows)
    for left, right in rows:
        chat.screen.say(f"{left:{wide}}  {right}")


def as_path(name: str, argument: str) -> Path:
    """~, quotes and backslashes as in a shell; a path with blanks needs none."""
    try:
        words = shlex.split(argument)
    except ValueError:
        words = [argument]  # an apostrophe in a name
    try:
        return Path(words[0] if len(words) == 1 else argument).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name} {argument}: {error}; give the whole path") from error


def as_seed(name: str, text: str, more: str = "") -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < SEEDS):
        raise UserError(f"{name} {text}: a seed is a whole number from 0 to 2^63 - 1{more}")
    return int(text)


def switched(name: str, text: str) -> bool:
    if text not in SWITCH:
        raise UserError(f"{name} {text}: it is on or off")
    return SWITCH[text]


def as_setting(name: str, text: str) -> Any:
    hint = get_type_hints(settings_of)[name]
    kind = next(one for one in (*get_args(hint), hint) if one is not NoneType)
    if kind is bool:
        return switched(f"/set {name}", text)
    try:
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError
    except ValueError:
        raise UserError(f"/set {name}: {text!r} given; it is {'a whole number' if kind is int else 'a number'}, or {DEFAULT}") from None
    return value


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, "") else str(value)
