"""The line that is typed: history, completion of commands and paths, several lines at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

PATH = "path"  # what a command's argument is completed to, if not to one of some words
Words = Callable[[], Iterable[str]]


class Commands(Completer):
    """/commands, and what follows them. `arguments`: a command's name -> PATH, the words there are, or None."""

    def __init__(self, arguments: Mapping[str, str | Words | None]) -> None:
        self.arguments = arguments
        self.paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        name, space, rest = document.text_before_cursor.partition(" ")
        if not name.startswith("/"):
            return
        if not space:
            yield from (Completion(one, -len(name)) for one in self.arguments if one.startswith(name))
            return
        argument, rest = self.arguments.get(name), rest.lstrip()
        if argument == PATH:
            yield from self.paths.get_completions(Document(rest.lstrip("'\"")), complete_event)
        elif callable(argument):
            yield from (Completion(one, -len(rest)) for one in argument() if one.startswith(rest))


def session(arguments: Mapping[str, str | Words | None]) -> PromptSession[str]:
    return PromptSession(
        history=history(state_folder() / "chat-history"),
        completer=Commands(arguments),
        key_bindings=keys(),
        complete_style=CompleteStyle.READLINE_LIKE,  # what Tab completes is there before the next key is read
        complete_while_typing=False,
        prompt_continuation="  ",
    )


def keys() -> KeyBindings:
    """Enter sends all lines; a paste of several stays together, and Alt-Enter begins another one."""
    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def state_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "metabridge"


def history(path: Path) -> History:
    """Of all chats; of this one alone where the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
