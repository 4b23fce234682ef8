"""`metabridge plot`: loss and score curves of several runs in one picture."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.output import write_asked
from metabridge.training.log import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "loss": "training loss",
    "validation_loss": "validation loss",
    "shuffle_gap": "loss of shuffled against right prompts",
    "null_gap": "change of the prediction by the prompt",
    "condition_rms": "RMS of the conditioning",
    "condition_spread": "share of the conditioning that differs between prompts",
    "grad_norm": "norm of the gradient",
    "lr": "learning rate",
}
KEYS = ("loss", "validation_loss", "score", "shuffle_gap", "grad_norm", "lr")  # drawn unless told, where a run has them
SHARES = ("score", "shuffle_gap")  # 1 at most
X = {"steps": "step", "seconds": "seconds", "rows": "rows"}  # axis -> key of a line
UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (2 * 60, 60, "minutes"), (0, 1, "seconds"))
COLORS = ("#3b7ddd", "#e07b39", "#17a398", "#9b5de5", "#d1495b", "#8d6e3f", "#6a737d")
DASHES = ("-", "--", ":", "-.")  # for more runs than colors
INK, DPI = "#1f2937", 130
MANY = 24  # points from which on a smoothed line stands over a faint raw one


@dataclass(frozen=True)
class Run:
    name: str
    rows: list[dict[str, Any]]  # the lines of metrics.jsonl

    def curve(self, key: str, x: str) -> tuple[list[float], list[float]]:
        found = [(row[X[x]], row[key]) for row in self.rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
        return [place for place, _ in found], [value for _, value in found]

    def jumps(self, key: str, x: str) -> list[float]:
        """Where a count, as of skipped steps, has grown; a stage counts anew."""
        places, before, stage = [], 0, None
        for row in self.rows:
            if "loss" not in row:
                continue
            before = before if row.get("stage") == stage else 0
            if row.get(key, 0) > before:
                places.append(row[X[x]])
            before, stage = row.get(key, 0), row.get("stage")
        return places


def plot_command(folders: Sequence[Path], out: Path, x: str, keys: str | None) -> None:
    if out.suffix != ".png":
        raise UserError(f"-o {out}: curves are written as .png; give a name that ends in .png")
    if x not in X:
        raise UserError(unknown(x, X, "axis"))
    runs = [Run(name, read(folder, x)) for folder, name in zip(folders, names(folders), strict=True)]
    png = draw(runs, panels(runs, keys), x)
    write_asked("-o", out, png, make_folder=True)
    print(out)


def names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names; of those that share one, the whole path."""
    own = [folder.resolve().name for folder in folders]
    return [name if Counter(own)[name] == 1 else str(folder) for folder, name in zip(folders, own, strict=True)]


def read(folder: Path, x: str) -> list[dict[str, Any]]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a run folder, as runs/flatland")
    path = folder / "metrics.jsonl"
    rows = read_metrics(path) if path.is_file() else []
    if not rows:
        what = "nothing in metrics.jsonl yet" if path.is_file() else "no metrics.jsonl in it"
        raise UserError(f"{folder}: {what}; give a run folder whose recipe has log.every above 0")
    return with_rows(rows, folder) if x == "rows" else rows


def with_rows(rows: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The lines with the number of training rows up to there; stages may differ in train.batch_size."""
    recipe = Recipe.load(folder / "recipe.yaml")
    stages = {f"{number}-{stage.name}": run for number, (stage, run) in enumerate(zip(recipe.stages, recipe.runs(), strict=False), start=1)}
    counted, step, total = [], 0, 0
    for row in rows:
        total += (row["step"] - step) * stages.get(row.get("stage", ""), recipe).train.batch_size
        step = row["step"]
        counted.append({**row, "rows": total})
    return counted


def panels(runs: Sequence[Run], asked: str | None) -> list[str]:
    """What is drawn, a panel each: all keys that begin with `score_` for score, the others as they are."""
    held = sorted({key for run in runs for row in run.rows for key in row} - {*X.values(), "stage"})
    chosen = []
    for word in [word.strip() for word in asked.split(",")] if asked else KEYS:
        found = [key for key in held if key == word or (word == "score" and key.startswith("score_"))]
        if asked and not found:
            raise UserError(f"--keys {unknown(word, held, 'number in these runs')}")
        chosen += found
    drawn = [key for key in chosen if any(run.curve(key, "steps")[0] for run in runs)]
    if not drawn:
        wanted = ", ".join(chosen or KEYS)
        raise UserError(f"nothing to draw: these runs have finite numbers for none of {wanted}; give others with --keys")
    return drawn


def draw(runs: Sequence[Run], keys: Sequence[str], x: str) -> bytes:
    """A panel a key, a color a run; its name once, above all."""
    from matplotlib import pyplot as plt

    from metabridge.eval.plot import style

    columns = 2 if len(keys) == 4 else min(3, len(keys))
    lines = math.ceil(len(keys) / columns)
    unit, label = axis(runs, x)
    with plt.rc_context(style(INK) | {"axes.titlesize": 10.5, "axes.titlelocation": "left"}):
        figure, grid = plt.subplots(lines, columns, figsize=(4.4 * columns + 0.6, 2.7 * lines + 0.5), squeeze=False, layout="constrained")
        cells = grid.flatten()
        for cell, key in zip(cells, keys, strict=False):
            panel(cell, runs, key, x, unit)
        for cell in cells[len(keys) :]:
            cell.set_visible(False)
        for column in range(columns):  # the axis is named below the last panel of each column
            cells[max(k for k in range(len(keys)) if k % columns == column)].set_xlabel(label)
        handles, labels = [], []
        for cell in cells[: len(keys)]:
            for handle, text in zip(*cell.get_legend_handles_labels(), strict=True):
                if text not in labels:
                    handles.append(handle)
                    labels.append(text)
        figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
        plt.close(figure)
    return buffer.getvalue()


def axis(runs: Sequence[Run], x: str) -> tuple[float, str]:
    """What one of the axis's units is, and its name."""
    if x != "seconds":
        return 1, X[x] if x == "steps" else "training rows"
    longest = max(row["seconds"] for run in runs for row in run.rows)
    return next((size, name) for least, size, name in UNITS if longest >= least)


def panel(axes: Axes, runs: Sequence[Run], key: str, x: str, unit: float) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    values: list[float] = []
    for number, run in enumerate(runs):
        places, raw = run.curve(key, x)
        places, color = [place / unit for place in places], COLORS[number % len(COLORS)]
        dash = DASHES[number // len(COLORS) % len(DASHES)]
        values += raw
        if len(raw) < MANY or key == "lr":
            axes.plot(places, raw, dash, color=color, linewidth=1.6, marker="o" if len(raw) < MANY else None, markersize=3, label=run.name)
        else:
            axes.plot(places, raw, color=color, linewidth=0.8, alpha=0.28)
            axes.plot(places, smooth(raw), dash, color=color, linewidth=1.7, label=run.name)
        if key == "loss":
            marks(axes, run, x, unit, color)
    axes.set_title(TITLES.get(key, key.replace("score_", "score: ").replace("_", " ")))
    axes.grid(alpha=0.25)
    if x != "seconds":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if key.startswith(SHARES):
        axes.set_ylim(min(0, *values) - 0.02, 1.04)
    elif key != "lr" and min(values) > 0 and max(values) > 4 * min(values):
        axes.set_yscale("log")
        wide = max(values) > 1000 * min(values)
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())


def marks(axes: Axes, run: Run, x: str, unit: float, color: str) -> None:
    """Steps that were skipped, at the foot; a line where the run went back to a checkpoint."""
    if skipped := run.jumps("skipped", x):
        foot = axes.get_xaxis_transform()
        axes.plot([p / unit for p in skipped], [0.03] * len(skipped), "v", color=color, markersize=5, transform=foot, label="steps skipped")
    for number, place in enumerate(run.jumps("rollbacks", x)):
        axes.axvline(place / unit, color=color, linewidth=1, linestyle=":", label=None if number else "gone back to a checkpoint")


def smooth(values: Sequence[float]) -> list[float]:
    """The mean over a fifteenth of the points around each, narrower at the ends; geometric where it can be, as a spike is no plateau."""
    positive = min(values) > 0
    levels = [math.log(value) if positive else value for value in values]
    reach = max(1, len(values) // 30)
    means = []
    for place in range(len(values)):
        near = min(reach, place, len(values) - 1 - place)
        around = levels[place - near : place + near + 1]
        mean = sum(around) / len(around)
        means.append(math.exp(mean) if positive else mean)
    return means
