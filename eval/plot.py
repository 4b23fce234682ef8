"""Figures of the report as inline SVG: text in the page's own font and color, so that they fit a light and a dark page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

from metabridge.eval.result import Group

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

BRIDGES = ("#3b7ddd", "#17a398")  # the evaluated bridge, another one beside it
BASELINE, IMPLICIT, THINK, REWRITE, QUERY_ONLY = "#9aa3ad", "#8fb4ec", "#e07b39", "#7a5cc0", "#6b9c8a"
MOST_UPRIGHT = 9  # groups whose names stand upright below their bars
_INK = "#010203"  # written out as `currentColor`


def style(ink: str) -> dict[Any, Any]:
    """Of every figure: lines and text in one color."""
    colored = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    plain = {"font.family": "sans-serif", "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False}
    return plain | dict.fromkeys(colored, ink)


_STYLE = style(_INK) | {"svg.fonttype": "none", "svg.hashsalt": "metabridge"}


@dataclass(frozen=True)
class Series:
    label: str
    group: Group
    color: str


def bars(series: Sequence[Series], names: Mapping[str, str], ylabel: str = "share right", top: float | None = 1.0) -> str:
    """Groups of bars, a group a kind, each with its interval; a short line across a group marks chance. `top`: the best value, if any."""
    kinds = list(series[0].group)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(9.6, 3.3))
        width = 0.8 / len(series)
        for number, one in enumerate(series):
            for place, kind in enumerate(kinds):
                cell = one.group.get(kind, {})
                if cell.get("low") is None:
                    continue
                x = place - 0.4 + width * (number + 0.5)
                axes.bar(x, cell["value"], width * 0.92, color=one.color)
                interval = [[max(cell["value"] - cell["low"], 0)], [max(cell["high"] - cell["value"], 0)]]
                axes.errorbar(x, cell["value"], yerr=interval, color=_INK, capsize=2.5, linewidth=1.1)
        for place, kind in enumerate(kinds):
            if "chance" in series[0].group[kind]:
                axes.plot([place - 0.45, place + 0.45], [series[0].group[kind]["chance"]] * 2, color=_INK, lw=1.2, ls=":")
        labels = [names.get(kind, kind) for kind in kinds]
        if len(kinds) > MOST_UPRIGHT:
            axes.set_xticks(range(len(kinds)), labels, rotation=35, ha="right", rotation_mode="anchor")
        else:
            axes.set_xticks(range(len(kinds)), [label.replace(" ", "\n") for label in labels])
        axes.set_ylim(0, None if top is None else 1.04 * top)
        axes.set_ylabel(ylabel)
        axes.axvline(0.5, color=_INK, linewidth=0.6, alpha=0.35)  # overall stands apart
        handles: list[Any] = [Patch(color=one.color, label=one.label) for one in series]
        if any("chance" in cell for cell in series[0].group.values()):
            handles.append(Line2D([], [], color=_INK, lw=1.2, ls=":", label="chance"))
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, borderaxespad=0.2)
        return _svg(figure, "Bar plot of the table above, with 95% intervals")


def curve(steps: Sequence[float], values: Sequence[float], ylabel: str) -> str:
    """A loss curve: every logged value faintly, their running mean on top."""
    window = max(1, len(values) // 10)
    smooth = [sum(values[max(0, i + 1 - window) : i + 1]) / len(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(9.6, 2.6))
        axes.plot(steps, values, color=BRIDGES[0], alpha=0.35, linewidth=0.9)
        axes.plot(steps, smooth, color=BRIDGES[0], linewidth=2)
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)
        return _svg(figure, f"{ylabel} over training steps")


def _svg(figure: Any, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    head, rest = svg.split(">", 1)
    svg = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest  # as wide as the page
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    return svg.replace(_INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
