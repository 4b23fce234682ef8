"""Shapes without weights: the configs that ship, counted against what is published, and the same modules as with weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from metabridge.adapters import assemble, load, skeleton
from metabridge.adapters.brains.auto import AutoBrain
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Part
from tests.tiny import make_sd_hand, recipe_tree

# Published counts, as far as they are published: an int is exact, a float rounded to the digits that it has.
KL4, KL16, DC, WAN = 83_653_863, 83.8e6, 312e6, 127e6
COUNTS: dict[str, dict[str, float]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": {"config.json": 3.75e9},
    "Qwen/Qwen2.5-VL-7B-Instruct": {"config.json": 8.29e9},
    "Qwen/Qwen3-VL-4B-Instruct": {"config.json": 4.44e9},
    "Qwen/Qwen3-VL-8B-Instruct": {"config.json": 8.77e9},
    "OpenGVLab/InternVL3-2B-hf": {"config.json": 2.09e9},
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": {"config.json": 0.894e9},
    "Efficient-Large-Model/Sana_600M_512px_diffusers": {"transformer": 0.59e9, "vae": DC},
    "Efficient-Large-Model/Sana_600M_1024px_diffusers": {"transformer": 0.59e9, "vae": DC},
    "Efficient-Large-Model/Sana_1600M_512px_diffusers": {"transformer": 1.604e9, "vae": DC},
    "Efficient-Large-Model/Sana_1600M_1024px_diffusers": {"transformer": 1.604e9, "vae": DC},
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {"unet": 859_520_964, "vae": KL4},
    "stabilityai/stable-diffusion-xl-base-1.0": {"unet": 2_567_463_684, "vae": KL4},
    "stabilityai/stable-diffusion-3.5-medium": {"transformer": 2.24e9, "vae": KL16},
    "black-forest-labs/FLUX.1-dev": {"transformer": 11.90e9, "vae": KL16},
    "black-forest-labs/FLUX.1-schnell": {"transformer": 11.89e9, "vae": KL16},
    "Qwen/Qwen-Image": {"transformer": 20.43e9, "vae": WAN},
    "Tongyi-MAI/Z-Image": {"transformer": 6.15e9, "vae": KL16},
    "Tongyi-MAI/Z-Image-Turbo": {"transformer": 6.15e9, "vae": KL16},
}


def numel(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def models(repo: str) -> dict[str, nn.Module]:
    with skeleton.without_weights():
        folder = skeleton.configs_of(repo)
        parts = skeleton.shape(repo).parts
        if "config.json" in parts:
            config = transformers.AutoConfig.from_pretrained(folder)
            return {"config.json": skeleton.model_of_transformers(transformers.AutoModelForImageTextToText, config, torch.bfloat16)}
        named = {name: getattr(diffusers, parts[f"{name}/config.json"]["_class_name"]) for name in COUNTS[repo]}
        return {name: skeleton.model_of_diffusers(found, folder, name, torch.bfloat16) for name, found in named.items()}


@pytest.mark.parametrize("repo", skeleton.shapes())
def test_counts_are_the_published_ones(repo: str) -> None:
    for name, model in models(repo).items():
        published, counted = COUNTS[repo][name], numel(model)
        assert all(parameter.is_meta and parameter.dtype == torch.bfloat16 for parameter in model.parameters())
        assert counted == published if isinstance(published, int) else counted == pytest.approx(published, rel=3e-3)


@pytest.mark.parametrize("path", sorted(skeleton.SHAPES.iterdir()), ids=lambda path: path.stem)
def test_each_file_says_where_it_is_from(path: Path) -> None:
    tree = json.loads(path.read_text())
    assert set(tree) == {"repo", "source", "confirmed", "unconfirmed", "parts"}
    assert path.name == f"{tree['repo'].replace('/', '--')}.json"
    assert tree["source"] and all(url.startswith("https://") for url in tree["source"])
    assert tree["confirmed"] == (not tree["unconfirmed"])
    assert all(line.split(":")[0].split(" ")[0] in tree["parts"] for line in tree["unconfirmed"])
    if "model_index.json" in tree["parts"]:
        for name, told in tree["parts"]["model_index.json"].items():
            for config in ("config.json", "scheduler_config.json"):
                if part := tree["parts"].get(f"{name}/{config}"):
                    assert part["_class_name"] == told[1]


def without_tensors(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*", "text_encoder*")))


def described(module: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("kind", ["sana", "stable_diffusion"])
@pytest.mark.parametrize(
    "options", [{}, {"train": "lora", "lora_rank": 2, "weights": "random", "dtype": "bfloat16"}], ids=["frozen", "lora"]
)
def test_a_folder_of_configs_gives_the_hand_that_weights_give(
    kind: str, options: dict[str, object], hand_folder: Path, tmp_path: Path
) -> None:
    folder = hand_folder if kind == "sana" else make_sd_hand(tmp_path / "hand")
    real = load("hands", Part(kind, {"repo": str(folder), **options}))
    with skeleton.without_weights():
        bare = load("hands", Part(kind, {"repo": str(without_tensors(folder, tmp_path / "configs")), **options}))
    assert described(bare) == described(real)
    assert (bare.width, bare.pooled_width, bare.default_size) == (real.width, real.pooled_width, real.default_size)
    assert bare.prediction == real.prediction and len(bare.trainable()) == len(real.trainable())
    assert bare.denoiser.device.type == bare.vae.device.type == "meta"


def test_a_bridge_of_configs_alone(tiny_recipe: Recipe, brain_folder: Path, hand_folder: Path, tmp_path: Path) -> None:
    real = assemble(tiny_recipe)
    folders = without_tensors(brain_folder, tmp_path / "brain"), without_tensors(hand_folder, tmp_path / "hand")
    with skeleton.without_weights():
        bare = assemble(Recipe.from_dict(recipe_tree(*folders)), "meta", scale=1.0)
    assert described(bare) == described(real)
    assert all(tensor.is_meta for tensor in bare.state_dict().values())
    assert not skeleton.active()


def test_an_unknown_id_is_told_which_are_known() -> None:
    with skeleton.without_weights(), pytest.raises(UserError) as refused:
        load("hands", Part("sana", {"repo": "acme/sana"}))
    assert str(refused.value) == (
        f"acme/sana: its shape is not known here; give a folder that holds its configs, or one of: {', '.join(skeleton.shapes())}"
    )


def test_another_pipelines_shape_is_refused() -> None:
    with skeleton.without_weights(), pytest.raises(UserError, match="its transformer is FluxTransformer2DModel, this hand takes Sana"):
        load("hands", Part("sana", {"repo": "black-forest-labs/FLUX.1-dev"}))


@pytest.mark.parametrize("side", [32, 48, 56, 200])
def test_picture_tokens_are_what_the_processor_makes(side: int, brain_folder: Path, tmp_path: Path) -> None:
    brain: AutoBrain = load("brains", Part("auto", {"repo": str(brain_folder)}))
    inputs = brain.collate([Example("a cat", (Image.new("RGB", (side, side)),))])
    told = int((inputs["input_ids"] == brain.model.config.image_token_id).sum())
    bare = without_tensors(brain_folder, tmp_path / "configs")
    assert skeleton.picture_tokens(str(brain_folder), side, side) == skeleton.picture_tokens(str(bare), side, side) == told


def test_picture_tokens_of_known_checkpoints() -> None:
    """512 pixels: 18 merged patches of 28 a side; 16 of 32; a tile of 448 and its two marks; 27 x 27, and 54 rows of 54 and a newline."""
    known = {
        "Qwen/Qwen2.5-VL-3B-Instruct": 18 * 18,
        "Qwen/Qwen3-VL-4B-Instruct": 16 * 16,
        "OpenGVLab/InternVL3-2B-hf": 256 + 2,
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": 27 * 27 + 54 * 55,
    }
    with skeleton.without_weights():
        assert {repo: skeleton.picture_tokens(skeleton.configs_of(repo), 512, 512) for repo in known} == known


def test_a_brain_of_text_alone_has_no_picture_tokens(causal_folder: Path) -> None:
    assert skeleton.picture_tokens(str(causal_folder), 512, 512) is None
