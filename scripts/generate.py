"""`metabridge generate`: draw prompts, or a picture of before once more."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import png
from metabridge.bridge.thinking import THOUGHT
from metabridge.scripts.generate_asked import Job, Options, jobs_of
from metabridge.scripts.generate_chunks import Chunk, Settings, cut, draw, example_of, thought_over
from metabridge.scripts.generate_record import check_same, made_with, paths, read_record, texts
from metabridge.scripts.interrupts import heard_ctrl_c
from metabridge.scripts.output import write_asked

if TYPE_CHECKING:
    from metabridge.bridge.pipeline import BridgePipeline


def generate_command(bridge: str | None, prompts: Sequence[str], options: Options, out: Path | None) -> None:
    with heard_ctrl_c() as check_ctrl_c:
        if options.again is not None:
            again_command(bridge, prompts, options, options.again, out, check_ctrl_c)
        elif bridge is None:
            raise UserError("BRIDGE: none given; give a run or artifact folder, a shipped name (flatland), or a hub id")
        else:
            draw_command(bridge, prompts, options, out or Path("out.png"), check_ctrl_c)


def draw_command(bridge: str, prompts: Sequence[str], options: Options, out: Path, check_ctrl_c: Callable[[], None]) -> None:
    jobs, count = jobs_of(prompts, options), options.n or 1
    files = targets(out, len(jobs) * count)
    spare(files, [source.path for job in jobs for source in job.sources])
    people = sys.stderr if options.json else sys.stdout
    pipeline = load(bridge, options.quantize, people, options.offload)
    pipeline.batch_size = options.batch_size or pipeline.batch_size
    settings = drawing_settings(pipeline, options)
    budget = options.max_new_tokens or THOUGHT
    check(pipeline, jobs, settings, budget if options.think else 0)
    if options.think:
        with spinning("thinking"):
            jobs = thought_over(pipeline, jobs, options.think_mode or "always", budget)
    for job in jobs:
        if job.thought is not None and options.think:
            print(f"thought: {job.thought}" if len(jobs) == 1 else f"thought on {job.prompt!r}: {job.thought}", file=people)

    mode = {"think": options.think, "think_mode": options.think_mode or "always"}
    asked = settings | mode | {"quantize": pipeline.bridge.brain.identity.get("quantize", "none")}
    made, machine = made_with(pipeline)
    done = 0
    for chunk in cut(jobs, count, pipeline.batch_size):
        images = drawn(pipeline, chunk, settings, check_ctrl_c, done, len(files))
        # as they come: what is interrupted leaves whole pictures
        for index, image in enumerate(images):
            write(files[done + index], image, chunk, index, texts(chunk, index, settings, asked, made, machine), options.json)
        done += len(images)


def again_command(
    bridge: str | None, prompts: Sequence[str], options: Options, file: Path, out: Path | None, check_ctrl_c: Callable[[], None]
) -> None:
    """A picture as it was drawn, with those that it was drawn with; it alone is written."""
    if others := [*(["PROMPT"] if prompts else []), *options.given()]:
        raise UserError(f"--again {file}: draws as that was drawn; leave out {', '.join(others)}")
    record = read_record(file)
    (target,) = targets(out or file.with_name(f"{file.stem}-again.png"), 1)
    spare([target], [file, *(source.path for job in record.chunk.jobs for source in job.sources)])
    brain = record.bridge["brain"]
    pipeline = load(
        bridge or record.bridge["name"], brain.get("quantize", "none"), sys.stderr if options.json else sys.stdout, options.offload
    )
    check_same(record, pipeline)
    image = drawn(pipeline, record.chunk, record.settings, check_ctrl_c, 0, len(record.chunk.seeds))[record.index]
    said = texts(record.chunk, record.index, record.settings, record.asked, *made_with(pipeline))
    write(target, image, record.chunk, record.index, said, options.json)


def drawing_settings(pipeline: BridgePipeline, options: Options) -> Settings:
    """In the words of the pipeline's call, with every default that is a number."""
    hand = pipeline.bridge.hand
    return {
        "num_inference_steps": hand.default_steps if options.steps is None else options.steps,
        "guidance_scale": hand.default_guidance if options.guidance is None else options.guidance,
        "image_guidance_scale": 1.0 if options.image_guidance is None else options.image_guidance,
        "negative_prompt": options.negative,
        "height": options.height,
        "width": options.width,
        "preserve": options.preserve or 0.0,
    }


def check(pipeline: BridgePipeline, jobs: Sequence[Job], settings: Settings, budget: int) -> None:
    """All that can be wrong with one prompt of many, before the first is drawn. `budget`: tokens of a thought, 0 = none is written."""
    from metabridge.bridge.drawing import PICTURED, settings_of
    from metabridge.bridge.interfaces import Example

    bridge = pipeline.bridge
    settings_of(bridge.hand, [PICTURED if job.sources else Example("") for job in jobs], **settings)
    for job in jobs:
        thinking = budget > 0 and job.thought is None
        try:
            read = bridge.brain.collate([example_of(job)], think=thinking)["input_ids"].shape[1]
        except UserError as error:
            raise UserError(f"{job.where}: {str(error).removeprefix('prompt: ')}" if job.where != "prompt" else str(error)) from error
        length = read + len(bridge.queries) + budget * thinking
        if length > bridge.brain.max_tokens:
            most = bridge.brain.max_tokens
            raise UserError(f"{job.where}: too long; {length} tokens with queries and thought, but this brain reads {most}; shorten it")


def drawn(
    pipeline: BridgePipeline, chunk: Chunk, settings: Settings, check_ctrl_c: Callable[[], None], before: int, total: int
) -> list[Any]:
    """The pictures of a chunk, after so many `before`, with a bar for each denoising: those of another size have one of their own."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"), *columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal
    )
    with progress:
        bar = progress.add_task("reading", total=settings["num_inference_steps"], rate="")
        done = before

        def step(own: BridgePipeline, number: int, timestep: object, held: dict[str, Any]) -> None:
            nonlocal done
            check_ctrl_c()
            if number == 0:
                rows = len(held["latents"])
                progress.reset(bar, description=f"drawing {done + 1} to {done + rows} of {total}", rate="")
                done += rows
            speed = progress.tasks[bar].speed
            progress.update(bar, completed=number + 1, rate=f"{speed:.2g} steps/s" if speed else "")

        return draw(pipeline, chunk, settings, step)


@contextmanager
def spinning(what: str) -> Iterator[None]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def targets(out: Path, count: int) -> list[Path]:
    """out.png, or out-0.png .. where there are several; a place where no folder can be made is refused before anything is drawn."""
    if out.suffix.lower() != ".png":
        raise UserError(f"-o {out}: drawings are written as .png; give a name that ends in .png")
    try:
        if out.is_dir():
            raise UserError(f"-o {out}: is a folder; give the name of a file in it")
        home = next(folder for folder in out.absolute().parents if folder.exists())
        if not home.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(home, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(f"-o {out}: its folder cannot be made ({error.strerror}); give another path") from error
    return [out] if count == 1 else [out.with_name(f"{out.stem}-{k}{out.suffix}") for k in range(count)]


def spare(files: Sequence[Path], sources: Sequence[Path]) -> None:
    """A picture that is drawn from is not drawn over."""
    kept = {path.resolve() for path in sources}
    for file in files:
        if file.resolve() in kept:
            raise UserError(f"-o {file}: is one of the pictures that are drawn from; give another name")


def load(bridge: str, quantize: str | None = None, people: TextIO | None = None, offload: bool = False) -> BridgePipeline:
    """`people`: where the line for a reader goes; stdout if not given."""
    from metabridge.adapters import find_bridge, load_pipeline

    folder = find_bridge(bridge)
    print(f"bridge: {bridge} ({folder})", file=people or sys.stdout, flush=True)
    import torch

    if offload and not torch.cuda.is_available():
        raise UserError("--offload: has no effect, there is no GPU here; leave it out")
    from metabridge.bridge.pipeline import enough_memory
    from metabridge.scripts.quiet import quiet

    quiet()
    with enough_memory():
        return load_pipeline(folder, "cuda" if torch.cuda.is_available() else "cpu", bridge, quantize, offload)


def write(path: Path, image: Any, chunk: Chunk, index: int, said: dict[str, str], as_json: bool) -> None:
    write_asked("-o", path, png(image, said), make_folder=True)
    if not as_json:
        print(path, flush=True)
        return
    job = chunk.job(index)
    seen = {"prompt": job.prompt, "thought": job.thought, "seed": chunk.seeds[index], "images": paths(job), "bridge": said["bridge"]}
    print(json.dumps({"path": str(path), **seen, "settings": json.loads(said["settings"])}), flush=True)
