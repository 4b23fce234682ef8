"""What a chat holds: conversations by name, each in a folder of its own, where it is saved after every turn."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from metabridge.bridge import transcript
from metabridge.bridge.conversation import Conversation, Turn
from metabridge.bridge.drawing import settings_of
from metabridge.bridge.errors import UserError
from metabridge.bridge.files import png
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.scripts.chat_screen import Screen
from metabridge.scripts.interrupts import uninterrupted
from metabridge.scripts.output import write_asked

MAIN = "main"
DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(settings_of).parameters.items()}  # of settings of drawing


@dataclass
class Branch:
    conversation: Conversation
    folder: Path
    files: list[Path | None] = field(default_factory=list)  # the picture of each turn; None = none, or of another time


class Chat:
    """One turn at a time: it is made on a branch of the conversation, which takes its place when all is done.

    Ctrl-C stops what is being made; what is done is saved and shown.
    """

    def __init__(self, pipeline: BridgePipeline, main: Branch, screen: Screen, seed: int | None = None) -> None:
        self.pipeline, self.screen, self.seed = pipeline, screen, seed
        self.out = main.folder
        self.branches, self.name = {MAIN: main}, MAIN
        self.waiting: list[Image.Image] = []  # pictures that go with the next prompt

    @property
    def branch(self) -> Branch:
        return self.branches[self.name]

    @property
    def conversation(self) -> Conversation:
        return self.branch.conversation

    def draw(self, prompt: str) -> None:
        draft = self.conversation.branch()
        with self.screen.working("thinking" if draft.think else "reading") as working:
            turn = draft.draw(
                prompt,
                self.waiting,
                self.seed,
                callback_on_step_end=working.drawing(self.steps(draft)),
                callback_on_thought=working.thought,
            )
        with uninterrupted():
            self.waiting = []
            self.drawn(turn, draft, [*self.branch.files, None])

    def again(self, seed: int | None) -> None:
        """With what the settings are now: those that were set in the last turn, and are not any more, are as they were at first."""
        draft = self.conversation.branch()
        last = draft.turns[-1] if draft.turns else None
        settings = draft.settings
        if last is not None:
            settings = {name: DEFAULTS[name] for name in last.settings} | draft.standing(last.asked(draft.turns[:-1]))
            seed = (last.seed or 0) + 1 if seed is None else seed
        with self.screen.working("drawing") as working:
            turn = draft.again(seed, working.drawing(self.steps(draft)), **settings)
        with uninterrupted():
            self.drawn(turn, draft, list(self.branch.files))

    def ask(self, question: str) -> None:
        draft = self.conversation.branch()
        with self.screen.working("answering"):
            turn = draft.ask(question, self.waiting)
        with uninterrupted():
            self.waiting = []
            self.screen.say(turn.said or "")
            self.kept(draft, [*self.branch.files, None])

    def undo(self) -> None:
        draft = self.conversation.branch()
        turn = draft.undo()
        file = self.branch.files[-1]
        with uninterrupted():
            self.screen.say(f"taken back: {turn.prompt}{f' ({file} stays)' if file else ''}")
            self.kept(draft, self.branch.files[:-1])

    def drawn(self, turn: Turn, draft: Conversation, files: list[Path | None]) -> None:
        assert turn.drawn is not None
        data = png(turn.drawn, self.texts(turn, len(files)))
        # what was drawn is never overwritten, not by /again, nor after /undo
        path = unused(self.branch.folder, f"turn-{len(files):02}", ".png")
        written = self.attempt(lambda: write_asked("-o", path, data, make_folder=True))
        files[-1] = path if written else None
        self.kept(draft, files)
        self.screen.picture(turn.drawn, files[-1])

    def kept(self, draft: Conversation, files: list[Path | None]) -> None:
        """`draft` is the conversation from now on, also where it cannot be saved."""
        self.branch.conversation, self.branch.files = draft, files
        self.attempt(lambda: transcript.save(draft, self.branch.folder))

    def attempt(self, write: Callable[[], None]) -> bool:
        try:
            write()
        except UserError as error:
            self.screen.error(f"{error} (the chat goes on; /save DIR saves all of it elsewhere)")
            return False
        return True

    def texts(self, turn: Turn, number: int) -> dict[str, str]:
        """How the picture came about; what was said before it is in conversation.json."""
        hand, brain = self.pipeline.bridge.hand, self.pipeline.bridge.brain
        defaults = {"num_inference_steps": hand.default_steps, "guidance_scale": hand.default_guidance}
        kept = {"think": turn.think, "quantize": brain.identity.get("quantize", "none"), "version": version("metabridge")}
        said = {} if turn.said is None else {"thought": turn.said}
        settings = json.dumps(defaults | {name: value for name, value in turn.settings.items() if value is not None} | kept)
        return {
            "prompt": turn.prompt,
            **said,
            "seed": str(turn.seed),
            "bridge": self.pipeline.name,
            "turn": str(number),
            "settings": settings,
        }

    def steps(self, conversation: Conversation) -> int:
        return int(conversation.settings.get("num_inference_steps") or self.pipeline.bridge.hand.default_steps)

    def open(self, name: str, conversation: Conversation, files: list[Path | None]) -> None:
        """A branch beside the others, which is the present one from now on."""
        if name in self.branches:
            raise UserError(f"{name}: there is a branch of this name; /switch {name} goes to it, or give another name")
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"{name}: not a name for a branch; give letters, digits, - and _")
        self.branches[name], self.name = Branch(conversation, unused(self.out, name), files), name
        self.settle()

    def settle(self) -> None:
        """Save what has changed beside the turns."""
        if self.conversation.turns:
            with uninterrupted():
                self.kept(self.conversation, self.branch.files)


def unused(folder: Path, name: str, ending: str = "") -> Path:
    """turn-01.png, or turn-01-2.png where that is taken."""
    path, k = folder / f"{name}{ending}", 1
    while os.path.exists(path):  # Path's own raises for a name that is too long
        k += 1
        path = folder / f"{name}-{k}{ending}"
    return path
