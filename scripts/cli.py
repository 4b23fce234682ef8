"""The `metabridge` command: parses, calls, and turns a UserError into one line. What is heavy is imported by the command that needs it."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from metabridge.bridge.errors import UserError
from metabridge.scripts.data import app as data_app


class Commands(TyperGroup):
    """Ctrl-C is one line. Typer itself would end with 130 and say nothing."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print(f"metabridge: stopped; to go on: {shlex.join(['metabridge', *sys.argv[1:]])}", file=sys.stderr)
            # Python notes one that passes through exec(), as at a library's import, and under -m would end by the signal; this clears it
            exec("")
            sys.exit(130)


app = typer.Typer(
    name="metabridge",
    cls=Commands,
    help="A bridge from a frozen multimodal LLM (the brain) to a pretrained diffusion decoder (the hand).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data_app, name="data")

Offload = Annotated[bool, typer.Option("--offload", help="Brain and hand are on the GPU by turns, for one that holds only one of them.")]
NewTokens = Annotated[int | None, typer.Option("--max-new-tokens", metavar="N", min=1, help="Tokens of a thought or answer, at most (64).")]
Quantize = Annotated[
    str | None,
    typer.Option("--quantize", metavar="none|int8|nf4", help="How the brain's weights are kept; as in training if not given."),
]
Bridge = Annotated[str, typer.Argument(metavar="BRIDGE", help="A run or artifact folder, a shipped name (flatland), or a hub id.")]


@app.command()
def demo(out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the report goes.")] = Path("demo")) -> None:
    """Train a small connector on Flatland, draw with it, score it: DIR/report.html."""
    from metabridge.scripts.demo import demo_command

    demo_command(out)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or a shipped name (metabridge ls recipes).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As train.lr=1e-4.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="The run folder; runs/<recipe> by default.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and stop.")] = False,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes on this machine.")] = 1,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on with a run whose settings were others; the old ones are kept beside.")
    ] = False,
) -> None:
    """Train the queries and the connector of a recipe. To resume, run the same command again."""
    from metabridge.scripts.train import train_command

    train_command(recipe, overrides or [], out, dry_run, processes, accept_changes)


@app.command()
def generate(
    bridge: Annotated[
        str | None, typer.Argument(metavar="BRIDGE", help="A run or artifact folder, a shipped name (flatland), or a hub id.")
    ] = None,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw.")] = None,
    images: Annotated[
        list[Path] | None, typer.Option("--image", metavar="FILE", help="A picture that goes with every prompt; may be repeated.")
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help='A prompt a line, or rows as {"prompt", "images", "thought", "seed"} (JSONL).'),
    ] = None,
    think: Annotated[bool, typer.Option("--think", help="Let the brain put the prompt into its own words first.")] = False,
    think_mode: Annotated[
        str | None,
        typer.Option(
            "--think-mode", metavar="always|auto|rewrite", help="The thought beside the prompt; where the brain needs one; in its place."
        ),
    ] = None,
    thought: Annotated[str | None, typer.Option("--thought", metavar="TEXT", help="A thought of your own, for one prompt.")] = None,
    count: Annotated[int | None, typer.Option("-n", min=1, help="Images per prompt; image k has seed SEED + k.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, max=2**63 - 1, help="0 if not given.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps; the hand's default if not given.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale; the hand's default if not given.")] = None,
    image_guidance: Annotated[
        float | None, typer.Option("--image-guidance", metavar="G", help="How far to step towards the pictures; 1 if not given.")
    ] = None,
    negative: Annotated[str | None, typer.Option("--negative", metavar="TEXT", help="What guidance steps away from.")] = None,
    preserve: Annotated[
        float | None, typer.Option("--preserve", metavar="S", help="0 to 1: how much of the last picture stays where the words say little.")
    ] = None,
    height: Annotated[int | None, typer.Option("--height", min=1, help="Pixels; as the picture, or the hand's default.")] = None,
    width: Annotated[int | None, typer.Option("--width", min=1, help="Pixels; as the picture, or the hand's default.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Pictures drawn together; 16 if not given.")] = None,
    max_new_tokens: NewTokens = None,
    quantize: Quantize = None,
    offload: Offload = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a picture on stdout, and nothing else there.")] = False,
    again: Annotated[
        Path | None, typer.Option("--again", metavar="FILE.png", help="Draw it as it was drawn: needs neither BRIDGE nor PROMPT.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="OUT", help="A .png, out.png or FILE-again.png if not given; several images are numbered."),
    ] = None,
) -> None:
    """Draw prompts. Each PNG holds what it takes to draw it again."""
    from metabridge.scripts.generate import generate_command
    from metabridge.scripts.generate_asked import Options

    options = Options(
        tuple(images or ()), prompts_file, think, think_mode, thought, count, seed, steps, guidance, image_guidance, negative, preserve,
        height, width, batch_size, max_new_tokens, quantize, offload, as_json, again,
    )  # fmt: skip
    generate_command(bridge, prompts or [], options, out)


@app.command()
def chat(
    bridge: Bridge,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where pictures and conversation go; ./chat-BRIDGE-TIME by default.")
    ] = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Go on with the conversation that is saved there.")] = None,
    think: Annotated[bool | None, typer.Option("--think/--no-think", help="Think before each drawing; as trained if not given.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, max=2**63 - 1, help="Of every picture; a new one each if not given.")] = None,
    show: Annotated[
        str, typer.Option("--show", metavar="auto|kitty|sixel|iterm|blocks|none", help="How the terminal shows pictures.")
    ] = "auto",
    max_new_tokens: NewTokens = None,
    quantize: Quantize = None,
    offload: Offload = False,
) -> None:
    """Draw in a conversation, in the terminal or out of a pipe: each line a prompt, or a /command."""
    from metabridge.scripts.chat import chat_command

    chat_command(bridge, out, resume, think, seed, show, max_new_tokens, quantize, offload)


@app.command(name="eval")
def evaluate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL | STAGE DIR...",
            help="MODEL: a bridge, images:DIR, diffusers:REPO or endpoint:URL#NAME. STAGE: plan generate score report compare list "
            "verify-data export import parity.",
        ),
    ],
    suite: Annotated[
        str | None,
        typer.Option("--suite", metavar="NAME,...", help="What to measure (metabridge ls benchmarks); flatland if not given."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="N|NAME=N", help="Prompts per tag or kind, or of one (as reasoning=8); may be repeated."),
    ] = None,
    images: Annotated[int | None, typer.Option("--images", min=1, help="Images per prompt.")] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows", metavar="ROW,...", help="Ways to draw: bridge, think, rewrite, query-only, native; the suite's if not given."
        ),
    ] = None,
    baseline: Annotated[bool, typer.Option("--baseline/--no-baseline", help="Score the hand's own text encoder too.")] = True,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps; the hand's default if not given.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale; the hand's default if not given.")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="SIDE|HxW", help="Pixels; the hand's default if not given.")] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="image|official", help="A seed per image, or those that the benchmark fixes.")
    ] = None,
    quantize: Quantize = None,
    max_image_calls: Annotated[
        int | None, typer.Option("--max-image-calls", min=0, help="Of an endpoint that draws: stop asking after so many.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="URL#MODEL", help="Or local:REPO, brain, replay:FILE. Key: METABRIDGE_JUDGE_KEY.")
    ] = None,
    judge_concurrency: Annotated[int | None, typer.Option("--judge-concurrency", min=1, help="Questions at the same time; 8.")] = None,
    judge_timeout: Annotated[float | None, typer.Option("--judge-timeout", min=0.1, help="Seconds for an answer; 120.")] = None,
    max_judge_calls: Annotated[int | None, typer.Option("--max-judge-calls", min=0, help="Stop asking after so many.")] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="ROLE=PATH", help="A scorer's model from elsewhere, as detector=PATH.")
    ] = None,
    compat: Annotated[
        str | None, typer.Option("--compat", metavar="none|official", help="official: with the defects of the official scorer.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Where the benchmarks' files lie.")] = None,
    accept_licence: Annotated[
        list[str] | None, typer.Option("--accept-licence", metavar="NAME", help="Of data without a licence, or a non-commercial one.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Of the scorer's models: cuda where there is one.")] = None,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Show between which values a number with unscored pictures lies.")
    ] = False,
    shard: Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Draw or score this part of the chunks.")] = None,
    processes: Annotated[int | None, typer.Option("--processes", min=1, help="Draw in so many processes.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Where plan, images and results go.")] = None,
) -> None:
    """Draw a suite's prompts and score the drawings. To resume, run the same command again."""
    from metabridge.scripts.eval import eval_command
    from metabridge.scripts.eval_options import Options

    options = Options(
        suite, tuple(limit or ()), images, rows, baseline, steps, guidance, size, seeds, quantize, max_image_calls, data,
        tuple(accept_licence or ()), judge, judge_concurrency, judge_timeout,
        max_judge_calls, tuple(model or ()), compat, device, allow_incomplete, shard, processes,
    )  # fmt: skip
    eval_command(words, options, out)


@app.command()
def check(
    what: Annotated[str, typer.Argument(metavar="RECIPE|BRIDGE", help="A recipe file, a shipped name, or a run folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For a recipe.")] = None,
    shapes_only: Annotated[bool, typer.Option("--shapes-only", help="From configs alone: no weights, no download.")] = False,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Memory of each of so many.")] = 1,
) -> None:
    """Show what is trained, shapes, memory, and what the hand is told; refuse what does not fit."""
    from metabridge.scripts.check import check_command

    check_command(what, overrides or [], shapes_only, processes)


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    x: Annotated[str, typer.Option("--x", metavar="steps|seconds|rows", help="What the curves are drawn over.")] = "steps",
    keys: Annotated[
        str | None, typer.Option("--keys", metavar="KEY,...", help="As loss,validation_loss,score; what the runs hold if not given.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="A .png.")] = Path("plots.png"),
) -> None:
    """Draw loss and score curves of runs into one picture."""
    from metabridge.scripts.plot import plot_command

    plot_command(runs, out, x, keys)


@app.command()
def bench(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or a shipped name (metabridge ls recipes).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As connector.queries=64.")] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", min=1, metavar="L", help="Random prompts of L tokens, in place of the data's.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, metavar="K", help="Measured steps of each route; the median counts.")] = 3,
    brain_only: Annotated[bool, typer.Option("--brain-only", help="Leave out the whole step with connector and hand.")] = False,
    attention: Annotated[
        str, typer.Option("--attention", metavar="training|torch", help="Kernels: those that train takes, or torch's own choice.")
    ] = "training",
    data: Annotated[
        bool, typer.Option("--data", help="Measure how fast batches are made, beside Pillow's decoding alone; no step is run.")
    ] = False,
    drawing: Annotated[
        bool, typer.Option("--drawing", help="Measure the brain when drawing: several images, a thought, a later turn of a conversation.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers there.")] = None,
) -> None:
    """Measure a training step beside the full-sequence route: time, memory, the same gradient."""
    if data:
        from metabridge.scripts.bench_data import bench_data_command

        bench_data_command(recipe, overrides or [], steps, json_file)
        return
    if drawing:
        from metabridge.scripts.bench_drawing import bench_drawing_command

        bench_drawing_command(recipe, overrides or [], prompt_tokens, steps, json_file)
        return
    from metabridge.scripts.bench import Options, bench_command

    options = Options(prompt_tokens=prompt_tokens, steps=steps, brain_only=brain_only, attention=attention)
    bench_command(recipe, overrides or [], options, json_file)


@app.command()
def ls(
    kind: Annotated[str, typer.Argument(metavar="brains|hands|recipes|benchmarks|data")],
    as_json: Annotated[bool, typer.Option("--json", help="A list of {name, status, reason}.")] = False,
) -> None:
    """List what exists."""
    from metabridge.scripts.ls import ls_command

    ls_command(kind, as_json)


def main() -> None:
    warnings, ours = logging.StreamHandler(), logging.getLogger("metabridge")
    warnings.setFormatter(logging.Formatter("metabridge: %(message)s"))
    ours.addHandler(warnings)
    try:
        app()
    except UserError as error:
        print(f"metabridge: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    finally:
        ours.removeHandler(warnings)


if __name__ == "__main__":
    main()
