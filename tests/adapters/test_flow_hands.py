"""What single families of flow hands refuse, and where they differ from the contract of all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hand_families import FAMILIES
from hand_families.family import HEIGHT, WIDTH
from torch import Tensor

from metabridge.adapters.hands import flux2, lumina2, qwen_image
from metabridge.adapters.packing import pack, unpack
from metabridge.adapters.pretrained import PretrainedHand
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition
from metabridge.bridge.sampling import guide

GUIDANCE_TOLD = ("flux", "flux2")


def open_hand(name: str, folder: Path, **options: Any) -> PretrainedHand:
    return FAMILIES[name].load(str(FAMILIES[name].make(folder)), **options)


def condition(hand: PretrainedHand, length: int) -> Condition:
    generator = torch.Generator().manual_seed(length)
    pooled = None if hand.pooled_width is None else torch.randn(1, hand.pooled_width, generator=generator)
    embeds = torch.randn(1, length, hand.width, generator=generator)
    return Condition(embeds, torch.ones(1, length, dtype=torch.long), pooled)


def noise(name: str) -> Tensor:
    return torch.randn(1, *FAMILIES[name].latents, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "longest"), [("lumina2", 299), ("z_image", 96), ("qwen_image", 4092)])
def test_more_tokens_than_positions(name: str, longest: int, tmp_path: Path) -> None:
    hand, timestep = open_hand(name, tmp_path / "hand"), torch.tensor([500.0])
    with torch.no_grad():
        assert hand.predict(noise(name), timestep, condition(hand, longest)).isfinite().all()
    line = f"^condition: {longest + 1} tokens given; this hand has positions for {longest}, lower connector.queries$"
    with pytest.raises(UserError, match=line):
        hand.predict(noise(name), timestep, condition(hand, longest + 1))


@pytest.mark.parametrize("name", ["lumina2", "z_image"])
def test_a_picture_larger_than_the_positions(name: str, tmp_path: Path) -> None:
    hand = open_hand(name, tmp_path / "hand")
    assert hand.latent_shape(64, 128) == (4, 16, 32)
    with pytest.raises(UserError, match=r"^height, width: 72x64 given; this hand has positions for 64x128$"):
        hand.latent_shape(72, 64)
    with torch.no_grad():
        assert hand.predict(torch.randn(1, 4, 16, 32), torch.tensor([500.0]), condition(hand, 5)).isfinite().all()


def test_another_familys_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = str(FAMILIES["z_image"].make(tmp_path / "hand"))
    line = "its transformer is ZImageTransformer2DModel, this hand takes Lumina2Transformer2DModel; see metabridge ls hands for another"
    with pytest.raises(UserError, match=line):
        FAMILIES["lumina2"].load(folder)
    with pytest.raises(UserError, match="it has no unet, this hand takes UNet2DConditionModel"):
        FAMILIES["stable_diffusion"].load(folder)


def test_a_pipeline_by_its_former_name_and_by_none_that_is_known(tmp_path: Path) -> None:
    folder = FAMILIES["lumina2"].make(tmp_path / "hand")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "Lumina2Text2ImgPipeline"}))
    assert lumina2.load(str(folder)).describe(["a cat"]) is not None
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "Lumina9Pipeline"}))
    with pytest.raises(UserError, match="it is for Lumina9Pipeline, which the installed diffusers does not have"):
        lumina2.load(str(folder))


@pytest.mark.parametrize(("name", "taken"), [("flux", 24), ("flux2", 24), ("qwen_image", 24), ("lumina2", 96), ("z_image", 96)])
def test_a_checkpoint_for_inpainting_is_refused(name: str, taken: int, tmp_path: Path) -> None:
    folder = FAMILIES[name].make(tmp_path / "hand", text_encoder=False)
    denoiser = diffusers.AutoModel.from_pretrained(str(folder), subfolder="transformer")
    type(denoiser).from_config({**denoiser.config, "in_channels": 96}).save_pretrained(folder / "transformer")
    with pytest.raises(UserError, match=rf"takes {taken} channels, its autoencoder gives 4; .* give one for text to image$"):
        FAMILIES[name].load(str(folder))


def test_a_checkpoint_for_layers_is_refused(tmp_path: Path) -> None:
    folder = FAMILIES["qwen_image"].make(tmp_path / "hand", text_encoder=False)
    denoiser = diffusers.AutoModel.from_pretrained(str(folder), subfolder="transformer")
    type(denoiser).from_config({**denoiser.config, "use_additional_t_cond": True}).save_pretrained(folder / "transformer")
    with pytest.raises(UserError, match="draws a picture as layers, which is not offered; give a checkpoint for text to image"):
        qwen_image.load(str(folder))


@pytest.mark.parametrize("name", GUIDANCE_TOLD)
def test_the_distilled_guidance_is_what_the_official_pipeline_tells(name: str, tmp_path: Path) -> None:
    family, folder = FAMILIES[name], FAMILIES[name].make(tmp_path / "hand")
    hand = family.load(str(folder), distilled_guidance=7.0, **family.load_options)
    assert hand.default_guidance == 1.0
    official = family.open(folder) if family.open else family.pipeline.from_pretrained(folder)
    told, latents = condition(hand, 5), noise(name)
    packed = latents if name == "flux2" else pack(latents)
    pooled = {} if told.pooled is None else {"pooled_prompt_embeds": told.pooled}
    common = {"prompt_embeds": told.embeds, "height": HEIGHT, "width": WIDTH, "num_inference_steps": 2, "output_type": "latent"}
    tokens = official(**common, **pooled, latents=packed, guidance_scale=7.0).images
    expected = tokens.transpose(1, 2).reshape(latents.shape) if name == "flux2" else unpack(tokens, *latents.shape[-2:])
    generators = [torch.Generator().manual_seed(0)]
    drawn = hand.draw(told, [], family.latents, 2, [], generators)
    assert (drawn - expected).abs().max() <= 1e-5
    usual = family.load(str(folder)).draw(told, [], family.latents, 2, [], [torch.Generator().manual_seed(0)])
    assert (drawn - usual).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["flux_schnell", "flux2_klein"])
def test_no_distilled_guidance_where_none_is_taken(name: str, tmp_path: Path) -> None:
    line = r"^hand.distilled_guidance: 3.5 given; this checkpoint is told none, leave it out$"
    with pytest.raises(UserError, match=line):
        open_hand(name, tmp_path / "hand", distilled_guidance=3.5)


def rows(x: Tensor) -> Tensor:
    return x.norm(dim=-1)


def tokens(x: Tensor) -> Tensor:
    return pack(x).norm(dim=-1)


@pytest.mark.parametrize(("name", "lengths"), [("lumina2", rows), ("qwen_image", tokens)])
def test_guidance_keeps_the_length_of_the_full_prediction(name: str, lengths: Any, tmp_path: Path) -> None:
    hand = open_hand(name, tmp_path / "hand")
    predictions = torch.randn(3, 2, *FAMILIES[name].latents).unbind(0)
    guided, plain = hand.guide(predictions, [2.0, 5.0]), guide(predictions, [2.0, 5.0])
    assert (lengths(guided) - lengths(predictions[-1])).abs().max() <= 1e-5
    cosine = torch.nn.functional.cosine_similarity(guided.flatten(1), plain.flatten(1))
    assert bool((cosine > 0.9).all()) and not torch.allclose(guided, plain)


def test_the_shift_of_lumina_does_not_grow_with_the_picture(tmp_path: Path) -> None:
    """The official pipeline counts channels for tokens; FLUX.2's shift depends on the picture and on the number of steps."""
    lumina, flux = open_hand("lumina2", tmp_path / "lumina2"), open_hand("flux2", tmp_path / "flux2")
    dynamic = FAMILIES["lumina2"].schedulers["dynamic"]
    assert isinstance(lumina, lumina2.Lumina2Hand) and isinstance(flux, flux2.Flux2Hand)
    lumina.scheduler = flux.scheduler = dynamic
    cpu = torch.device("cpu")
    assert torch.equal(lumina.schedule(4, (4, 16, 16), cpu).sigmas, lumina.schedule(4, (4, 64, 64), cpu).sigmas)
    assert not torch.equal(flux.schedule(4, (16, 16, 16), cpu).sigmas, flux.schedule(4, (16, 64, 64), cpu).sigmas)
    assert flux.schedule(4, (16, 16, 16), cpu).timesteps[0] == 1000.0


def test_the_null_of_another_length_needs_a_mask(tmp_path: Path) -> None:
    """FLUX attends to all that it is given; Qwen-Image has a mask."""
    for name, masked in (("flux", False), ("flux2", False), ("qwen_image", True)):
        hand = open_hand(name, tmp_path / name)
        ragged = replace(condition(hand, 5), mask=torch.tensor([[1, 1, 1, 1, 0]]))
        generators = [torch.Generator().manual_seed(0)]
        assert hand.masked == masked
        if masked:
            assert hand.draw(ragged, [], FAMILIES[name].latents, 1, [], generators).isfinite().all()
            continue
        with pytest.raises(ValueError, match="this denoiser has no mask"):
            hand.draw(ragged, [], FAMILIES[name].latents, 1, [], generators)
