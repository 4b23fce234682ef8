"""What is trained of a hand, by LoRA or as a whole: saved with the bridge, loaded back exactly, and nothing else moved."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hand_families import FAMILIES
from torch import Tensor

from metabridge.adapters import assemble, load_pipeline
from metabridge.adapters.pretrained import PretrainedHand
from metabridge.bridge.artifact import content_hash, read_artifact, save_bridge
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Objective, Part
from metabridge.training.plan import memory
from tests.adapters.test_loras import in_diffusers_layout

FULL = ("sana", "stable_diffusion")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def folder(name: str, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    if name not in folders:
        folders[name] = FAMILIES[name].make(tmp_path_factory.mktemp(name) / "hand")
    return folders[name]


def recipe_of(tiny_recipe: Recipe, name: str, folder: Path, distill: float = 0.0, **options: Any) -> Recipe:
    family = FAMILIES[name]
    hand = Part(family.load.__module__.rpartition(".")[2], {"repo": str(folder), **family.load_options, **options})
    return dataclasses.replace(tiny_recipe, hand=hand, objective=Objective(distill=distill))


def step(bridge: Bridge, name: str, teacher: Condition | None = None, lr: float = 0.1) -> None:
    """Two updates from fixed rows; of a LoRA the first moves one half."""
    optimizer = torch.optim.SGD(bridge.trained().values(), lr=lr)
    latents = torch.randn(2, *FAMILIES[name].latents, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        optimizer.zero_grad()
        condition = bridge.condition(bridge.brain.collate(rows()))
        loss = bridge.hand.loss(latents, condition, bridge.objective, (1, 2), None if teacher is None else teacher.expand(2))
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(bridge.trained().values(), 1.0)
        optimizer.step()


def rows() -> list[Any]:
    from metabridge.bridge.interfaces import Example

    return [Example("a red cat"), Example("a dog")]


def drawn(bridge: Bridge, name: str, native: bool = False) -> Tensor:
    pipeline = BridgePipeline(bridge)
    draw = pipeline.draw_native if native else pipeline
    return draw("a red cat", seeds=[1], num_inference_steps=2, height=64, width=64, output_type="latent").images[0]  # type: ignore[operator]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_lora_of_every_family_comes_back_exactly(name: str, folder: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_recipe, name, folder, train="lora", lora_rank=2)
    bridge = assemble(recipe)
    frozen, before = content_hash(bridge.frozen()), drawn(bridge, name)
    step(bridge, name)
    assert content_hash(bridge.frozen()) == frozen
    after = drawn(bridge, name)
    assert not torch.equal(after, before)
    save_bridge(bridge, tmp_path / "bridge", recipe, {})
    loaded = load_pipeline(tmp_path).bridge
    assert content_hash(loaded.trained()) == content_hash(bridge.trained()) and content_hash(loaded.frozen()) == frozen
    assert torch.equal(drawn(loaded, name), after)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
@pytest.mark.parametrize("name", ["sana"])
def test_a_trained_lora_beside_one_made_elsewhere_comes_back_exactly(name: str, folder: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    style = in_diffusers_layout(FAMILIES[name].load(str(folder)).denoiser, "transformer", tmp_path / "style.safetensors")
    recipe = recipe_of(tiny_recipe, name, folder, train="lora", loras=[{"path": str(style), "weight": 0.5}])
    bridge = assemble(recipe)
    step(bridge, name)
    save_bridge(bridge, tmp_path / "run" / "bridge", recipe, {})
    assert not any("lora0" in key for key in read_artifact(tmp_path / "run/bridge").tensors)  # the file stays a file
    assert torch.equal(drawn(load_pipeline(tmp_path / "run").bridge, name), drawn(bridge, name))
    plain = assemble(recipe_of(tiny_recipe, name, folder, train="lora"))
    from metabridge.bridge.artifact import apply

    apply(read_artifact(tmp_path / "run/bridge"), plain)  # and what was trained can do without it
    assert not torch.equal(drawn(plain, name), drawn(bridge, name))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FULL)
def test_a_whole_hand_is_trained_and_comes_back_exactly(name: str, dtype: str, folder: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    plain = assemble(recipe_of(tiny_recipe, name, folder, dtype=dtype))
    recipe = recipe_of(tiny_recipe, name, folder, distill=0.5, dtype=dtype, train="full")
    bridge = assemble(recipe)
    assert bridge.hand.identity == plain.hand.identity  # the base is the hand as it came
    denoiser = {f"hand.denoiser.{key}" for key, _ in bridge.hand.denoiser.named_parameters()}
    assert {key for key in bridge.trained() if key.startswith("hand.")} == denoiser
    assert {tensor.dtype for tensor in bridge.trained().values()} == {torch.float32}
    assert {p.dtype for p in bridge.hand.vae.parameters()} == {getattr(torch, dtype)}
    native = drawn(plain, name, native=True)
    frozen, base = content_hash(bridge.frozen()), content_hash(plain.hand.state_dict())
    step(bridge, name, teacher=bridge.hand.describe(["a red cat"]))
    moved = [
        not torch.equal(tensor, plain.hand.state_dict()[key[5:]].float()) for key, tensor in bridge.trained().items() if key in denoiser
    ]
    assert sum(moved) > 0.9 * len(moved) and content_hash(bridge.frozen()) == frozen
    assert torch.equal(drawn(bridge, name, native=True), native)  # the baseline is the hand as it came

    save_bridge(bridge, tmp_path / "bridge", recipe, {})
    size = (tmp_path / "bridge/bridge.safetensors").stat().st_size
    assert size > 4 * sum(parameter.numel() for parameter in bridge.hand.denoiser.parameters())
    assert "and the hand's denoiser" in (tmp_path / "bridge/README.md").read_text()
    loaded = load_pipeline(tmp_path).bridge
    assert content_hash(loaded.trained()) == content_hash(bridge.trained())
    assert torch.equal(drawn(loaded, name), drawn(bridge, name)) and not torch.equal(drawn(loaded, name), drawn(plain, name))
    assert torch.equal(drawn(loaded, name, native=True), native)
    assert content_hash(plain.hand.state_dict()) == base


@pytest.mark.parametrize("name", FULL)
def test_the_teacher_of_a_whole_hand_is_the_hand_as_it_came(name: str, folder: Path, tiny_recipe: Recipe) -> None:
    """A student that sees the teacher's own condition has nothing to learn at first, and something once it has moved."""
    bridge = assemble(recipe_of(tiny_recipe, name, folder, distill=1.0, train="full"))
    hand, latents = bridge.hand, torch.randn(1, *FAMILIES[name].latents)
    native = hand.describe(["a red cat"])
    assert isinstance(hand, PretrainedHand) and native is not None and not hand._original

    def loss() -> float:
        return float(hand.loss(latents, native, bridge.objective, (1,), teacher=native).detach())

    assert loss() == 0.0 and hand._original
    with torch.no_grad():
        for parameter in hand.trainable():
            parameter.mul_(1.1)
    trained = content_hash(hand.state_dict())
    assert loss() > 1e-4
    assert content_hash(hand.state_dict()) == trained and not hand._original[0].training
    assert not any(parameter.requires_grad for parameter in hand._original[0].parameters())


@pytest.mark.parametrize("name", FULL)
def test_the_plan_counts_the_second_copy(name: str, folder: Path, tiny_recipe: Recipe) -> None:
    told = "the hand as it came, to learn from"
    recipes = {distill: recipe_of(tiny_recipe, name, folder, distill=distill, dtype="bfloat16", train="full") for distill in (0.0, 0.5)}
    bridge = assemble(recipes[0.5])
    numbers = sum(parameter.numel() for parameter in bridge.hand.denoiser.parameters())
    assert memory(recipes[0.5], bridge)[told] == 2 * numbers
    assert told not in memory(recipes[0.0], bridge)
    assert memory(recipes[0.5], bridge)["AdamW"] >= 8 * numbers


@pytest.mark.parametrize("name", ["qwen_image", "sd3", "z_image", "flux2"])
def test_all_that_is_trained_gets_a_gradient(name: str, folder: Path, tiny_recipe: Recipe) -> None:
    """A parameter without one stops training on several processes."""
    bridge = assemble(recipe_of(tiny_recipe, name, folder, train="full"))
    step(bridge, name)
    assert not [key for key, tensor in bridge.trained().items() if tensor.grad is None]


@pytest.mark.parametrize("name", FULL)
def test_checkpointing_changes_no_gradient_of_a_whole_hand(name: str, folder: Path, tiny_recipe: Recipe) -> None:
    gradients = []
    for told in ({}, {"gradient_checkpointing": True}):
        bridge = assemble(recipe_of(tiny_recipe, name, folder, train="full", **told))
        step(bridge, name, lr=0.0)
        gradients.append(torch.cat([tensor.grad.flatten() for tensor in bridge.trained().values() if tensor.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[0].norm()


@pytest.mark.parametrize("name", ["sana"])
def test_settings_that_do_not_go_together_are_one_line(name: str, folder: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    style = in_diffusers_layout(FAMILIES[name].load(str(folder)).denoiser, "transformer", tmp_path / "style.safetensors")
    for options, line in (
        ({"train": "full", "lora_rank": 2}, "hand.lora_rank: 2 given; it is 1 at least, and has an effect with hand.train=lora alone"),
        ({"train": "ful"}, "hand.train: 'ful' given; it is one of: none, lora, full"),
        ({"train": "full", "loras": [{"path": str(style)}]}, "hand.loras: they were made for the hand as it came"),
    ):
        with pytest.raises(UserError, match=line):
            assemble(recipe_of(tiny_recipe, name, folder, **options))
