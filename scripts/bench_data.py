"""`metabridge bench --data`: rows a second through mixture and loader, beside Pillow decoding the same pictures as files."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Source
from metabridge.training import recipes

if TYPE_CHECKING:
    from metabridge.bridge.interfaces import Collate
    from metabridge.training.data import Mixture

PHOTOS = 384  # that are made where the recipe has no pictures of its own
CEILING = 256  # pictures that are decoded over and over for the ceiling
SECONDS = 3.0  # of each measurement
IDLE = 2.0


def bench_data_command(name: str, overrides: Sequence[str], rounds: int, json_file: Path | None) -> None:
    """`rounds`: measurements of each kind, by turns; the medians count."""
    from rich.console import Console

    from metabridge.adapters import load
    from metabridge.scripts.data_check import hand_without_weights
    from metabridge.scripts.output import write_asked
    from metabridge.scripts.quiet import quiet
    from metabridge.training.data import Mixture
    from metabridge.training.feeds import Made

    recipe = Recipe.load(recipes.find(name), overrides)
    console = Console(highlight=False)
    quiet()
    hand, collate = hand_without_weights(recipe), load("brains", recipe.brain).collate
    mixture = Mixture(recipe, hand)
    with tempfile.TemporaryDirectory() as folder:
        measured = {recipe.name: mixture}
        if all(isinstance(feed, Made) for feed in mixture.feeds):
            console.print(f"{recipe.name} draws its pictures: measured on {PHOTOS} JPEGs made like photos", soft_wrap=True)
            height, width = mixture.frames.sizes[0]
            measured = {
                kind: Mixture(dataclasses.replace(recipe, data=(source,)), hand)
                for kind, source in photos(Path(folder), (width, height), [row_prompt(mixture, k) for k in range(PHOTOS)]).items()
            }
        crowd = sorted({0, mixture.workers(1) or 2})
        report = [measure(kind, mixture, collate, workers, rounds) for kind, mixture in measured.items() for workers in crowd]
    first = report[0]
    console.print(
        f"pictures of {first['size']}, {first['bytes_a_picture'] / 1000:.0f} KB each; Pillow: the same as files, opened, decoded, as arrays"
    )
    console.print(table(report))
    if json_file is not None:
        write_asked("--json", json_file, (json.dumps(report, indent=1) + "\n").encode())


def measure(kind: str, mixture: Mixture, collate: Collate, workers: int, rounds: int) -> dict[str, Any]:
    """Loader and ceiling by turns, so that what else the machine does falls on both; each idle while the other is measured."""
    from metabridge.training.loader import AHEAD, Share, batches

    processes = max(1, workers)
    height, width = mixture.frames.sizes[0]
    ours, ceiling = [], []
    context = multiprocessing.get_context("spawn")
    made = batches(mixture, collate, Share(mixture.batch_size, 1), 0, 2**31, workers)
    pool_of = context.Pool(processes, _begin, (context.Barrier(processes),))
    with tempfile.TemporaryDirectory() as folder, pool_of as pool:
        pictures = targets(mixture, Path(folder))
        bytes_a_picture = round(sum(picture.stat().st_size for picture in pictures) / len(pictures))
        try:
            for _ in range(1 + AHEAD * processes):  # every worker has begun
                next(made)
            for _ in range(rounds):
                time.sleep(IDLE)  # until no more batches are made ahead
                shares = [(pictures[k::processes], (width, height)) for k in range(processes)]
                rates = pool.map(_decode, shares, chunksize=1)
                ceiling.append((sum(wall for wall, _ in rates), statistics.mean(cpu for _, cpu in rates)))
                ours.append(loading(made, mixture.batch_size, AHEAD * processes))
        finally:
            made.close()
    return {
        "source": kind,
        "workers": workers,
        "size": f"{width}x{height}",
        "bytes_a_picture": bytes_a_picture,
        "rows_per_s": statistics.median(wall for wall, _ in ours),
        "decoded_per_s": statistics.median(wall for wall, _ in ceiling),
        "ratio": statistics.median(a / b for (a, _), (b, _) in zip(ours, ceiling, strict=True)),
        "rows_per_cpu_s": statistics.median(cpu for _, cpu in ours),
        "decoded_per_cpu_s": statistics.median(cpu for _, cpu in ceiling),
        "ratio_cpu": statistics.median(a / b for (_, a), (_, b) in zip(ours, ceiling, strict=True)),
        "ratios": [(a / b, c / d) for (a, c), (b, d) in zip(ours, ceiling, strict=True)],
    }


def loading(made: Iterator[Any], batch_size: int, ahead: int) -> tuple[float, float]:
    """Rows a second on the wall, and a second of CPU of this process and its workers."""
    for _ in range(ahead + 1):  # those that were made while nobody measured
        next(made)
    start, begun, rows = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - start < SECONDS or rows < 4 * batch_size:
        next(made)
        rows += batch_size
    return rows / (time.perf_counter() - start), rows / (cpu_seconds() - begun)


def cpu_seconds() -> float:
    import psutil

    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return float(sum(spent.user + spent.system for spent in times))


def targets(mixture: Mixture, folder: Path) -> list[Path]:
    """The first targets, as they are stored, a file each."""
    from metabridge.training.schema import BadRow
    from metabridge.training.shards import stored

    found: list[Path] = []
    for number in range(4 * CEILING):
        source, place = mixture.shares.locate(number)
        try:
            image = mixture.feeds[source].example(place, 0).target
        except BadRow:
            continue
        data = None if image is None else stored(image)
        if data is not None:
            found.append(folder / str(len(found)))
            found[-1].write_bytes(data)
        if len(found) == CEILING:
            break
    if not found:
        raise UserError("bench --data: the recipe's first rows hold no stored pictures; give data that does, as data.0.path=...")
    return found


_together: Any = None


def _begin(together: Any) -> None:
    """With the loader's own settings of malloc: without them Pillow takes twice as long, and would be no ceiling."""
    from metabridge.training.slots import keep_memory

    global _together
    _together = together
    keep_memory()


def _decode(share: tuple[Sequence[Path], tuple[int, int]]) -> tuple[float, float]:
    """Pictures a second, on the wall and of CPU, of a process that makes arrays of pixels with Pillow and does nothing else."""
    import numpy as np
    from PIL import Image

    pictures, size = share
    _together.wait()
    start, begun, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < SECONDS:
        with Image.open(pictures[count % len(pictures)]) as image:
            image.draft("RGB", (max(size),) * 2)
            np.asarray(image.convert("RGB"))
        count += 1
    return count / (time.perf_counter() - start), count / (time.process_time() - begun)


def row_prompt(mixture: Mixture, number: int) -> str:
    return mixture.feeds[0].example(number, number).prompt


def photos(folder: Path, size: tuple[int, int], prompts: Sequence[str]) -> dict[str, Source]:
    """JPEGs of quality 90 with as much in them as a photo's (waves, edges, grain), as files beside a JSONL and as shards."""
    from metabridge.bridge.settings import Objective
    from metabridge.training.shards import Job, Pictures, begin, write_shard
    from metabridge.training.sources import open_source

    with open(folder / "rows.jsonl", "w", encoding="utf-8") as rows:
        for number, prompt in enumerate(prompts):
            photo(number, size).save(folder / f"{number}.jpg", quality=90)
            rows.write(json.dumps({"prompt": prompt, "image": f"{number}.jpg"}) + "\n")
    jsonl = Source("jsonl", options={"path": str(folder / "rows.jsonl")})
    feed: Any = open_source(jsonl, Objective(), 0)[0]
    begin(folder / "shards", {})
    job = Job(feed, folder / "shards", Pictures(), len(prompts), len(prompts) // 4)
    for number in range(job.shards or 0):
        write_shard(job, number)
    return {"jsonl": jsonl, "webdataset": Source("webdataset", options={"path": str(folder / "shards")})}


def photo(seed: int, size: tuple[int, int]) -> Any:
    import numpy as np
    from PIL import Image

    rng, (width, height) = np.random.default_rng(seed), size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    pixels = np.zeros((height, width, 3), np.float32)
    for _ in range(8):
        wave = np.sin((x * rng.normal() + y * rng.normal()) / rng.uniform(4, 40) + rng.uniform(0, 6))
        pixels += wave[..., None] * rng.normal(0, 14, 3)
    for _ in range(12):
        left, top = rng.integers(0, width), rng.integers(0, height)
        pixels[top : top + height // 5, left : left + width // 5] += rng.normal(0, 30, 3)
    grain = rng.normal(0, 5, (height, width, 1))
    return Image.fromarray((128 + pixels + grain).clip(0, 255).astype(np.uint8))


def table(report: Sequence[dict[str, Any]]) -> Any:
    from metabridge.scripts.data_report import plain_table

    shown = plain_table("", "rows/s", "Pillow", "of it", "rows/CPU s", "Pillow", "of it")
    for row in report:
        workers = f"{row['workers']} workers" if row["workers"] else "a thread"
        numbers = [row[key] for key in ("rows_per_s", "decoded_per_s", "rows_per_cpu_s", "decoded_per_cpu_s")]
        wall, most, cpu, most_cpu = (f"{number:.0f}" for number in numbers)
        shown.add_row(f"{row['source']}, {workers}", wall, most, f"{row['ratio']:.2f}", cpu, most_cpu, f"{row['ratio_cpu']:.2f}")
    return shown
