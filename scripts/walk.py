"""The pictures of docs/generation.md, drawn by the bridge that ships.

python -m metabridge.scripts.walk docs
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from metabridge.adapters import load_pipeline
from metabridge.bridge.conversation import Conversation
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.sheet import Tile, compose, shown
from metabridge.eval.detect.flatland import correct
from metabridge.training.flatland.captions import Want

BRIDGE = "flatland-edit"
KNOWLEDGE = (
    ("a square with the color of a ripe banana", "yellow square"),
    ("as many stars as a dog has legs", "star, star, star, star"),
    ("the shape of a starfish in the color of a carrot", "orange star"),
)
EDITS = (  # a scene, and what is made of it
    (
        ("a red circle and a blue star", "red circle, blue star"),
        ("make the star green", "red circle, green star"),
        ("replace the circle with a square", "red square, blue star"),
        ("remove the star", "red circle"),
        ("only the star", "blue star"),
    ),
    (
        ("a red star at the top left", "red star"),
        ("make it blue", "blue star"),
        ("turn it into a heart", "red heart"),
        ("add a purple cross at the top right", "red star, purple cross"),
        ("move it to the bottom right", "red star"),
    ),
)
SUBJECTS = (("a purple heart", "purple heart"), ("a yellow square", "yellow square"))
GIVEN = (
    ("the color of the first picture on the shape of the second", "purple square"),
    ("shape from picture 1, color from picture 2", "yellow heart"),
    ("both side by side", "purple heart, yellow square"),
)
AGAIN = ("the same picture again", "purple heart")
TALK = (
    ("a red circle and a blue star", "red circle, blue star"),
    ("make the star green", "red circle, green star"),
    ("now only the star", "green star"),
    ("move it to the top left", "green star"),
)


@dataclass(frozen=True)
class Shot:
    """A picture of the walk, and what it should show: "red star, star", the second in any color."""

    image: Image.Image
    text: str
    thought: str | None
    wanted: str

    @property
    def wrong(self) -> str:
        """What the checker says; "" where the picture shows what it should, nothing less and nothing more."""
        things = [named.split() for named in self.wanted.split(", ")]
        return correct(self.image, Want(tuple((words[0] if words[1:] else None, words[-1]) for words in things)))[1]

    @property
    def tile(self) -> Tile:
        return shown(self.image, self.text, self.thought)


def drawn(pipe: BridgePipeline, asked: Sequence[tuple[str, str]], seed: int, image: Sequence[Image.Image] = ()) -> list[Shot]:
    """One picture of each prompt, all from the same pictures, with a thought first."""
    texts = [text for text, _ in asked]
    pictures = [list(image) for _ in asked] if image else None
    out = pipe(texts, image=pictures, think=True, seeds=[seed] * len(texts))
    return [Shot(*row) for row in zip(out.images, texts, out.thoughts, [wanted for _, wanted in asked], strict=True)]


def knowledge(pipe: BridgePipeline) -> list[Shot]:
    return drawn(pipe, KNOWLEDGE, seed=1)


def edits(pipe: BridgePipeline) -> list[Shot]:
    """Scenes, and what each edit makes of them."""
    shots = []
    for scene, *asked in EDITS:
        before = drawn(pipe, [scene], seed=0)
        shots += [*before, *drawn(pipe, asked, 0, [before[0].image])]
    return shots


def given(pipe: BridgePipeline) -> list[Shot]:
    """Two pictures, what is made of both, and one of them again."""
    two = drawn(pipe, SUBJECTS, seed=1)
    one, other = (shot.image for shot in two)
    return [*two, *drawn(pipe, GIVEN, 1, [one, other]), *drawn(pipe, [AGAIN], 1, [one])]


def conversation(pipe: BridgePipeline) -> list[Shot]:
    """Turn by turn; each picture is looked at in the turns that follow."""
    talk, shots = Conversation(pipe), []
    for k, (text, wanted) in enumerate(TALK):
        turn = talk.draw(text, seed=1 + k)
        assert turn.drawn is not None
        shots.append(Shot(turn.drawn, text, turn.said, wanted))
    return shots


PICTURES: Mapping[str, tuple[int, Callable[[BridgePipeline], list[Shot]]]] = {  # tiles a row, and what draws them
    "generation-knowledge.png": (3, knowledge),
    "generation-edits.png": (5, edits),
    "generation-given.png": (6, given),
    "generation-conversation.png": (4, conversation),
}


def main() -> None:
    folder = Path(sys.argv[1])
    pipe = load_pipeline(BRIDGE)
    for name, (columns, make) in PICTURES.items():
        shots = make(pipe)
        for shot in shots:
            print(f"{name}: {shot.text}: {shot.wrong or 'right'}")
        compose([shot.tile for shot in shots], columns=columns).save(folder / name)


if __name__ == "__main__":
    main()
