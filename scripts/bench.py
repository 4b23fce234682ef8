"""`metabridge bench`: time and memory of a training step, on the cached route and on the one that everybody else takes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.output import write_asked
from metabridge.training import recipes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ROUTES = {  # name -> what the table calls it
    "cached": "cached (ours)",
    "full": "full sequence",
    "checkpointed": "full, checkpointed",
}
PARTS = {"brain": "brain's part of a step", "step": "whole step"}
ATTENTION = {"training": "attention as in training", "torch": "attention as torch chooses"}
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}  # between two routes' gradients, relative


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure, the same for every route."""

    prompt_tokens: int | None = None  # None = the prompts of the data
    steps: int = 3
    brain_only: bool = False
    attention: str = "training"


@dataclass(frozen=True, kw_only=True)
class Job(Options):
    """What one child measures."""

    recipe: dict[str, Any]  # resolved
    route: str
    folder: str  # for the gradients

    def gradient(self, part: str) -> Path:
        return Path(self.folder) / f"{self.route}-{part}.npy"


def bench_command(name: str, overrides: Sequence[str], options: Options, json_file: Path | None) -> None:
    from rich.console import Console

    recipe = Recipe.load(recipes.find(name), overrides).runs()[-1]  # the last stage trains the most
    if options.attention not in ATTENTION:
        raise UserError(f"--attention: {options.attention!r} given; it is one of: {', '.join(ATTENTION)}")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UserError(f"--json {json_file}: no such folder; make {json_file.parent} first, or give another path")
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Job(**dataclasses.asdict(options), recipe=recipe.to_dict(), route=route, folder=folder) for route in ROUTES]
        found = {job.route: watched(job, console) for job in jobs}
        differences = {part: {job.route: difference(job, jobs[0], part) for job in jobs[1:]} for part in PARTS if part in found["cached"]}
    report = summary(recipe, options, found, differences)
    console.print(headline(report), soft_wrap=True)
    console.print(floor_line(report["floor"]), soft_wrap=True)
    for part in differences:
        console.print(route_table(report, part))
    if json_file is not None:
        write_asked("--json", json_file, (json.dumps(report, indent=1) + "\n").encode())
    if wrong := disagreement(differences, report["gradient_tolerance"]):
        print(f"metabridge: {wrong}", file=sys.stderr)
        sys.exit(1)


def watched(job: Job, console: Console) -> dict[str, Any]:
    """Measure with a line that says what is being done; without a terminal, a line for each route."""
    if not console.is_terminal:
        console.print(f"measuring: {ROUTES[job.route]}")
    with console.status("") as status:
        return measure(job, lambda what: status.update(f"{ROUTES[job.route]}: {what}"))


def measure(job: Job, say: Callable[[str], None]) -> dict[str, Any]:
    """One route in a process of its own, so that no other route's memory is counted."""
    command = [sys.executable, "-m", "metabridge.scripts.bench_routes", json.dumps(dataclasses.asdict(job))]
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryFile() as heard,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=heard, text=True) as child,
    ):
        try:
            assert child.stdout is not None
            for line in child.stdout:
                told = json.loads(line)
                found |= told
                say(told.get("progress", "done"))
            child.wait()
        except BaseException:  # Ctrl-C among them; where it comes too early for this line, the child sees its stdin end
            child.kill()
            raise
        heard.seek(0)
        said = heard.read().decode(errors="replace")
    if "error" in found:
        raise UserError(found["error"])
    if child.returncode:
        raise UserError(f"bench, {ROUTES[job.route]}: {reason(child.returncode, said)}")
    sys.stderr.write(said)
    result: dict[str, Any] = found["result"]
    return result


def reason(code: int, said: str) -> str:
    """Why a child ended: the last line that it said, or the signal that killed it."""
    advice = "; lower train.batch_size or raise train.grad_accum"
    if code < 0:
        return f"killed by signal {-code}" + (f", as happens where memory runs out{advice}" if code == -9 else "")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else f"ended with {code} and said nothing"
    return last + (advice if "memory" in last.lower() else "")


def difference(job: Job, ours: Job, part: str) -> float:
    """|g - g'| / |g| of the two routes' gradients to the queries, g of the full sequence."""
    import numpy as np

    theirs, own = np.load(job.gradient(part)), np.load(ours.gradient(part))
    return float(np.linalg.norm(theirs - own) / np.linalg.norm(theirs))


def disagreement(differences: dict[str, dict[str, float]], tolerances: dict[str, float]) -> str | None:
    for part, routes in differences.items():
        tolerance = tolerances[part]
        for route, value in routes.items():
            if not value <= tolerance:  # a NaN is none either
                return (
                    f"bench: the gradients to the queries differ in the {PARTS[part]}: {value:.1e} relative between {ROUTES['cached']} and "
                    f"{ROUTES[route]}, tolerance {tolerance:.0e}; report this"
                )
    return None


def floor(prompt: int, queries: int, share: float) -> dict[str, float]:
    """Passes of a token through the decoder, forward, backward or recomputed, that each route needs for a row.

    `share`: of the layers that the taps need. The usual routes run all of them forward, and backward through as many as are needed.
    """
    return {
        "cached": share * (prompt + 2 * queries),
        "full": (1 + share) * (prompt + queries),
        "checkpointed": (1 + 2 * share) * (prompt + queries),
    }


def summary(recipe: Recipe, options: Options, found: dict[str, dict[str, Any]], differences: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Everything that was measured, and what follows from it."""
    own = found["cached"]
    shared = {key: value for key, value in own.items() if key not in (*PARTS, "matmul_flops_per_s", "model_bytes")}
    passes = floor(own["prompt_tokens"], own["queries"], own["depth"] / own["layers"])
    return {
        "recipe": recipe.to_dict(),
        "steps": options.steps,
        "attention": options.attention,
        **shared,
        "floor": {route: {"token_passes": count, "speedup": count / passes["cached"]} for route, count in passes.items()},
        "gradient_tolerance": {part: TOLERANCE[own["coarsest_dtype"][part]] for part in differences},
        **{
            part: {route: row(found, part, route) | {"gradient_difference": differences[part].get(route, 0.0)} for route in ROUTES}
            for part in differences
        },
    }


def row(found: dict[str, dict[str, Any]], part: str, route: str) -> dict[str, Any]:
    """One route's numbers beside the cached route's. MFU counts no recomputation, and time on a CPU in seconds of the CPU."""
    child, ours = found[route], found["cached"][part]
    seen = child[part]
    clock = "cpu" if child["device"] == "cpu" else "wall"
    needed = found["full" if route == "checkpointed" else route][part]["flops"]
    capacity = child["matmul_flops_per_s"][clock] * seen[f"{clock}_s"]
    memory, own_memory = seen["memory_bytes"], ours["memory_bytes"]
    return {
        **seen,
        "speedup_wall": seen["wall_s"] / ours["wall_s"],
        "speedup_cpu": seen["cpu_s"] / ours["cpu_s"],
        "memory_ratio": own_memory / memory if memory and own_memory is not None else None,
        "tokens_per_s": (child["real_prompt_tokens"] + child["batch"] * child["queries"]) / seen["wall_s"],
        "mfu": (needed["weights"] + needed["convolutions"]) / capacity,
        "mfu_with_attention": sum(needed.values()) / capacity,
        "matmul_flops_per_s": child["matmul_flops_per_s"],
        "model_bytes": child["model_bytes"],
    }


def headline(report: dict[str, Any]) -> str:
    taps = "" if report["depth"] == report["layers"] else f", of which the taps need {report['depth']}"
    return (
        f"{report['recipe']['name']}: {report['batch']} rows of {report['prompt_tokens']} prompt tokens and {report['queries']} queries; "
        f"{report['decoder_parameters'] / 1e6:.1f} M parameters in {report['layers']} layers{taps}; {report['dtype']}; "
        f"{report['device']}, {report['threads']} threads, torch {report['torch']}; "
        f"{ATTENTION[report['attention']]}; median of {report['steps']}"
    )


def floor_line(floor: dict[str, dict[str, float]]) -> str:
    counts = ", ".join(f"{ROUTES[route]} {cell['token_passes']:g}" for route, cell in floor.items())
    gains = " and ".join(f"{floor[route]['speedup']:.2f}x" for route in ("full", "checkpointed"))
    return f"token passes through the decoder, a row: {counts}; by arithmetic alone the cached route is {gains} faster"


def route_table(report: dict[str, Any], part: str) -> Table:
    from rich.table import Table

    from metabridge.training.plan import readable

    def beside(cell: dict[str, Any], key: str) -> str:
        return "not measured here" if cell[key] is None else f"{cell[key]:.2f}x"

    lines: dict[str, Callable[[dict[str, Any]], str]] = {
        "seconds on the wall": lambda cell: f"{cell['wall_s']:.3g}",
        "seconds of CPU": lambda cell: f"{cell['cpu_s']:.3g}",
        "memory above the model": lambda cell: "not measured here" if cell["memory_bytes"] is None else readable(cell["memory_bytes"]),
        "tokens/s": lambda cell: f"{cell['tokens_per_s']:.0f}",
        "TFLOP with weights": lambda cell: f"{cell['flops']['weights'] / 1e12:.3g}",
        "TFLOP of attention": lambda cell: f"{cell['flops']['attention'] / 1e12:.3g}",
        "TFLOP of convolutions": lambda cell: f"{cell['flops']['convolutions'] / 1e12:.3g}",
        "MFU, without attention": lambda cell: f"{cell['mfu']:.0%}",
    }
    compared: dict[str, Callable[[dict[str, Any]], str]] = {
        "cached is faster: wall": lambda cell: beside(cell, "speedup_wall"),
        "cached is faster: CPU": lambda cell: beside(cell, "speedup_cpu"),
        "memory of cached": lambda cell: beside(cell, "memory_ratio"),
        "gradient differs by": lambda cell: f"{cell['gradient_difference']:.1e}",
    }
    table = Table()
    table.add_column(PARTS[part])
    for route in ROUTES:
        table.add_column(ROUTES[route], justify="right")
    for k, (what, shown) in enumerate(lines.items(), 1):
        table.add_row(what, *(shown(report[part][route]) for route in ROUTES), end_section=k == len(lines))
    for what, shown in compared.items():
        table.add_row(what, "", *(shown(report[part][route]) for route in ROUTES if route != "cached"))
    return table
