"""A drawer that knows the answers: it renders the wanted scene, so that the way from pixels to scores is tested without a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from metabridge.bridge.pipeline import PipelineOutput
from metabridge.eval import benchmarks
from metabridge.eval.subjects.bridge import BridgeSubject
from metabridge.training.flatland import world

BRIDGE = {
    "kind": "bridge",
    "name": "oracle",
    "fingerprint": "f" * 64,
    "brain": {"repo": "none", "revision": "main", "fingerprint": "b" * 64},
    "hand": {"repo": "none", "revision": "main", "fingerprint": "a" * 64},
}
GENERATION = {"num_inference_steps": 1, "guidance_scale": 1.0}
CODE = {"version": "0", "commit": "none"}


def picture(want: Mapping[str, Any], seed: int, wrong: bool = False) -> torch.Tensor:
    """[3, 64, 64] in [0, 1]: what is wanted, or the same in the next shape."""
    rng = random.Random(seed)
    shapes = [world.SHAPES[(world.SHAPES.index(s or "circle") + wrong) % 6] for _, s in want["objects"]]
    colors = [c or rng.choice(list(world.COLORS)) for c, _ in want["objects"]]
    scene = world.arrange(rng, list(zip(colors, shapes, strict=True)), column=want["relation"] == "above")
    return torch.from_numpy(np.array(world.draw(scene))).permute(2, 0, 1) / 255


@dataclass
class Oracle:
    """Draws right, except where `wrong` says so; counts its calls and can stop in the middle, as a killed run does."""

    wrong: Callable[[str, int, str], bool] = lambda text, seed, row: False
    stop_after: int | None = None
    calls: list[tuple[str, int]] = field(default_factory=list)  # row, pictures

    def __post_init__(self) -> None:
        self.prompts = {item.text: item for item in benchmarks.load("flatland").items(None)}
        self.subject = BridgeSubject(self, BRIDGE)

    def __call__(self, prompt: list[str], *, think: bool, seeds: list[int], output_type: str, **settings: Any) -> PipelineOutput:
        thoughts = [self.prompts[text].want["rewrite"] if think else None for text in prompt]
        return self._draw("think" if think else "bridge", prompt, seeds, thoughts)

    def draw_native(self, captions: list[str], *, seeds: list[int], output_type: str, **settings: Any) -> PipelineOutput:
        return self._draw("native", captions, seeds, [None] * len(captions))

    def _draw(self, row: str, texts: list[str], seeds: list[int], thoughts: list[str | None]) -> PipelineOutput:
        if self.stop_after is not None and len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append((row, len(texts)))
        pairs = zip(texts, seeds, strict=True)
        return PipelineOutput([picture(self.prompts[t].want, seed, self.wrong(t, seed, row)) for t, seed in pairs], thoughts, seeds)
