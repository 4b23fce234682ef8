"""What a PNG says of itself: enough to draw it again, bit for bit on the same device, with those that it was drawn with."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.pixels import UNREADABLE
from metabridge.scripts.generate_asked import Job, Source, opened
from metabridge.scripts.generate_chunks import Chunk, Settings

if TYPE_CHECKING:
    from metabridge.bridge.model import Bridge
    from metabridge.bridge.pipeline import BridgePipeline

log = logging.getLogger(__name__)

FORMAT = 1
KEY = "metabridge"
PACKAGES = ("metabridge", "torch", "transformers", "diffusers", "pillow")

Tree = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """Of one picture."""

    file: Path
    index: int  # in its chunk
    chunk: Chunk
    settings: Settings
    asked: Tree  # the settings that are shown
    bridge: Tree
    machine: Tree


def made_with(pipeline: BridgePipeline) -> tuple[Tree, Tree]:
    """Which bridge, and what may change the last bits."""
    return {"name": pipeline.name, **pipeline.identity}, machine_of(pipeline.bridge)


def machine_of(bridge: Bridge) -> Tree:
    import torch

    kind = bridge.device.type
    exact = torch.cuda.get_device_name(bridge.device) if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    dtypes = {
        name: str(next(part.parameters()).dtype).removeprefix("torch.") for name, part in (("brain", bridge.brain), ("hand", bridge.hand))
    }
    versions = {name: version(name) for name in PACKAGES}
    return {"device": f"{kind} ({exact})", "threads": torch.get_num_threads(), "dtype": dtypes, "versions": versions}


def texts(chunk: Chunk, index: int, settings: Settings, asked: Tree, bridge: Tree, machine: Tree) -> dict[str, str]:
    """For a reader: prompt, thought, seed, bridge and settings; for `--again` all of it."""
    job, seed = chunk.job(index), chunk.seeds[index]
    said = {} if job.thought is None else {"thought": job.thought}
    together = {
        "jobs": [_job_tree(job) for job in chunk.jobs],
        "each": chunk.each,
        "seeds": chunk.seeds,
        "batch_size": chunk.batch_size,
    }
    record = {"format": FORMAT, "index": index, "chunk": together, "settings": settings, "asked": asked, "bridge": bridge, **machine}
    shown = asked | {"images": paths(job), "version": machine["versions"]["metabridge"]}
    return {
        "prompt": job.prompt,
        **said,
        "seed": str(seed),
        "bridge": bridge["name"],
        "settings": json.dumps(shown),
        KEY: json.dumps(record),
    }


def paths(job: Job) -> list[str]:
    return [str(source.path) for source in job.sources]


def _job_tree(job: Job) -> Tree:
    sources = [{"path": str(source.path), "sha256": source.sha256} for source in job.sources]
    return {"prompt": job.prompt, "thought": job.thought, "rewritten": job.rewritten, "seed": job.seed, "images": sources}


def read_record(file: Path) -> Record:
    """Of a PNG that `metabridge generate` drew; its source pictures are there, and the same."""
    tree = _tree(file)
    if tree.get("format") != FORMAT:
        raise UserError(f"--again {file}: its record has format {tree.get('format')!r}, this version reads {FORMAT}; update metabridge")
    try:
        together, seen = tree["chunk"], {}
        for given in [given for job in together["jobs"] for given in job["images"]]:
            if given["path"] not in seen:
                seen[given["path"]] = _same_source(file, given)
        jobs = tuple(
            Job(
                job["prompt"],
                tuple(seen[given["path"]] for given in job["images"]),
                job["thought"],
                job["seed"],
                rewritten=job["rewritten"],
            )
            for job in together["jobs"]
        )
        chunk = Chunk(jobs, together["each"], tuple(together["seeds"]), together["batch_size"])
        machine = {name: tree[name] for name in ("device", "threads", "dtype", "versions")}
        bridge = tree["bridge"]
        told = [bridge[part][key] for part in ("brain", "hand") for key in ("repo", "fingerprint")]
        if not all(isinstance(text, str) for text in (*told, bridge["name"], bridge["content"])):
            raise TypeError("bridge")
        chunk.job(tree["index"])
        return Record(file, tree["index"], chunk, tree["settings"], tree["asked"], bridge, machine)
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"--again {file}: its record is damaged ({' '.join(str(error).split())}); give another picture") from error


def _tree(file: Path) -> Tree:
    try:
        with Image.open(file) as image:
            held = image.info.get(KEY) if image.format == "PNG" else None
        tree = json.loads(held) if held is not None else None
    except FileNotFoundError:
        raise UserError(f"--again {file}: no such file; give a PNG that metabridge generate drew") from None
    except (*UNREADABLE, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise UserError(f"--again {file}: not a PNG that metabridge generate drew, it holds no record of that; give one")
    return tree


def _same_source(file: Path, given: Mapping[str, str]) -> Source:
    path = Path(given["path"])
    if not os.path.isfile(path):
        raise UserError(f"--again {file}: its source picture {path} is gone; put it back, or run where it was drawn")
    found, _ = opened(path, f"--again {file}: its source picture {path}")
    if found.sha256 != given["sha256"]:
        raise UserError(
            f"--again {file}: its source picture {path} is another one now (sha256 {found.sha256[:12]}, it was {given['sha256'][:12]}); "
            "put the old one back"
        )
    return found


def check_same(record: Record, pipeline: BridgePipeline) -> None:
    """Another bridge is refused; what may change the last bits is said."""
    from metabridge.bridge.identity import difference

    if differs := difference(record.bridge, pipeline.identity):
        raise UserError(f"--again {record.file}: drawn with {differs}; give the bridge it was drawn with")
    before, now = (flat(machine) for machine in (record.machine, machine_of(pipeline.bridge)))
    if others := [f"{name} {before.get(name)}, now {now[name]}" for name in now if before.get(name) != now[name]]:
        log.warning("--again %s: drawn with %s; the last bits may differ", record.file, "; ".join(others))


def flat(machine: Tree) -> dict[str, Any]:
    return {"device": machine["device"], "threads": machine["threads"]} | dict(machine["dtype"]) | dict(machine["versions"])
