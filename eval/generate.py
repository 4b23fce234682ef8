"""Draw what the plan says, a chunk at a time: `images/**.png` and a line each in `drawn.jsonl`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from metabridge.bridge.files import png
from metabridge.eval import store
from metabridge.eval.plan import Plan, Sample

DRAWN = "drawn.jsonl"
OK, MODEL_ERROR, INFRA_ERROR = "ok", "model_error", "infra_error"  # scored; counts as wrong; not scored, the result is incomplete

Progress = Callable[[int, bool], None]  # pictures done, and whether they were done just now


class Drawn(Protocol):
    @property
    def images(self) -> list[torch.Tensor]:
        """[3, H, W] in [0, 1], one a prompt."""

    @property
    def thoughts(self) -> list[str | None]: ...


class Drawer(Protocol):
    """What is evaluated; a BridgePipeline is one. `seeds` has one seed per prompt."""

    def __call__(
        self, prompt: list[str], *, think: bool, seeds: list[int], output_type: str, num_inference_steps: int, guidance_scale: float
    ) -> Drawn: ...

    def draw_native(
        self, captions: list[str], *, seeds: list[int], output_type: str, num_inference_steps: int, guidance_scale: float
    ) -> Drawn: ...


def generate(plan: Plan, folder: Path, drawer: Drawer, progress: Progress = lambda pictures, fresh: None) -> None:
    """Draw every chunk that is not whole yet; `progress` hears of the pictures of an earlier run first."""
    records = {record["key"]: record for record in store.read(folder / DRAWN)}
    missing = []
    for chunk in plan.chunks():
        if all(is_drawn(sample, records.get(sample.key), folder) for sample in chunk):
            progress(len(chunk), False)
        else:
            missing.append(chunk)
    settings = {key: plan.identity["generation"][key] for key in ("num_inference_steps", "guidance_scale")}
    for chunk in missing:
        drawn = _draw(drawer, chunk, settings)
        rows = zip(chunk, drawn.images, drawn.thoughts, strict=True)
        # records follow their pictures, so that a record always has its file
        store.append(folder / DRAWN, [_keep(sample, pixels, thought, folder) for sample, pixels, thought in rows])
        progress(len(chunk), True)


def is_drawn(sample: Sample, record: dict[str, Any] | None, folder: Path) -> bool:
    """Whether the picture lies there as it was drawn; a picture that could not be is drawn, too, and counts as wrong."""
    if record is None or record["seed"] != sample.seed:
        return False
    if record["state"] == MODEL_ERROR:
        return True
    try:
        return bool(hashlib.sha256((folder / sample.file).read_bytes()).hexdigest() == record["sha256"])
    except OSError:
        return False


def _draw(drawer: Drawer, chunk: Sequence[Sample], settings: dict[str, Any]) -> Drawn:
    texts, seeds, row = [sample.item.text for sample in chunk], [sample.seed for sample in chunk], chunk[0].row
    if row == "native":
        return drawer.draw_native(texts, seeds=seeds, output_type="pt", **settings)
    return drawer(texts, think=row == "think", seeds=seeds, output_type="pt", **settings)


def _keep(sample: Sample, pixels: torch.Tensor, thought: str | None, folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = {"key": sample.key, "seed": sample.seed, "prompt": sample.item.text, "thought": thought}
    if not torch.isfinite(pixels).all():
        return {**record, "state": MODEL_ERROR, "reason": "the picture has NaN or infinite pixels", "sha256": None}
    data = png(_image(pixels), {"prompt": sample.item.text, "thought": thought or "", "seed": str(sample.seed)})
    store.write(folder / sample.file, data)
    return {**record, "state": OK, "reason": "", "sha256": hashlib.sha256(data).hexdigest()}


def _image(pixels: torch.Tensor) -> Image.Image:
    """[3, H, W] in [0, 1] -> 8 bits."""
    values = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu()
    return Image.fromarray(np.asarray(values))
