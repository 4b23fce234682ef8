"""`metabridge check --shapes-only`: what it says of real pairs, and what it refuses, with no weights anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from metabridge.adapters import names as adapters
from metabridge.adapters.skeleton import shape
from metabridge.bridge.recipe import Recipe
from metabridge.training import recipes
from tests.tiny import make_sd_hand, recipe_tree

if TYPE_CHECKING:
    from conftest import Command

PAIRS = [name for name in recipes.names() if not Recipe.load(recipes.find(name)).brain.options["repo"].startswith("package:")]


def rows(out: str) -> dict[str, list[str]]:
    """The tables: first cell -> the others."""
    cells = [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in out.splitlines() if line[:1] in "│┃"]
    return {first: rest for first, *rest in cells}


def test_a_real_pair_from_configs_alone(metabridge: Command) -> None:
    code, out, err = metabridge("check", "qwen2_5_vl_3b-sana_1600m-512", "--shapes-only", "connector.taps=[18,-1]", "connector.queries=64")
    table = rows(out)
    assert code == 0 and not err
    assert table["brain.model"][-2:] == ["3,754,622,976", "7.5 GB"]
    assert table["hand.denoiser"][:2] == ["frozen", "bfloat16"] and table["hand.denoiser"][-2:] == ["1,604,462,752", "3.2 GB"]
    assert table["queries"] == ["64"] and table["queries read through the brain"] == ["[64, 2048]"]
    assert table["hidden states at layer 18 of 36, final norm"] == ["[64, 4096]"]
    assert table["conditioning of the hand"] == ["[64, 2304]"] and table["pooled conditioning"] == ["none"]
    assert table["latents of 512 x 512 pixels"] == ["[32, 16, 16]"]
    assert table["one picture of 512 x 512 pixels"] == ["324"]
    trained = table["all trained"][-1]
    assert table["trained weights"] == table["gradients"] == [trained] and table["frozen weights"] == ["11.3 GB"]
    assert "brain Qwen/Qwen2.5-VL-3B-Instruct: configs as public sources have them" in out
    assert "unconfirmed: preprocessor_config.json: min_pixels, max_pixels\n" in out
    assert "run on shapes: everything fits\n" in out


@pytest.mark.parametrize("name", PAIRS)
def test_each_pair_that_ships_fits(name: str, metabridge: Command) -> None:
    recipe = Recipe.load(recipes.find(name))
    assert recipe.hand.name in adapters("hands")
    code, out, err = metabridge("check", name, "--shapes-only")
    assert code == 0 and not err
    assert "run on shapes: everything fits" in out
    for part in (recipe.brain, recipe.hand):
        assert f" {part.options['repo']}: configs as public sources have them" in out
        assert shape(part.options["repo"]) is not None
    first = recipes.find(name).read_text().splitlines()[0]
    assert "not trained: shapes checked only" in first


def test_the_same_numbers_as_with_weights(metabridge: Command, recipe_file: Path) -> None:
    _, real, _ = metabridge("train", recipe_file, "--dry-run")
    code, bare, err = metabridge("check", recipe_file, "--shapes-only")
    assert code == 0 and not err
    told, wanted = rows(bare), rows(real)
    assert {name: told[name] for name in wanted if name != "queries"} == {
        name: cells for name, cells in wanted.items() if name != "queries"
    }
    assert "the configs in that folder" in bare


def write(tree: dict[str, object]) -> Path:
    path = Path("tiny.yaml")
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["connector.taps=37"], "connector.taps: 37 given, but the brain has 36 layers; use 1..36 or -1"),
        (["brain.repo=Qwen/Qwen9-VL"], "Qwen/Qwen9-VL: its shape is not known here; give a folder that holds its configs, or one of: Effi"),
        (
            ["hand.repo=Qwen/Qwen-Image"],
            "Qwen/Qwen-Image: its transformer is QwenImageTransformer2DModel, this hand takes SanaTransformer2D",
        ),
        (["objective.name=epsilon"], "objective.name: epsilon given, but this hand's scheduler predicts flow; set objective.name=flow"),
        (["brain.weights=none"], "brain.weights: 'none' given; it is one of: pretrained, random"),
        (["hand.dtype=int8"], "hand.dtype: 'int8' given; it is one of: "),
        (["connector.queries=200000"], "prompt: too long; 200032 tokens with queries and reply, but this brain reads 128000; shorten it"),
        (
            ["hand.name=z_image", "hand.repo=Tongyi-MAI/Z-Image", "connector.queries=1600"],
            "condition: 1600 tokens given; this hand has positions for 1504",
        ),
    ],
)
def test_what_cannot_fit_is_refused_in_a_line(overrides: list[str], line: str, metabridge: Command) -> None:
    code, _, err = metabridge("check", "qwen2_5_vl_3b-sana_1600m-512", "--shapes-only", *overrides)
    assert code == 2 and err.startswith(f"metabridge: {line}") and err.count("\n") == 1


def edited(folder: Path, to: Path, name: str, **settings: object) -> Path:
    """A copy of a checkpoint's configs with some of them changed."""
    copy = Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors")))
    config = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(config | settings))
    return copy


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        (
            "vae/config.json",
            {
                "decoder_block_types": ["ResBlock"] * 2,
                "decoder_block_out_channels": [8, 8],
                "decoder_layers_per_block": [1, 1],
                "decoder_qkv_multiscales": [[], []],
            },
            "hand: its autoencoder makes [3, 32, 32] of [3, 64, 64]; its config is damaged",
        ),
        (
            "transformer/config.json",
            {"out_channels": 2},
            "hand: its denoiser makes [2, 16, 16] of latents [4, 16, 16]; its config is damaged",
        ),
        (
            "transformer/config.json",
            {"cross_attention_dim": 24},
            "denoiser: the shapes do not fit (a and b must have same reduction dim, but got [5, 16] X [24, 16].); its configs are ",
        ),
    ],
)
def test_parts_that_are_not_of_one_checkpoint(
    name: str, settings: dict[str, object], line: str, metabridge: Command, brain_folder: Path, hand_folder: Path, tmp_path: Path
) -> None:
    hand = edited(hand_folder, tmp_path / "hand", name, **settings)
    code, _, err = metabridge("check", write(recipe_tree(brain_folder, hand)), "--shapes-only")
    assert code == 2 and err.startswith(f"metabridge: {line}") and err.count("\n") == 1


def test_a_model_that_no_class_is_known_for(metabridge: Command, brain_folder: Path, hand_folder: Path, tmp_path: Path) -> None:
    brain = edited(brain_folder, tmp_path / "brain", "config.json", model_type="qwen99")
    code, _, err = metabridge("check", write(recipe_tree(brain, hand_folder)), "--shapes-only")
    assert code == 2 and "model type `qwen99`" in err and err.count("\n") == 1


def test_a_hand_with_a_pooled_width(metabridge: Command, brain_folder: Path) -> None:
    tree = recipe_tree(brain_folder, Path("unused")) | {"hand": {"name": "sdxl", "repo": "stabilityai/stable-diffusion-xl-base-1.0"}}
    code, out, err = metabridge("check", write(tree), "--shapes-only")
    assert code == 0 and not err
    assert rows(out)["pooled conditioning"] == ["[1280]"] and rows(out)["conditioning of the hand"] == ["[5, 2048]"]


def test_a_hand_of_ours_without_weights(metabridge: Command, brain_folder: Path, tmp_path: Path) -> None:
    hand = edited(make_sd_hand(tmp_path / "sd"), tmp_path / "configs", "unet/config.json")
    tree = recipe_tree(brain_folder, hand) | {"hand": {"name": "stable_diffusion", "repo": str(hand)}, "objective": {"distill": 0.5}}
    code, out, err = metabridge("check", write(tree), "--shapes-only")
    assert code == 0 and not err and "distill: 0.5" in out


def test_a_bridge_has_weights(metabridge: Command) -> None:
    code, _, err = metabridge("check", "flatland", "--shapes-only")
    assert code == 0 and not err  # the recipe of that name
    code, _, err = metabridge("check", "runs/flatland", "--shapes-only")
    assert (
        code == 2 and err == "metabridge: --shapes-only: runs/flatland is a bridge, with weights; give a recipe, or leave the option out\n"
    )
