"""`metabridge bench RECIPE --drawing`: the brain's seconds for several images, a thought and a later turn, beside reading afresh each time.

Ours is the pipeline and the conversation as users call them, with the brain's verbs timed. The usual way reads the prompt again for every
image and every null row, after the thought, and with all of the history in every turn.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.output import write_asked
from metabridge.training import recipes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metabridge.bridge.interfaces import Example, Memory
    from metabridge.bridge.model import Bridge

IMAGES, THOUGHT, TURNS = 4, 64, 5
WORKS = {
    "images": f"{IMAGES} images of a prompt",
    "think": f"a thought of {THOUGHT} tokens, and an image",
    "turn": f"turn {TURNS} of a conversation",
}
GUIDANCE = 2.0
SIDE = 128  # pixels of a picture, 64 tokens of Flatland's processor


@dataclass
class Clock:
    """Seconds of CPU that a brain's verbs take, and the tokens that go through it."""

    seconds: float = 0.0
    tokens: int = 0

    @contextmanager
    def on(self, brain: Any) -> Iterator[None]:
        """Every read, query and reply of `brain` counts."""
        read, query, say = brain.read, brain.query, brain.say

        def timed(verb: Callable[..., Any], count: Callable[..., int]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                start = time.process_time()
                done = verb(*args, **kwargs)
                self.seconds += time.process_time() - start
                self.tokens += count(done, *args)
                return done

            return call

        brain.read = timed(read, lambda done, inputs, *_: inputs["input_ids"].numel())
        brain.query = timed(query, lambda done, memory, queries, *_: len(memory.mask) * len(queries))
        brain.say = timed(say, lambda done, *_: sum(map(len, done[0])))
        try:
            yield
        finally:
            del brain.read, brain.query, brain.say


def measured(bridge: Bridge, prompt_tokens: int, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Medians of `repeats` runs of each way, one after the other."""
    import torch

    brain: Any = bridge.brain
    brain.end_tokens = torch.tensor([-1])  # an untrained brain may end a thought anywhere
    works: dict[str, Any] = {}
    for work, (ours, usual) in ways(bridge, prompt_tokens).items():
        say(f"measuring: {WORKS[work]}")
        seconds: dict[str, list[float]] = {"ours": [], "usual": []}
        tokens = {}
        for _ in range(repeats):
            for name, way in (("ours", ours), ("usual", usual)):
                ready = way()  # what is done before the clock runs
                clock = Clock()
                with clock.on(brain), torch.no_grad():
                    ready()
                seconds[name].append(clock.seconds)
                tokens[name] = clock.tokens
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        works[work] = {
            **medians,
            "speedup": medians["usual"] / medians["ours"],
            "tokens_ours": tokens["ours"],
            "tokens_usual": tokens["usual"],
        }
    return {"prompt_tokens": prompt_tokens, "queries": len(bridge.queries), "threads": torch.get_num_threads(), "works": works}


Way = Callable[[], Callable[[], Any]]  # makes ready, and gives what is to be timed


def ways(bridge: Bridge, prompt_tokens: int) -> dict[str, tuple[Way, Way]]:
    """Each work as here and as usual."""
    from metabridge.bridge.conversation import Conversation
    from metabridge.bridge.interfaces import Example
    from metabridge.bridge.pipeline import BridgePipeline

    brain = bridge.brain
    picture = Image.new("RGB", (SIDE, SIDE), "#88aa44")
    prompt = words(brain, prompt_tokens, (picture,))
    drawing: dict[str, Any] = {"num_inference_steps": 1, "guidance_scale": GUIDANCE}

    def images() -> Callable[[], Any]:
        pipe = BridgePipeline(bridge)
        return lambda: pipe(prompt, image=picture, num_images_per_prompt=IMAGES, seeds=list(range(IMAGES)), **drawing)

    def think() -> Callable[[], Any]:
        pipe = BridgePipeline(bridge)
        return lambda: pipe(prompt, image=picture, think=True, max_new_tokens=THOUGHT, seeds=[0], **drawing)

    turns = [(words(brain, 32, ()), [picture] * 4) for _ in range(TURNS)]

    def talked() -> Conversation:
        """All turns but the last."""
        talk = Conversation(BridgePipeline(bridge), think=False, **drawing)
        for text, pictures in turns[:-1]:
            talk.draw(text, pictures, seed=0)
        return talk

    def turn() -> Callable[[], Any]:
        talk, (text, pictures) = talked(), turns[-1]
        return lambda: talk.draw(text, pictures, seed=0)

    def afresh(example: Example, think: bool = False) -> Memory:
        """Read from nothing, and looked at by the queries."""
        memory = brain.read(brain.collate([example], think=think))
        brain.query(memory, bridge.queries, bridge.taps)
        return memory

    def images_usual() -> Any:
        for _ in range(IMAGES):
            afresh(Example(prompt, (picture,)))
            afresh(Example("", (picture,)))

    def think_usual() -> Any:
        (said,), _ = brain.reply(brain.read(brain.collate([Example(prompt, (picture,))], think=True)), THOUGHT)
        afresh(Example(prompt, (picture,), thought=said))
        afresh(Example("", (picture,)))

    def turn_usual() -> Callable[[], Any]:
        history = tuple(message for turn in talked().turns for message in turn.messages())
        whole = Example(turns[-1][0], tuple(turns[-1][1]), history=history)

        def run() -> None:
            afresh(whole)
            afresh(dataclasses.replace(whole, prompt=""))

        return run

    return {"images": (images, lambda: images_usual), "think": (think, lambda: think_usual), "turn": (turn, turn_usual)}


def words(brain: Any, tokens: int, pictures: Sequence[Image.Image]) -> str:
    """A prompt that is, with its pictures, about so many tokens long."""
    from metabridge.bridge.interfaces import Example

    def length(count: int) -> int:
        return int(brain.collate([Example(" ".join(["red"] * count), tuple(pictures))])["input_ids"].shape[1])

    count = max(1, tokens - length(1) + 1)
    return " ".join(["red"] * count)


def bench_drawing_command(name: str, overrides: Sequence[str], prompt_tokens: int | None, repeats: int, json_file: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from metabridge.adapters import assemble

    recipe = Recipe.load(recipes.find(name), overrides).runs()[-1]
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UserError(f"--json {json_file}: no such folder; make {json_file.parent} first, or give another path")
    console = Console(highlight=False)
    bridge = assemble(recipe)
    report = {"recipe": recipe.to_dict(), "repeats": repeats, **measured(bridge, prompt_tokens or 256, repeats, console.print)}
    table = Table()
    for column in ("CPU seconds of the brain", "ours", "the usual way", "ours is faster", "tokens: ours", "the usual way"):
        table.add_column(column, justify="left" if column.startswith("CPU") else "right")
    for work, cell in report["works"].items():
        seconds = (f"{cell['ours']:.3g}", f"{cell['usual']:.3g}", f"{cell['speedup']:.2f}x")
        table.add_row(WORKS[work], *seconds, str(cell["tokens_ours"]), str(cell["tokens_usual"]))
    console.print(table)
    if json_file is not None:
        write_asked("--json", json_file, (json.dumps(report, indent=1) + "\n").encode())
