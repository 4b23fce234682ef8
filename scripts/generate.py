"""`metabridge generate`."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import png
from metabridge.bridge.thinking import MODES
from metabridge.scripts.output import write_asked

if TYPE_CHECKING:
    from metabridge.bridge.pipeline import BridgePipeline


def generate_command(
    bridge: str,
    prompts: Sequence[str],
    images: Sequence[Path],
    think: bool,
    think_mode: str | None,
    count: int,
    seed: int,
    steps: int | None,
    guidance: float | None,
    quantize: str | None,
    out: Path,
) -> None:
    if any(not prompt.strip() for prompt in prompts):
        raise UserError("prompt: empty; say what to draw")
    check_think(think, think_mode)
    paths = targets(out, len(prompts) * count)
    pictures = [open_picture(path) for path in images]
    pipeline = load(bridge, quantize)
    hand = pipeline.bridge.hand
    settings: dict[str, Any] = {
        "num_inference_steps": hand.default_steps if steps is None else steps,
        "guidance_scale": hand.default_guidance if guidance is None else guidance,
        "think": think,
        "think_mode": think_mode or "always",
    }
    seeds = [seed + k for _ in prompts for k in range(count)]

    chunks = math.ceil(len(seeds) / pipeline.batch_size)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("drawing", total=chunks * settings["num_inference_steps"])
        output = pipeline(
            list(prompts),
            image=[pictures] * len(prompts) if pictures else None,
            num_images_per_prompt=count,
            seeds=seeds,
            callback_on_step_end=lambda *_: progress.advance(bar),
            **settings,
        )

    for prompt, thought in zip(prompts, output.thoughts, strict=True):
        if thought is not None:
            print(f"thought: {thought}" if len(prompts) == 1 else f"thought on {prompt!r}: {thought}")
    kept = {"quantize": pipeline.bridge.brain.identity.get("quantize", "none")}
    recorded = settings | kept | {"images": [str(path) for path in images], "version": version("metabridge")}
    pngs = []
    for index, image in enumerate(output.images):
        prompt, thought = prompts[index // count], output.thoughts[index // count]
        pngs.append(png(image, texts(prompt, thought, seeds[index], bridge, recorded)))
    write(paths, pngs)


def check_think(think: bool, mode: str | None) -> None:
    if mode is not None and not think:
        raise UserError(f"--think-mode {mode}: has no effect without --think; add --think")
    if mode is not None and mode not in MODES:
        raise UserError(f"--think-mode: {mode!r} given; it is one of: {', '.join(MODES)}")


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


def open_picture(path: Path) -> Image.Image:
    """Read a picture to its last byte, so that a file cut short is found here."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise UserError(f"--image {path}: no such file; give a picture") from None
    except UnidentifiedImageError:
        raise UserError(f"--image {path}: not a picture that can be read; give a PNG, JPEG or WebP") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"--image {path}: damaged or unreadable ({error}); give another file") from error


def load(bridge: str, quantize: str | None = None) -> BridgePipeline:
    from metabridge.adapters import find_bridge, load_pipeline

    folder = find_bridge(bridge)
    print(f"bridge: {bridge} ({folder})")
    import torch

    from metabridge.scripts.quiet import quiet

    quiet()
    return load_pipeline(folder, "cuda" if torch.cuda.is_available() else "cpu", bridge, quantize)


def texts(prompt: str, thought: str | None, seed: int, bridge: str, settings: dict[str, Any]) -> dict[str, str]:
    """How a picture came about, so that it can be drawn again."""
    said = {} if thought is None else {"thought": thought}
    return {"prompt": prompt, **said, "seed": str(seed), "bridge": bridge, "settings": json.dumps(settings)}


def write(paths: Sequence[Path], pngs: Sequence[bytes]) -> None:
    for path, data in zip(paths, pngs, strict=True):
        write_asked("-o", path, data, make_folder=True)
        print(path)
