"""Latents and native conditions on the disk: training with them and without gives the same loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from metabridge.adapters import assemble
from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training.cache import SHARD, SourceCache, fill
from metabridge.training.data import Mixture
from metabridge.training.feeds import Tabled
from metabridge.training.loader import load
from tests.rows import write_jsonl, write_pictures

Tree = dict[str, Any]
CPU = torch.device("cpu")


@pytest.fixture
def kept(tree: Tree, tmp_path: Path) -> Tree:
    """A source of ten rows, one of them torn, with alternatives of a caption; a share of rows dropped, a teacher."""
    names = write_pictures(tmp_path, 10, [(64, 64), (96, 64), (64, 100)])
    (tmp_path / names[4]).write_bytes(b"torn")
    rows = [{"prompt": [f"row {k}", f"another {k}"], "target": name} for k, name in enumerate(names)]
    tree["data"] = [{"source": "jsonl", "path": str(write_jsonl(tmp_path, rows))}]
    tree["objective"] = {"drop_text": 0.3, "distill": 0.5, "think": 0.3}
    return tree


def work_out(recipe: Recipe, bridge: Bridge, root: Path, shards: range | None = None) -> SourceCache:
    mixture = Mixture(recipe, bridge.hand)
    feed = mixture.feeds[0]
    assert isinstance(feed, Tabled)
    cache = SourceCache(root, mixture.sources[0], feed, bridge.hand, mixture.frames, recipe.objective.latents)
    list(fill(cache, bridge.hand, mixture.frames, shards or range(cache.shards), mixture.distill, CPU))
    return cache


def losses(recipe: Recipe, bridge: Bridge, steps: int = 4) -> tuple[torch.Tensor, bool]:
    mixture = Mixture(recipe, bridge.hand)
    loaded = [load(mixture, bridge.brain.collate, step, range(mixture.batch_size)).batch for step in range(steps)]
    with torch.no_grad():
        return torch.cat([bridge(batch) for batch in loaded]), all(batch.pixels is None and batch.teacher is not None for batch in loaded)


@pytest.mark.parametrize("mode", ["mean", "sample"])
def test_the_same_loss(kept: Tree, tmp_path: Path, mode: str) -> None:
    if mode == "sample":  # of an autoencoder that gives a distribution
        kept["hand"] = {"name": "stable_diffusion", "repo": str(tiny.make_sd_hand(tmp_path / "sd"))}
    kept["objective"]["latents"] = mode
    recipe = Recipe.from_dict(kept)
    bridge = assemble(recipe)
    plain, _ = losses(recipe, bridge)
    work_out(recipe, bridge, tmp_path / "cache")
    kept["train"]["cache"] = str(tmp_path / "cache")
    cached, used = losses(Recipe.from_dict(kept), bridge)
    assert used and (cached - plain).abs().max() <= 1e-5 * plain.abs().max()


def test_sizes_that_were_not_kept_go_by_way_of_pixels(kept: Tree, tmp_path: Path) -> None:
    """Rows of several aspect ratios that share a step are cut otherwise than alone."""
    kept["train"] |= {"max_aspect": 1.6, "size": 64, "upscale": True}
    kept["objective"]["distill"] = 0.0
    recipe = Recipe.from_dict(kept)
    bridge = assemble(recipe)
    plain, _ = losses(recipe, bridge, 12)
    work_out(recipe, bridge, tmp_path / "cache")
    kept["train"]["cache"] = str(tmp_path / "cache")
    mixture = Mixture(Recipe.from_dict(kept), bridge.hand)
    ways = {load(mixture, bridge.brain.collate, step, range(4)).batch.pixels is None for step in range(12)}
    assert True in ways and (losses(Recipe.from_dict(kept), bridge, 12)[0] - plain).abs().max() <= 1e-5 * plain.abs().max()


def test_what_is_there_is_not_worked_out_again(kept: Tree, tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 2 * SHARD + 3, suffix="jpg")
    write_jsonl(tmp_path, [{"prompt": "a", "target": name} for name in names])
    kept["objective"] = {}
    recipe = Recipe.from_dict(kept)
    bridge = assemble(recipe)
    cache = work_out(recipe, bridge, tmp_path / "cache", range(1, 2))
    assert [cache.latents_of.path(k).exists() for k in range(3)] == [False, True, False]
    written = cache.latents_of.path(1).stat().st_mtime_ns
    work_out(recipe, bridge, tmp_path / "cache")
    assert [cache.latents_of.path(k).exists() for k in range(3)] == [True] * 3
    assert cache.latents_of.path(1).stat().st_mtime_ns == written
    assert not cache.native_of.folder.exists()


def test_another_size_hand_or_source_is_another_cache(kept: Tree, tmp_path: Path) -> None:
    def folder(**train: Any) -> str:
        recipe = Recipe.from_dict({**kept, "train": {**kept["train"], **train}})
        bridge = assemble(recipe)
        mixture = Mixture(recipe, bridge.hand)
        feed = mixture.feeds[0]
        assert isinstance(feed, Tabled)
        return SourceCache(tmp_path, mixture.sources[0], feed, bridge.hand, mixture.frames, "mean").latents_of.folder.name

    first = folder()
    assert folder(seed=3, batch_size=8) == first
    assert folder(size=96) != first != folder(upscale=True)
    kept["hand"]["repo"] = str(tiny.make_hand(tmp_path / "other", seed=5))
    other = folder()
    kept["data"][0]["map"] = {"prompt": "=the same words"}
    assert len({first, other, folder()}) == 3


def test_a_cache_that_is_not_there_and_one_that_cannot_be(kept: Tree, tmp_path: Path) -> None:
    kept["train"]["cache"] = str(tmp_path)
    recipe = Recipe.from_dict(kept)
    bridge = assemble(recipe)
    with pytest.raises(
        UserError,
        match=r"^train.cache: .*latents-jsonl-\w+: not there, so nothing is kept for these rows, .* run metabridge data cache tiny",
    ):
        Mixture(recipe, bridge.hand)
    cache = work_out(Recipe.from_dict({**kept, "train": {**kept["train"], "cache": "off"}}), bridge, tmp_path)
    cache.latents_of.path(0).write_bytes(b"cut short")
    mixture = Mixture(recipe, bridge.hand)
    with pytest.raises(UserError, match=r"00000.safetensors: cannot be read .*; remove it and run metabridge data cache again"):
        mixture.row(0, 0, cached=True)
    kept["data"] = [{"source": "flatland"}]
    with pytest.raises(UserError, match=r"train.cache: no source of this recipe keeps its rows"):
        Mixture(Recipe.from_dict(kept), bridge.hand)


def test_rows_that_have_changed_are_another_cache(kept: Tree, tmp_path: Path) -> None:
    recipe = Recipe.from_dict(kept)
    bridge = assemble(recipe)
    work_out(recipe, bridge, tmp_path / "cache")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(reversed(rows.read_text().splitlines(keepends=True))))
    kept["train"]["cache"] = str(tmp_path / "cache")
    with pytest.raises(UserError, match=r"not there, so nothing is kept for these rows"):
        Mixture(Recipe.from_dict(kept), bridge.hand)
