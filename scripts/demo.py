"""`metabridge demo`: the main job on Flatland, end to end. Run it again and it goes on where it stopped."""

from __future__ import annotations

import resource
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.console import console, rich_table, say
from metabridge.scripts.eval_options import Options
from metabridge.scripts.eval_run import Evaluation, draw, make_plan, of_pipeline, score
from metabridge.training import recipes

if TYPE_CHECKING:
    from metabridge.bridge.pipeline import BridgePipeline
    from metabridge.eval.report import Page
    from metabridge.eval.tables import Table

# Prompts for the trained bridge, and for the one beside it; a picture each. Few enough that the whole demo fits in eight minutes.
LIMITS = ("20", "single=40", "reasoning=8"), ("8",)
PLAIN = ("a red star", "three hearts", "four circles", "a green circle and a yellow star", "a purple triangle above an orange circle")
THINK = (
    "a square with the color of a ripe banana",
    "the color of a carrot on the shape of a starfish",
    "as many hearts as a tricycle has wheels",
    "two shapes, a circle and a star; no circles",
    "the larger group: two stars or three circles",
)
SEED = 1
Limits = tuple[tuple[str, ...], tuple[str, ...]]


def demo_command(out: Path) -> None:
    demo(Recipe.load(recipes.find("flatland-demo")), "flatland", out, f"metabridge train flatland-demo --out {out}/run")


def demo(recipe: Recipe, beside: str, out: Path, train_command: str, limits: Limits = LIMITS) -> None:
    """Train `recipe`, draw, score; score the bridge `beside` in the same way."""
    from metabridge.eval import report, store
    from metabridge.scripts.generate import load

    commands = [(train_command, "trains the queries and the connector between the frozen brain and hand")]
    seconds = Seconds(out / "seconds.json")
    train(recipe, out / "run", seconds)
    other = Path(beside).name
    pipelines = {"demo": load(str(out / "run")), other: load(beside)}
    with seconds("draw"):
        samples = {name: draw_samples(pipeline, out, name) for name, pipeline in pipelines.items()}
    commands.append(
        (
            f"metabridge generate {out}/run {shlex.quote(THINK[0])} --think --seed {SEED} -o out.png",
            "draws the first of the samples with a thought",
        )
    )

    found = {}
    for (name, pipeline), limit in zip(pipelines.items(), limits, strict=True):
        folder, own = out / f"eval-{name}", name == "demo"
        options = Options("flatland", limit, images=1, baseline=own)
        with seconds(f"score {name}"):
            subject = of_pipeline(pipeline)
            planned = make_plan(subject, folder, options)
            draw(planned, folder, subject, label=f"drawing, {name}")
            found[name] = score(planned, folder)
        what = "draws and scores the suite" + (
            " with the trained bridge and with the hand's own text encoder" if own else " with the shipped bridge"
        )
        words = ["metabridge", "eval", f"{out}/run" if own else beside, *options.words(), "-o", str(folder)]
        commands.append((shlex.join(words), what))

    results = {name: done.result for name, done in found.items()}
    report.write(page(found, samples, out, commands, seconds), out / "report.html")
    store.write_json(out / "report.json", tree(results, other, out, seconds))
    console.print(rich_table(headline(results)), "")
    say(
        f"{sum(seconds.spent.values()):.0f} s in all, {peak_gigabytes():.1f} GB at most. Open {out / 'report.html'}; "
        f"numbers: {out / 'report.json'}, pictures: {out / 'samples.png'}"
    )


def train(recipe: Recipe, run: Path, seconds: Seconds) -> None:
    from metabridge.adapters import assemble
    from metabridge.scripts.quiet import quiet
    from metabridge.training.train import train as train_loop

    quiet()
    with seconds("train"):
        done = train_loop(recipe, assemble(recipe), run)
    if done < recipe.train.steps:
        say(f"stopped at step {done} of {recipe.train.steps}; to go on: {shlex.join(['metabridge', *sys.argv[1:]])}")
        sys.exit(130)


def draw_samples(pipeline: BridgePipeline, out: Path, name: str) -> bytes:
    """A sheet of example prompts, the last ones with a thought: samples.png, or samples-<name>.png of another bridge."""
    from metabridge.bridge.sheet import compose, shown
    from metabridge.eval import sheet

    tiles = []
    for prompts, think in ((PLAIN, False), (THINK, True)):
        drawn = pipeline(list(prompts), think=think, seeds=[SEED] * len(prompts))
        tiles += [shown(*one) for one in zip(drawn.images, prompts, drawn.thoughts, strict=True)]
    return sheet.save(compose(tiles, columns=5), out / ("samples.png" if name == "demo" else f"samples-{name}.png"))


def page(
    found: Mapping[str, Evaluation], samples: Mapping[str, bytes], out: Path, commands: Sequence[tuple[str, str]], seconds: Seconds
) -> Page:
    """The report over all of them."""
    from metabridge.eval import benchmarks, plot, report
    from metabridge.eval.tables import part_table, warnings

    results, flatland = {name: done.result for name, done in found.items()}, benchmarks.load("flatland")
    own = results["demo"]
    steps, losses = zip(*loss_curve(out / "run"), strict=True)
    sheets = [
        (f"{title} ({name})", figures)
        for name, done in found.items()
        for title, figures in report.sheets(flatland, done.scored, done.folder)
    ]
    return report.Page(
        title="metabridge demo",
        lead=f"A connector trained on Flatland in {seconds.spent['train']:.0f} s, what it draws, and how right that is, "
        f"scored exactly from pixels. Beside it the shipped bridge, trained for longer and "
        f"on captions in other words too. {report.size(flatland, own['identity']['benchmark'])}; "
        "fewer with the shipped bridge.",
        cards=report.cards(flatland, own),
        commands=[(command, what, f"{spent:.0f} s") for (command, what), spent in zip(commands, seconds.spent.values(), strict=True)],
        before=[
            ("Samples", "The second row needs reasoning: the brain first writes a thought, in grey, then the queries are read.",
             [report.Figure(f"drawn by {name}", report.data_uri(png)) for name, png in samples.items()]),
            ("Training", "Only the queries and the connector learn; brain and hand stay as they were, bit for bit.",
             [report.Figure("loss", svg=plot.curve(steps, losses, "loss"))]),
        ],
        tables=[
            (part_table(flatland, "composition", results), [report.part_plot(flatland, "composition", results)]),
            (
                part_table(flatland, "reasoning", results),
                [report.part_plot(flatland, "reasoning", {name: one}, name) for name, one in results.items()],
            ),
        ],
        sheets=sheets,
        identity=[line for name, one in results.items() for line in report.identity(one["identity"], f"{name}: ")],
        warnings=[line for one in results.values() for line in warnings(one)],
    )  # fmt: skip


def headline(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """The numbers of composition and the overall ones of reasoning, in one table; the baseline and chance where there are such."""
    from metabridge.eval import benchmarks
    from metabridge.eval.columns import BASELINE
    from metabridge.eval.tables import NATIVE, Entry, Table, entry, title_of

    flatland, first = benchmarks.load("flatland"), next(iter(results.values()))
    native = first["baselines"].get(BASELINE, {}).get("composition", {})
    rows = [
        (
            f"composition, {title_of(flatland, tag)}",
            (*(entry(one["scores"]["composition"][tag]) for one in results.values()), entry(native.get(tag)), Entry("")),
        )
        for tag in first["scores"]["composition"]
    ]
    for mode in ("implicit", "think"):
        cells = [one["scores"]["reasoning"][mode]["overall"] for one in results.values()]
        rows.append((f"reasoning, {mode}", (*map(entry, cells), Entry(""), Entry(f"{cells[0]['chance']:.2f}"))))
    return Table("What it scores", "", ("", *results, NATIVE, "chance"), tuple(rows))


def tree(results: Mapping[str, Any], other: str, out: Path, seconds: Seconds) -> dict[str, Any]:
    """report.json: the result of the demo's bridge, the shipped one among its baselines, and how it was trained."""
    own, shipped = results["demo"], results[other]
    last = loss_curve(out / "run")[-1]
    return {
        **own,
        "baselines": {**own["baselines"], other: {**shipped["scores"], "identity": shipped["identity"]}},
        "training": {"steps": last[0], "loss": last[1]},
        "seconds": {stage: round(spent, 1) for stage, spent in seconds.spent.items()},
        "peak_gigabytes": round(peak_gigabytes(), 2),
    }


def loss_curve(run: Path) -> list[tuple[float, float]]:
    from metabridge.training.log import read_metrics

    curve = [(row["step"], row["loss"]) for row in read_metrics(run / "metrics.jsonl") if "loss" in row]
    if not curve:
        raise UserError(f"{run}/metrics.jsonl: no line in it; set log.every to fewer steps than train.steps")
    return curve


class Seconds:
    """Time spent on each stage, over all the runs that the demo took."""

    def __init__(self, path: Path) -> None:
        from metabridge.eval import store

        self.path = path
        self.spent: dict[str, float] = store.read_json(path) if path.exists() else {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        from metabridge.eval import store

        start = time.monotonic()
        try:
            yield
        finally:
            self.spent[stage] = self.spent.get(stage, 0.0) + time.monotonic() - start
            store.write_json(self.path, self.spent)


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "linux" else 1024**3)
