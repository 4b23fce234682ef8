"""The pictures of docs/, drawn with the shipped bridge, and the tables of scores in docs/flatland.md.

python -m metabridge.scripts.figure docs                               # bridge.png, flatland-scenes.png, flatland-loss.png
python -m metabridge.scripts.figure docs evals/flatland/result.json    # a table, from `metabridge eval flatland -o evals/flatland`
"""

from __future__ import annotations

import random
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from metabridge.adapters import find_bridge, load_pipeline
from metabridge.bridge.files import write_whole
from metabridge.eval import benchmarks, result
from metabridge.eval.columns import BASELINE
from metabridge.scripts.walk import KNOWLEDGE
from metabridge.training.flatland.captions import TAGS, captioned
from metabridge.training.flatland.world import draw
from metabridge.training.log import read_metrics

PROMPTS = tuple(prompt for prompt, _ in KNOWLEDGE)
PARTS = {"edit": "edits", "given": "pictures given", "dialogue": "conversations"}
END = "<!-- end -->"
FROZEN, TRAINED, INK = "#dbe4f0", "#ffd9a0", "#1f2937"


def box(axes: Axes, x: float, width: float, color: str, title: str, note: str) -> None:
    axes.add_patch(FancyBboxPatch((x, 0.9), width, 1.2, boxstyle="round,pad=0.02,rounding_size=0.12", facecolor=color, edgecolor="none"))
    axes.text(x + width / 2, 1.62, title, ha="center", va="center", fontsize=11, weight="bold", color=INK)
    axes.text(x + width / 2, 1.25, note, ha="center", va="center", fontsize=9.5, color=INK, linespacing=1.3)


def arrow(axes: Axes, start: float, end: float) -> None:
    axes.add_patch(FancyArrowPatch((start, 1.5), (end, 1.5), arrowstyle="-|>", mutation_scale=16, linewidth=1.6, color=INK))


def bridge(path: Path) -> None:
    """Prompts that need knowledge, what the brain thought, and what the hand drew."""
    drawn = load_pipeline("flatland")(list(PROMPTS), think=True, seeds=[1] * len(PROMPTS))
    figure, axes = plt.subplots(figsize=(13, 3.1))
    axes.axis("off")
    for row, (prompt, thought, image) in enumerate(zip(PROMPTS, drawn.thoughts, drawn.images, strict=True)):
        y, side = 2.45 - row * 0.95, 0.88
        axes.text(0.05, y + 0.12, prompt, fontsize=10, color=INK, va="center")
        axes.text(0.05, y - 0.14, f"thought: {thought}", fontsize=9, style="italic", color="#6b7280", va="center")
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
    figure.savefig(path, dpi=130, bbox_inches="tight", facecolor="white")


def scenes(path: Path) -> None:
    """A row of drawings per tag of captions, as the renderer makes them."""
    columns = 6
    figure, grid = plt.subplots(len(TAGS), columns, figsize=(13, 10.5))
    for row, tag in enumerate(TAGS):
        for column in range(columns):
            c = captioned(random.Random(10 * row + column), tag)
            axes = grid[row, column]
            axes.imshow(np.asarray(draw(c.scene)))
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(textwrap.fill(c.text, 30), fontsize=7.5)
            for spine in axes.spines.values():
                spine.set_color("#d1d5db")
        grid[row, 0].set_ylabel(tag, fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=80, facecolor="white")


def loss(path: Path) -> None:
    """The loss of the shipped bridge by step."""
    rows = [row for row in read_metrics(find_bridge("flatland") / "log.jsonl") if "loss" in row]
    figure, axes = plt.subplots(figsize=(8, 3.2))
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], color="#2563eb", linewidth=1.2)
    axes.set(xlabel="step", ylabel="distillation loss", yscale="log", title="flatland, batch 64")
    axes.set_yticks(ticks := (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5), [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100, facecolor="white")


def scores(result: dict[str, Any]) -> list[str]:
    """Composition and reasoning, of the suite `flatland`."""
    tables, held = result["scores"], result["held_out"]["scores"]
    native, gap = result["baselines"][BASELINE]["composition"], result["differences"][f"bridge - {BASELINE}"]["composition"]
    held_native = result["held_out"]["baselines"][BASELINE]["composition"]
    lines = [
        "| composition | bridge | own text encoder | difference | held-out pairs: bridge | own text encoder |",
        "|---|---|---|---|---|---|",
    ]
    for tag, cell in tables["composition"].items():
        beside = (native[tag], gap[tag], held["composition"].get(tag), held_native.get(tag))
        if tag == "overall":  # the held-out part has two of the six tags
            beside = (*beside[:2], None, None)
        lines.append(f"| {title(tag)} | {shown(cell)} | " + " | ".join(map(shown, beside)) + " |")
    lines += [
        "",
        "| reasoning | implicit | with think | thoughts right | held-out pairings: with think | chance |",
        "|---|---|---|---|---|---|",
    ]
    for kind, cell in tables["reasoning"]["think"].items():
        thought = result["thoughts"][kind]["value"]
        lines.append(
            f"| {title(kind)} | {shown(tables['reasoning']['implicit'][kind])} | {shown(cell)} | {thought:.2f} | "
            f"{shown(held['reasoning']['think'].get(kind))} | {cell['chance']:.2f} |"
        )
    return lines


def edit_scores(result: dict[str, Any]) -> list[str]:
    """Edits, pictures given and conversations, of the suite `flatland_edit`."""
    gains, held = result["differences"]["implicit - query-only"], result["held_out"]["scores"]
    lines = []
    for part, rows in result["scores"].items():
        lines += [
            "",
            f"| {PARTS[part]} | implicit | with think | thoughts right | query-only | gain by the picture | held-out pairs: with think |",
            "|---|---|---|---|---|---|---|",
        ]
        for kind, cell in rows["implicit"]["correct"].items():
            thought = "" if kind == "overall" else f"{result['thoughts'][kind]['value']:.2f}"
            others = rows["query-only"], gains[part], held[part]["think"]
            drawn = shown(cell), shown(rows["think"]["correct"][kind]), thought, *(shown(row["correct"].get(kind)) for row in others)
            lines.append(f"| {title(kind, 'flatland_edit')} | {' | '.join(drawn)} |")
    return lines[1:]


def fill(page: Path, start: str, lines: Sequence[str]) -> None:
    """Write the lines between the mark `start` and the mark of an end."""
    before, _, rest = page.read_text(encoding="utf-8").partition(start)
    _, _, after = rest.partition(END)
    write_whole(page, "\n".join([before + start, *lines, END + after]).encode())


def shown(cell: Mapping[str, Any] | None) -> str:
    """0.50 [0.25, 0.75]; nothing where nothing was measured."""
    return f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]" if cell else ""


def title(kind: str, benchmark: str = "flatland") -> str:
    return "**overall**" if kind == "overall" else benchmarks.load(benchmark).title_of(kind)


TABLES = {"flatland": ("<!-- scores -->", scores), "flatland_edit": ("<!-- edit scores -->", edit_scores)}


def main() -> None:
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        scored = result.read(Path(sys.argv[2]))
        mark, table = TABLES[scored["identity"]["benchmark"]["name"]]
        return fill(folder / "flatland.md", mark, table(scored))
    bridge(folder / "bridge.png")
    scenes(folder / "flatland-scenes.png")
    loss(folder / "flatland-loss.png")


if __name__ == "__main__":
    main()
