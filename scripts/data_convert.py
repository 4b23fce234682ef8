"""`metabridge data convert`: rows of a source -> webdataset shards, by one process or several."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.settings import Objective, Source
from metabridge.scripts.data import named
from metabridge.scripts.output import rows_a_second, rows_progress

if TYPE_CHECKING:
    from metabridge.training.feeds import Feed
    from metabridge.training.shards import Job

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
ENOUGH = 100  # rows, before a share of bad ones says something


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

    shard_size: str
    size: int
    picture: str
    quality: int
    rows: int
    processes: int
    max_bad: float


def convert_command(what: str, options: Sequence[str], out: Path, asked: Asked) -> None:
    from rich.console import Console

    from metabridge.training.plan import readable
    from metabridge.training.shards import begin, write_manifest
    from metabridge.training.sources import open_source

    console = Console(highlight=False)
    unit = parse_size(asked.shard_size)
    found = named(what, options)
    if len(found.sources) > 1:
        names = ", ".join(source.source for source in found.sources)
        raise UserError(f"{what}: has {len(found.sources)} sources ({names}); convert one after another, each by its kind and options")
    console.print(found.said, markup=False, soft_wrap=True)
    source = found.sources[0]
    settings = settings_of(source, asked)
    known = begin(out, settings)
    feed, _ = open_source(source, found.recipe.objective if found.recipe else Objective(), 0)
    job = plan(feed, out, asked, unit, known)
    if known is not None and known["complete"]:
        console.print(f"{out}: complete already, {known['rows']:,} rows in {len(known['shards'])} shards", markup=False, soft_wrap=True)
        return
    if known is None:
        write_manifest(job, settings, None)
    records = convert(job, asked, console)
    write_manifest(job, settings, records)
    rows, bad, size = (sum(values) for values in zip(*((r["rows"], len(r["bad"]), r["bytes"]) for r in records), strict=True))
    line = f"{out}: {rows:,} rows in {len(records)} shards, {readable(size)}"
    console.print(line + (f"; {bad:,} rows left out: {out / 'bad_rows.jsonl'}" if bad else ""), markup=False, soft_wrap=True)
    console.print(f"to train on them: data: [{{source: webdataset, path: {out}, task: {source.task}}}]", markup=False, soft_wrap=True)


def parse_size(text: str) -> tuple[int, bool]:
    """(rows, False) or (bytes, True)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match and not match[2] and "." not in match[1] and int(match[1]):
        return int(match[1]), False
    if match and match[2].upper() in UNITS and float(match[1]):
        return round(float(match[1]) * UNITS[match[2].upper()]), True
    raise UserError(f"--shard-size: {text!r} given; give a number of rows, as 1000, or of bytes, as 500MB or 1GB")


def settings_of(source: Source, asked: Asked) -> dict[str, Any]:
    """What decides the bytes of the shards: another run in the same folder must have the same."""
    from metabridge.training.shards import FORMATS

    if asked.picture not in FORMATS:
        raise UserError(f"--format: {asked.picture!r} given; it is one of: {', '.join(FORMATS)}")
    options = {"source": source.source, **{key: source.options[key] for key in sorted(source.options)}}
    return options | {
        "--rows": asked.rows,
        "--shard-size": asked.shard_size,
        "--size": asked.size,
        "--format": asked.picture,
        "--quality": asked.quality,
    }


def plan(feed: Feed, out: Path, asked: Asked, unit: tuple[int, bool], known: dict[str, Any] | None) -> Job:
    from metabridge.training.feeds import Made, Streamed, Tabled
    from metabridge.training.shards import Job, Pictures, rows_per_shard
    from metabridge.training.survey import table_rows

    assert isinstance(feed, Made | Streamed | Tabled)
    pictures = Pictures(asked.picture, asked.size, asked.quality)
    if isinstance(feed, Tabled):
        total = table_rows(feed)
        rows: int | None = min(asked.rows or total, total)
    else:
        rows = asked.rows or None
    if isinstance(feed, Made) and rows is None:
        raise UserError("--rows: this source makes rows without end; say how many, as --rows 1000")
    if isinstance(feed, Streamed) and asked.processes > 1:
        raise UserError(
            f"--processes: {asked.processes} given, and a stream is read by one; leave it out, or copy the data to this machine"
        )
    size, in_bytes = unit
    if known is not None:
        per_shard = known["rows_per_shard"]
    elif not in_bytes:
        per_shard = size
    elif isinstance(feed, Streamed):
        raise UserError("--shard-size: in bytes, and nobody knows how large a stream's rows are; give a number of rows, as 1000")
    else:
        assert rows is not None
        per_shard = rows_per_shard(feed, rows, size, pictures)
    return Job(feed, out, pictures, rows, per_shard)


def convert(job: Job, asked: Asked, console: Any) -> list[dict[str, Any]]:
    """Every shard's record, in order; stops where too many rows are bad."""
    with rows_progress(console) as progress:
        task = progress.add_task("converting", total=job.rows, rate="")
        tally = Tally(asked.max_bad)

        def met(good: int, bad: int) -> None:
            progress.update(task, completed=good + bad, rate=rows_a_second(progress, task))
            tally.check(good, bad)

        records = {record["name"]: record for record in shards(job, asked.processes, met)}
    if not sum(record["rows"] for record in records.values()):
        tally.refuse(0, sum(len(record["bad"]) for record in records.values()), reasons(records.values()))
    return [records[name] for name in sorted(records)]


class Tally:
    """Whether too many rows are bad."""

    def __init__(self, most: float) -> None:
        self.most = most

    def check(self, good: int, bad: int) -> None:
        if good + bad >= ENOUGH and bad > self.most * (good + bad):
            self.refuse(good, bad, "")

    def refuse(self, good: int, bad: int, why: str) -> None:
        share = f"{bad:,} of {good + bad:,} rows cannot be used"
        advice = "metabridge data check says what is wrong with them; to go on all the same, run the same command with --max-bad 1"
        raise UserError(f"{share}{why}; {advice}")


def reasons(records: Any) -> str:
    counts = Counter(bad["reason"] for record in records for bad in record["bad"])
    return f" ({counts.most_common(1)[0][0]})" if counts else ""


def shards(job: Job, processes: int, met: Callable[[int, int], None]) -> Iterator[dict[str, Any]]:
    """Records of the shards as they are done, those of earlier runs first."""
    from metabridge.training.feeds import Streamed
    from metabridge.training.shards import stream_shards, write_shard

    counts = [0, 0]

    def one(good: bool) -> None:
        counts[not good] += 1
        met(*counts)

    if isinstance(job.feed, Streamed):
        yield from stream_shards(job, one)
        return
    if job.shards is None or processes == 1:
        for number in range(job.shards or 0):
            if (record := job.done(number)) is None:
                record = write_shard(job, number, one)
            else:
                counts[0], counts[1] = counts[0] + record["rows"], counts[1] + len(record["bad"])
            yield record
        return
    yield from in_processes(job, processes, met)


def in_processes(job: Job, processes: int, met: Callable[[int, int], None]) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    good, bad = context.Value("q", 0), context.Value("q", 0)
    assert job.shards is not None
    missing = []
    for number in range(job.shards):
        if (record := job.done(number)) is not None:
            good.value, bad.value = good.value + record["rows"], bad.value + len(record["bad"])
            yield record
        else:
            missing.append(number)
    with ProcessPoolExecutor(min(processes, max(1, len(missing))), context, _begin, (job, good, bad)) as pool:
        waiting = {pool.submit(_shard, number) for number in missing}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                met(good.value, bad.value)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


_own: tuple[Any, ...] = ()  # of a worker: the job and the counts it adds to


def _begin(*own: Any) -> None:
    global _own
    _own = own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _shard(number: int) -> dict[str, Any]:
    from metabridge.training.shards import write_shard

    job, *counts = _own

    def met(good: bool) -> None:
        count = counts[not good]
        with count.get_lock():
            count.value += 1

    return write_shard(job, number, met)
