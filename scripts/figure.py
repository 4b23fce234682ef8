"""Draw docs/bridge.png, the picture at the top of the README, with the shipped bridge.

python -m metabridge.scripts.figure docs/bridge.png
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from metabridge.adapters import load_pipeline

PROMPTS = (
    "a square with the color of a ripe banana",
    "as many stars as a dog has legs",
    "two shapes, a circle and a heart; no circles",
)
FROZEN, TRAINED, INK = "#dbe4f0", "#ffd9a0", "#1f2937"


def box(axes: Axes, x: float, width: float, color: str, title: str, note: str) -> None:
    axes.add_patch(FancyBboxPatch((x, 0.9), width, 1.2, boxstyle="round,pad=0.02,rounding_size=0.12", facecolor=color, edgecolor="none"))
    axes.text(x + width / 2, 1.62, title, ha="center", va="center", fontsize=15, weight="bold", color=INK)
    axes.text(x + width / 2, 1.25, note, ha="center", va="center", fontsize=9.5, color=INK, linespacing=1.3)


def arrow(axes: Axes, start: float, end: float) -> None:
    axes.add_patch(FancyArrowPatch((start, 1.5), (end, 1.5), arrowstyle="-|>", mutation_scale=16, linewidth=1.6, color=INK))


def main() -> None:
    drawn = load_pipeline("flatland")(list(PROMPTS), think=True, seeds=[1] * len(PROMPTS))
    figure, axes = plt.subplots(figsize=(13, 3.1))
    axes.set(xlim=(0, 13), ylim=(0, 3.0))
    axes.axis("off")
    for row, (prompt, thought, image) in enumerate(zip(PROMPTS, drawn.thoughts, drawn.images, strict=True)):
        y = 2.45 - row * 0.95
        axes.text(0.05, y + 0.12, prompt, fontsize=10, color=INK, va="center")
        axes.text(0.05, y - 0.14, f"thought: {thought}", fontsize=9, style="italic", color="#6b7280", va="center")
        side = 0.88
        pixels = np.asarray(image.resize((256, 256), Image.Resampling.NEAREST))
        axes.imshow(pixels, extent=(12.0, 12.0 + side, y - side / 2, y + side / 2), aspect="auto", zorder=2)
    axes.set(xlim=(0, 13), ylim=(0, 3.0))
    arrow(axes, 3.85, 4.25)
    box(axes, 4.35, 1.85, FROZEN, "brain", "multimodal LLM\nfrozen")
    arrow(axes, 6.25, 6.65)
    box(axes, 6.75, 2.35, TRAINED, "queries + connector", "the only part trained\na few megabytes")
    arrow(axes, 9.15, 9.55)
    box(axes, 9.65, 1.75, FROZEN, "hand", "diffusion decoder\nfrozen")
    arrow(axes, 11.45, 11.85)
    figure.savefig(sys.argv[1], dpi=130, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
