"""`metabridge bench --data`: that it measures what it says; how fast anything is, no test can know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Command
from PIL import Image

from metabridge.scripts import bench_data


def test_pictures_are_as_large_as_photos(tmp_path: Path) -> None:
    bench_data.photo(0, (512, 512)).save(tmp_path / "a.jpg", quality=90)
    assert 60_000 < (tmp_path / "a.jpg").stat().st_size < 100_000


@pytest.mark.slow
def test_numbers_of_both_sources_by_thread_and_workers(metabridge: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PHOTOS", 16), ("SECONDS", 0.1), ("IDLE", 0.0)):
        monkeypatch.setattr(bench_data, name, value)
    code, out, _ = metabridge("bench", recipe_file, "--data", "train.workers=1", "--steps", 1, "--json", "found.json")
    assert code == 0 and "webdataset, 1 workers" in out
    found = json.loads(Path("found.json").read_text())
    assert [(row["source"], row["workers"]) for row in found] == [("jsonl", 0), ("jsonl", 1), ("webdataset", 0), ("webdataset", 1)]
    for row in found:
        assert row["ratio_cpu"] == pytest.approx(row["rows_per_cpu_s"] / row["decoded_per_cpu_s"])
        assert row["ratio"] == pytest.approx(row["rows_per_s"] / row["decoded_per_s"])


def test_shards_hold_the_bytes_of_the_files(tmp_path: Path) -> None:
    from metabridge.bridge.settings import Objective
    from metabridge.training.shards import stored
    from metabridge.training.sources import open_source

    sources = bench_data.photos(tmp_path, (64, 64), [f"row {k}" for k in range(8)])
    held = []
    for source in sources.values():
        feed, _ = open_source(source, Objective(), 0)
        targets = [feed.example(number, 0).target for number in range(8)]
        assert all(isinstance(target, Image.Image) for target in targets)
        held.append({stored(target) for target in targets if target is not None})
    assert held[0] == held[1] and len(held[0]) == 8
