"""What a run says: lines that a resume carries on, a rate that counts this run's steps alone, and wandb's own record of it."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from metabridge.bridge.recipe import Recipe
from metabridge.training.log import RunLog, read_metrics
from metabridge.training.train import train
from tests.runs import made

Tree = dict[str, Any]


def run_log(tree: Tree, out: Path, first: int = 0, **train_settings: Any) -> RunLog:
    out.mkdir(exist_ok=True)
    recipe = Recipe.from_dict({**tree, "train": {**tree["train"], **train_settings}})
    return RunLog(recipe, out, first, True, [], 0.0)


def test_rate_and_time_left_are_of_the_steps_since_the_resume(tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree["log"]["every"] = 5
    with run_log(tree, tmp_path / "run", first=990, steps=1000) as log:
        assert log.progress.tasks[0].completed == 990
        for step in range(991, 996):
            time.sleep(0.02)
            log.step(step, 1.0, 0.5, 1e-3)
        assert log.progress.tasks[0].completed == 995
    (row,) = read_metrics(tmp_path / "run/metrics.jsonl")
    assert 0 < row["rows_per_second"] <= 4 / 0.02  # and not some 200 times that
    with run_log(tree, tmp_path / "other", first=90, steps=100) as log:
        with log.aside():
            time.sleep(0.3)  # a benchmark is no part of the rate
        for step in range(91, 101):
            time.sleep(0.02)
            log.step(step, 1.0, 0.5, 1e-3)
    rate, left = capsys.readouterr().out.split("grad norm 0.500  ")[1].split(" steps/s  ETA ")
    assert 20 < float(rate) <= 50 and left.startswith("0 s")


def test_a_line_a_measurement_and_the_bar_shows_them(tree: Tree, tmp_path: Path) -> None:
    tree["log"]["every"] = 2
    with run_log(tree, tmp_path, steps=100) as log:
        log.step(1, 4.0, 0.5, 1e-3)
        log.record(1, {"validation_loss": 0.25, "validation_loss_1": 0.5})
        log.step(2, None, float("nan"), 1e-3, skipped=1)
        numbers = log.progress.tasks[0].fields["numbers"]
        log.step(3, None, 9.0, 1e-3, skipped=2, rollbacks=1)
        log.step(4, None, 9.0, 1e-3, skipped=3, rollbacks=1)
    assert numbers.startswith("loss 4.0000  grad norm nan  validation 0.2500  1 skipped  ")
    first, second, third = read_metrics(tmp_path / "metrics.jsonl")
    assert set(first) == {"step", "validation_loss", "validation_loss_1", "seconds"} and first["step"] == 1
    assert second["loss"] == 4.0 and second["skipped"] == 1 and "rollbacks" not in second
    assert third["loss"] is None and (third["skipped"], third["rollbacks"]) == (3, 1)  # no good step since the line before


def history(folder: Path) -> list[dict[str, Any]]:
    """What wandb wrote down: a log in LevelDB's format, blocks of 32 KB, each piece after its checksum, length and type."""
    (path,) = folder.glob("run-*.wandb")
    data, place, whole, rows = path.read_bytes(), 7, b"", []  # after its own header
    while place + 7 <= len(data):
        if (left := -place % 32768) < 7 and left:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # all of a record, or its end
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            if record.history.item:
                rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    return rows


def test_wandb_holds_all_of_it_and_a_resumed_run_is_the_same_one(tree: Tree, tmp_path: Path) -> None:
    tree["log"] |= {"wandb": "offline", "sample_every": 3, "validate_every": 1, "validate_rows": 4, "diagnose_every": 2}
    out = tmp_path / "run"
    train(*made(tree, steps=2), out)
    time.sleep(1)  # wandb names its folders by the second
    train(*made(tree, steps=3), out)
    folders = sorted(out.glob("wandb/offline-run-*"))
    identity = (out / "wandb/run-id").read_text()
    assert len(folders) == 2 and all(folder.name.endswith(identity) for folder in folders)
    lines, deadline, rows = read_metrics(out / "metrics.jsonl"), time.monotonic() + 30, []
    while len(rows) < len(lines) + 2 and time.monotonic() < deadline:  # wandb's own process writes when it likes
        time.sleep(0.1)
        rows = [row for folder in folders for row in history(folder)]
    assert [row["step"] for row in rows if "validation_loss" in row] == [1, 2, 3]
    for key in ("loss", "validation_loss", "shuffle_gap"):
        assert [row[key] for row in rows if key in row] == [line[key] for line in lines if key in line]
    pictures = [row for row in rows if "samples" in row or any(name.startswith("samples") for name in row)]
    assert [row["step"] for row in pictures] == [2, 3] and list(out.glob("wandb/offline-run-*/files/media/images/samples*.png"))
