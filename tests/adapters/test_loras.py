"""LoRA files made elsewhere: worn by a hand they draw what they draw in the official pipeline."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hand_families import FAMILIES
from hand_families.family import Family
from safetensors.torch import load_file, save_file
from torch import Tensor

from metabridge.adapters import assemble, load, load_pipeline
from metabridge.adapters.pretrained import PretrainedHand
from metabridge.bridge.artifact import save_bridge
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Objective, Part

RANK = 2
NAMES = ("stable_diffusion", "sana")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: FAMILIES[name].make(tmp_path_factory.mktemp(name) / "hand") for name in NAMES}


def matrices(denoiser: Any, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Of every query and value projection in attention: down [rank, in], up [out, rank]."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tuple(torch.randn(shape, generator=generator) * 0.3 for shape in ((RANK, m.in_features), (m.out_features, RANK)))  # type: ignore[misc]
        for name, m in denoiser.named_modules()
        if name.endswith(("to_q", "to_v"))
    }


def in_diffusers_layout(denoiser: Any, prefix: str, path: Path, seed: int = 0) -> Path:
    state = {}
    for name, (down, up) in matrices(denoiser, seed).items():
        state |= {f"{prefix}.{name}.lora_A.weight": down, f"{prefix}.{name}.lora_B.weight": up}
    save_file(state, path)
    return path


def in_kohyas_layout(denoiser: Any, prefix: str, path: Path, seed: int = 0) -> Path:
    """With an alpha of its own, half the rank."""
    state = {}
    for name, (down, up) in matrices(denoiser, seed).items():
        key = f"lora_{prefix}_{name.replace('.', '_')}"
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(RANK / 2)}
    save_file(state, path)
    return path


def plain(name: str, folder: Path, **options: Any) -> PretrainedHand:
    return load("hands", Part(name, {"repo": str(folder), **FAMILIES[name].load_options, **options}))


def official(family: Family, folder: Path, files: list[tuple[Path, float]]) -> Any:
    pipeline = family.pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for k, (path, _) in enumerate(files):
        pipeline.load_lora_weights(str(path), adapter_name=f"theirs{k}")
    pipeline.set_adapters([f"theirs{k}" for k in range(len(files))], [weight for _, weight in files])
    return pipeline


def parts(hand: PretrainedHand) -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    return latents, torch.tensor([300.0, 700.0]), Condition(torch.randn(2, 5, hand.width, generator=generator), torch.ones(2, 5).long())


pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # which the official loader says of two files

WRITERS: list[tuple[str, str, Callable[..., Path]]] = [
    ("stable_diffusion", "unet", in_diffusers_layout),
    ("stable_diffusion", "unet", in_kohyas_layout),
    ("sana", "transformer", in_diffusers_layout),
]


@pytest.mark.parametrize(("name", "prefix", "write"), WRITERS)
def test_drawing_equals_the_official_pipeline_with_the_same_files(
    name: str, prefix: str, write: Callable[..., Path], folders: dict[str, Path], tmp_path: Path
) -> None:
    family, bare = FAMILIES[name], plain(name, folders[name])
    files = [(write(bare.denoiser, prefix, tmp_path / f"{k}.safetensors", seed=k), weight) for k, weight in enumerate((1.0, 0.4))]
    hand = plain(name, folders[name], loras=[{"path": str(path), "weight": weight} for path, weight in files])
    # the base is the same, what it wears is named beside it, and nothing new is trained
    assert hand.identity == bare.identity | {"loras": hand.identity["loras"]} and not hand.trainable()
    condition = bare.describe(["a red cat", "a dog"])
    assert condition is not None
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    noise = torch.stack([torch.randn(family.latents, generator=torch.Generator().manual_seed(k)) for k in range(2)])
    drawn = hand.draw(condition, [], family.latents, 3, [], generators)
    with torch.no_grad():
        expected = family.draw(official(family, folders[name], files), condition, None, noise, 3, 1.0)
        without = family.draw(official(family, folders[name], files[:1]), condition, None, noise, 3, 1.0)
    assert (drawn - expected).abs().max() <= 1e-4
    assert (drawn - without).abs().max() > 1e-2


def test_what_is_for_a_text_encoder_is_said_to_be_left_out(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = in_kohyas_layout(plain("stable_diffusion", folders["stable_diffusion"]).denoiser, "unet", tmp_path / "style.safetensors")
    text = {f"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_{way}.weight": torch.ones(2, 2) for way in ("down", "up")}
    save_file(load_file(path) | text, path)
    with caplog.at_level(logging.WARNING):
        plain("stable_diffusion", folders["stable_diffusion"], loras=[{"path": str(path)}])
    assert "style.safetensors: 2 of" in caplog.text and "for a text encoder, which a bridge does without; left out" in caplog.text


def test_beside_a_lora_that_is_trained(folders: dict[str, Path], tmp_path: Path) -> None:
    """The file stays as it is and stays on; what is trained is the hand's own LoRA alone, and `untouched` turns only that off."""
    folder = folders["sana"]
    path = in_diffusers_layout(plain("sana", folder).denoiser, "transformer", tmp_path / "style.safetensors")
    told = {"loras": [{"path": str(path), "weight": 0.7}]}
    worn, hand = plain("sana", folder, **told), plain("sana", folder, train="lora", lora_rank=3, **told)
    assert all(3 in p.shape and p.requires_grad for p in hand.trainable()) and hand.trainable()
    assert {n for n, p in hand.named_parameters() if p.requires_grad} == {n for n, _ in hand.named_parameters() if ".default." in n}
    latents, timestep, condition = parts(hand)
    before = worn.predict(latents, timestep, condition).detach()
    assert torch.equal(hand.predict(latents, timestep, condition), before)
    frozen = {n: p.detach().clone() for n, p in hand.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD(hand.trainable(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        hand.loss(latents, condition, Objective(distill=0.5), (1, 2), teacher=condition).sum().backward()
        optimizer.step()
    assert all(torch.equal(p, frozen[n]) for n, p in hand.named_parameters() if n in frozen)
    assert not torch.equal(hand.predict(latents, timestep, condition), before)
    with hand.untouched(), torch.no_grad():
        assert torch.equal(hand.predict(latents, timestep, condition), before)
    assert all(p.requires_grad for p in hand.trainable())


def test_what_does_not_fit_is_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    sana, folder = plain("sana", folders["sana"]), folders["stable_diffusion"]
    for_another = in_diffusers_layout(sana.denoiser, "transformer", tmp_path / "sana.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    wide = tmp_path / "wide.safetensors"
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{name}.lora_A.weight": torch.ones(2, 640), f"{name}.lora_B.weight": torch.ones(640, 2)}, wide)
    for loras, line in (
        ([{"path": str(for_another)}], r"sana.safetensors: .*it needs a LoRA made for StableDiffusion"),
        ([{"path": str(wide)}], r"wide.safetensors: does not fit this hand \(.*\); it needs a LoRA made for StableDiffusion"),
        ([{"path": str(broken)}], r"broken.safetensors: cannot be read"),
        ([{"path": "none.safetensors"}], "hand.loras: none.safetensors: no such file"),
        ([{"path": str(wide), "wieght": 1}], "hand.loras.0.wieght: no such setting; did you mean weight?"),
        ([{"path": str(wide), "weight": "half"}], "hand.loras.0.weight: 'half' given; it is a number"),
        (["style.safetensors"], "hand.loras.0: 'style.safetensors' given; give a mapping with a path"),
        ("style.safetensors", "hand.loras: 'style.safetensors' given; give a list"),
        (3, "hand.loras: 3 given; give a list"),
        ({}, "hand.loras: {} given; give a list"),
        ([{"path": None}], "hand.loras.0: {'path': None} given; give a mapping with a path"),
        ([{"path": str(wide), "weight": float("nan")}], "hand.loras.0.weight: nan given; it is a number"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            plain("stable_diffusion", folder, loras=loras)
        assert "\n" not in str(caught.value)


def test_an_artifact_finds_its_files_from_anywhere(
    tiny_recipe: Recipe, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    in_diffusers_layout(plain("sana", folders["sana"]).denoiser, "transformer", Path("style.safetensors"))
    worn = Part("sana", {**tiny_recipe.hand.options, "loras": [{"path": "style.safetensors", "weight": 0.5}]})
    recipe = dataclasses.replace(tiny_recipe, hand=worn)
    bridge = assemble(recipe)
    save_bridge(bridge, tmp_path / "run" / "bridge", recipe, {})
    assert recipe.hand.options["loras"] == [{"path": "style.safetensors", "weight": 0.5}]
    monkeypatch.chdir(tmp_path)
    loaded = load_pipeline(tmp_path / "run").bridge
    with torch.no_grad():
        assert torch.equal(loaded.hand.predict(*parts(loaded.hand)), bridge.hand.predict(*parts(bridge.hand)))


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_changes_no_gradient(name: str, folders: dict[str, Path]) -> None:
    gradients = []
    for told in ({}, {"gradient_checkpointing": True}):
        hand = plain(name, folders[name], **told)
        latents, _, condition = parts(hand)
        embeds = condition.embeds.clone().requires_grad_()
        hand.loss(latents, dataclasses.replace(condition, embeds=embeds), Objective(), (1, 2)).sum().backward()
        assert embeds.grad is not None and all(p.grad is None for p in hand.parameters())
        gradients.append(embeds.grad)
    assert hand.denoiser.is_gradient_checkpointing
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-6


def test_switches_are_true_or_false(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"hand.compile: 'yes' given; it is true or false"):
        plain("sana", folders["sana"], compile="yes")
    with pytest.raises(UserError, match=r"hand.compil: no such option of hand sana; did you mean compile\?"):
        plain("sana", folders["sana"], compil=True)


@pytest.mark.parametrize("name", NAMES)
def test_tiles_are_for_large_pictures_alone(name: str, folders: dict[str, Path]) -> None:
    """One that fits into a tile, as here Sana's, comes out as ever; one that does not, as Stable Diffusion's, is put together."""
    bare, hand = plain(name, folders[name]), plain(name, folders[name], vae_tiling=True)
    latents, *_ = parts(bare)
    whole, tiled = bare.decode(latents), hand.decode(latents)
    assert whole.shape == tiled.shape and torch.equal(whole, tiled) == (name == "sana")
    assert hand.vae.use_tiling and not bare.vae.use_tiling


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own compiler imports it
def test_a_compiled_hand_predicts_the_same(folders: dict[str, Path]) -> None:
    bare, hand = plain("sana", folders["sana"]), plain("sana", folders["sana"], compile=True)
    assert hand.denoiser._compiled_call_impl is not None and bare.state_dict().keys() == hand.state_dict().keys()
    with torch.no_grad():
        assert (hand.predict(*parts(hand)) - bare.predict(*parts(bare))).abs().max() <= 1e-5
