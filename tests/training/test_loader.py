"""Batches: the same from a thread, from workers, after a resume; bad rows are told; streams go on where they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training.data import Mixture
from metabridge.training.feeds import Streamed
from metabridge.training.loader import Loaded, Share, batches, load
from metabridge.training.schema import BadRow, Raw, Schema
from tests.rows import picture, write_jsonl, write_pictures

Tree = dict[str, Any]


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("grad_accum", [1, 2])
def test_shares_cover_the_batch_once(processes: int, grad_accum: int) -> None:
    shares = [Share(16, grad_accum, process, processes) for process in range(processes)]
    assert sorted(row for share in shares for micro in range(grad_accum) for row in share.rows(micro)) == list(range(16))


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(UserError) as raised:
        Share(16, 2, 0, 3)
    assert str(raised.value) == (
        "train.batch_size: 16 (global) does not divide by 6 = 2 (train.grad_accum) x 3 (processes); make it a multiple of 6"
    )


@pytest.fixture
def pictured(tree: Tree, tmp_path: Path) -> Tree:
    names = write_pictures(tmp_path, 10)
    (tmp_path / names[4]).write_bytes(b"torn")
    path = write_jsonl(tmp_path, [{"prompt": f"row {k}", "target": name} for k, name in enumerate(names)])
    tree["data"] = [{"source": "jsonl", "path": str(path)}, {"source": "flatland", "weight": 0.5}]
    return tree


def same(a: Loaded, b: Loaded) -> bool:
    assert a.batch.pixels is not None and b.batch.pixels is not None
    tensors = [
        (a.batch.pixels, b.batch.pixels),
        *((x[name], y[name]) for x, y in zip(a.batch.inputs, b.batch.inputs, strict=True) for name in x),
    ]
    return a.skipped == b.skipped and a.batch.captions == b.batch.captions and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.slow
def test_workers_are_a_thread(pictured: Tree, bridge: Bridge) -> None:
    """The same batches in the same order, bad rows told; and so from the middle on, and for each of two processes."""
    mixture = Mixture(Recipe.from_dict(pictured), bridge.hand)

    def made(first: int, workers: int, share: Share) -> list[Loaded]:
        return list(batches(mixture, bridge.brain.collate, share, first, 5, workers))

    whole = Share(4, 2)
    thread, workers = made(0, 0, whole), made(0, 2, whole)
    assert len(thread) == 10 and all(map(same, thread, workers))
    assert any(loaded.skipped for loaded in thread)
    assert all(map(same, thread[6:], made(3, 0, whole)))
    halves = [made(0, 0, Share(4, 1, process, 2)) for process in (0, 1)]
    for step in range(5):
        pixels = [half[step].batch.pixels for half in halves]
        joined = [loaded.batch.pixels for loaded in thread[2 * step : 2 * step + 2]]
        assert torch.equal(torch.cat([p for p in pixels if p is not None]), torch.cat([p for p in joined if p is not None]))


def test_groups_of_like_length_change_the_padding_alone(tree: Tree, bridge: Bridge) -> None:
    tree["objective"] = {"think": 0.5}
    tree["data"] = [{"source": "flatland", "task": "t2i"}, {"source": "flatland", "task": "dialogue"}]
    whole, parted = (
        load(
            Mixture(Recipe.from_dict(tree | {"train": tree["train"] | {"batch_size": 8, "length_groups": groups}}), bridge.hand),
            bridge.brain.collate,
            0,
            range(8),
        )
        for groups in (1, 3)
    )
    (longest,), parts = ([group["input_ids"].shape for group in loaded.batch.inputs] for loaded in (whole, parted))
    assert [rows for rows, _ in parts] == [3, 3, 2] and sorted(parted.batch.places.tolist()) == list(range(8))
    assert parts[0][1] < parts[2][1] <= longest[1]
    assert torch.allclose(bridge(whole.batch), bridge(parted.batch), atol=1e-5)


@pytest.mark.slow
def test_an_error_in_a_worker_is_one_line(pictured: Tree, bridge: Bridge, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, [{"prompt": "a", "target": "gone.png"}])
    pictured["data"] = [{"source": "jsonl", "path": str(path)}]
    mixture = Mixture(Recipe.from_dict(pictured), bridge.hand)
    with pytest.raises(UserError, match=r"^data jsonl: 8 rows one after another cannot be used; the last is rows.jsonl:1: "):
        list(batches(mixture, bridge.brain.collate, Share(4, 1), 0, 2, workers=1))


class Numbers:
    """A stream of 50 rows, in an order of each epoch; its state is how many were read."""

    def rows(self, epoch: int, state: Any = None) -> Iterator[tuple[Raw | BadRow, Any]]:
        for k in range(state or 0, 50):
            row = k * (3, 7, 9)[epoch % 3] % 50
            raw = Raw({"prompt": str(row), "target": picture(row)}, f"stream:{row}")
            yield (BadRow("torn") if row == 13 else raw), k + 1


def test_a_stream_goes_on_from_its_cursor() -> None:
    def opened() -> Streamed:
        return Streamed(Numbers(), Schema.of({}, ["prompt", "target"], "numbers"), seed=1, held_out=0, chunk=8, reach=16)

    def prompt(feed: Streamed, number: int) -> str:
        try:
            return feed.example(number, 0).prompt
        except BadRow as bad:
            return str(bad)

    whole = opened()
    expected = [prompt(whole, number) for number in range(140)]
    assert sorted(expected[:48]) != expected[:48] and expected.count("torn") in (2, 3)
    assert all(count <= 3 for count in map(expected.count, expected))
    for stop in (0, 1, 47, 63, 100):
        feed = opened()
        for number in range(stop):
            prompt(feed, number)
        again = opened()
        again.begin(feed.cursor())
        assert [prompt(again, number) for number in range(stop, 140)] == expected[stop:]
        assert again.chunks[0][0] >= min(stop // 8, 17) - 3  # what has gone by is not read again
    assert prompt(whole, 3) == expected[3]  # long gone: read anew


def test_held_out_rows_of_a_stream_are_never_trained_on() -> None:
    class Many:
        def rows(self, epoch: int, state: Any = None) -> Iterator[tuple[Raw | BadRow, Any]]:
            for k in range(state or 0, 1000):
                yield Raw({"prompt": str(k), "target": picture(0)}, f"many:{k}"), k + 1

    feed = Streamed(Many(), Schema.of({}, ["prompt", "target"], "many"), seed=0, held_out=4)
    held = {feed.held_out(k).prompt for k in range(8)}
    assert len(held) == 4 and not held & {feed.example(number, 0).prompt for number in range(1200)}
