"""Rows that cannot be used, in a run: named, counted, and too many end it; a stream goes on where it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metabridge.bridge.errors import UserError
from metabridge.training.log import read_metrics
from metabridge.training.schema import BadRow, Raw
from metabridge.training.train import train
from tests.rows import picture, write_jsonl, write_pictures
from tests.runs import made

Tree = dict[str, Any]


def spoiled(tree: Tree, folder: Path, rows: int, bad: int) -> Tree:
    names = write_pictures(folder, rows)
    for name in names[:bad]:
        (folder / name).write_bytes(b"torn")
    path = write_jsonl(folder, [{"prompt": f"row {k}", "target": name} for k, name in enumerate(names)])
    tree["data"] = [{"source": "jsonl", "path": str(path)}]
    tree["train"] |= {"workers": 0, "batch_size": 4, "schedule": "constant"}
    return tree


def test_they_are_named_and_counted_once_however_the_run_was_stopped(tree: Tree, tmp_path: Path) -> None:
    spoiled(tree, tmp_path, 8, 2)
    train(*made(tree, steps=6), tmp_path / "whole")
    lines = read_metrics(tmp_path / "whole/bad_rows.jsonl")
    assert {row["where"] for row in lines} == {"rows.jsonl:1", "rows.jsonl:2"} and lines[0]["source"] == "jsonl"  # type: ignore[comparison-overlap]
    assert lines[0]["reason"] == "a picture cannot be opened (in no format that Pillow knows)"  # type: ignore[comparison-overlap]
    assert read_metrics(tmp_path / "whole/metrics.jsonl")[-1]["bad_rows"] == len(lines) >= 6

    train(*made(tree, steps=3), tmp_path / "parts")
    with open(tmp_path / "parts/bad_rows.jsonl", "a") as file:  # met by a run that was killed before it saved
        file.write(json.dumps({"step": 4, "source": "jsonl", "where": "x", "reason": "y"}) + "\n")
    recipe, bridge = made(tree, steps=6)
    train(recipe, bridge, tmp_path / "parts", accept_changes=True)
    assert (tmp_path / "parts/bad_rows.jsonl").read_text() == (tmp_path / "whole/bad_rows.jsonl").read_text()
    assert read_metrics(tmp_path / "parts/metrics.jsonl")[-1]["bad_rows"] == len(lines)


def test_too_many(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        train(*made(spoiled(tree, tmp_path, 16, 2), steps=100), tmp_path / "run")
    said = str(raised.value)
    found = len(read_metrics(tmp_path / "run/bad_rows.jsonl"))
    assert said.startswith(
        f"data: {found} of 204 rows cannot be used, more than train.max_bad_rows=0.05 of them; the last is jsonl rows.jsonl:"
    )
    assert said.endswith(f"{tmp_path}/run/bad_rows.jsonl names all: mend them, or raise the limit")
    assert train(*made(tree, steps=52, max_bad_rows=0.5), tmp_path / "run", accept_changes=True) == 52


class Endless:
    """A stream that remembers from where it was opened."""

    def __init__(self) -> None:
        self.opened: list[Any] = []

    def rows(self, epoch: int, state: Any = None) -> Iterator[tuple[Raw | BadRow, Any]]:
        self.opened.append(state)
        for k in range(state or 0, 10_000):
            yield Raw({"prompt": f"row {k}", "target": picture(k)}, f"endless:{k}"), k + 1


@pytest.mark.slow
def test_a_run_on_a_stream_resumes_bit_for_bit_and_reads_no_row_twice(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[Endless] = []
    monkeypatch.setitem(sys.modules, "my.stream", SimpleNamespace(load=lambda: streams.append(Endless()) or streams[-1]))
    tree["data"] = [{"source": "my.stream"}]
    tree["train"] |= {"workers": 0, "batch_size": 64, "steps": 26, "schedule": "constant", "checkpoint_every": 24}
    train(*made(tree), tmp_path / "whole")
    train(*made(tree, steps=24), tmp_path / "parts")
    train(*made(tree), tmp_path / "parts", accept_changes=True)
    assert streams[-1].opened[-1] == 768  # of 1536 rows that were trained on: where the oldest chunk at hand begins
    a, b = (torch.load(tmp_path / name / "checkpoints/step-000026.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(a["weights"][name], b["weights"][name]) for name in a["weights"])
