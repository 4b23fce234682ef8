"""What single families of hands refuse, and what the contract of all does not see: pictures that are no square, few steps, told numbers."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hand_families import FAMILIES
from torch import Tensor

from metabridge.adapters.hands import pixart, sana, sana_sprint, sdxl, stable_diffusion
from metabridge.adapters.pretrained import PretrainedHand
from metabridge.adapters.schedules import prediction_of
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition

SEEDS = (100, 101)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = ("auraflow", "chroma", "pixart", "pixart_alpha", "sana_sprint", "sd3", "sd35", "sdxl", "stable_diffusion")
    return {name: FAMILIES[name].make(tmp_path_factory.mktemp(name) / "hand") for name in names}


def open_official(name: str, folder: Path) -> Any:
    family = FAMILIES[name]
    official = family.open(folder) if family.open else family.pipeline.from_pretrained(folder)
    official.set_progress_bar_config(disable=True)
    return official


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators()])


def condition(hand: PretrainedHand, length: int = 7) -> Condition:
    generator = torch.Generator().manual_seed(length)
    pooled = None if hand.pooled_width is None else torch.randn(2, hand.pooled_width, generator=generator)
    return Condition(torch.randn(2, length, hand.width, generator=generator), torch.ones(2, length, dtype=torch.long), pooled)


def rewritten(folder: Path, to: Path, part: str, **changed: Any) -> Path:
    """A copy of a checkpoint with a denoiser of another config."""
    shutil.copytree(folder, to)
    model = diffusers.AutoModel.from_pretrained(str(to), subfolder=part)
    type(model).from_config({**model.config, **changed}).save_pretrained(to / part)
    return to


@pytest.mark.parametrize("name", ["auraflow", "chroma", "pixart_alpha", "sd3", "sdxl"])
def test_a_picture_that_is_no_square(name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes that a denoiser is told come in the right order, and tokens in the right places."""
    family, hand = FAMILIES[name], FAMILIES[name].load(str(folders[name]))
    monkeypatch.setattr(importlib.import_module(family.draw.__module__), "HEIGHT", 48)
    shape, told = hand.latent_shape(48, 64), condition(hand)
    with torch.no_grad():
        expected = family.draw(open_official(name, folders[name]), told, None, noise(shape), 3, 1.0)
    assert shape == (4, 12, 16)
    assert (hand.draw(told, [], shape, 3, [], generators()) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["auraflow", "sd3"])
def test_a_picture_larger_than_the_positions(name: str, folders: dict[str, Path]) -> None:
    hand = FAMILIES[name].load(str(folders[name]))
    assert hand.latent_shape(96, 64) == (4, 24, 16)
    with pytest.raises(UserError, match=r"^height, width: 104x64 given; this hand has positions for 96x96$"):
        hand.latent_shape(104, 64)
    with torch.no_grad():
        assert hand.predict(torch.randn(2, 4, 24, 24), torch.tensor([300.0, 700.0]), condition(hand)).isfinite().all()


def test_pixart_reads_as_many_tokens_as_its_pipelines(folders: dict[str, Path]) -> None:
    for name, length in (("pixart", 300), ("pixart_alpha", 120)):
        native = pixart.load(str(folders[name])).native
        assert isinstance(native, pixart.PixArtNative) and native.max_sequence_length == length


def test_zeros_do_not_count_for_the_scale_of_a_condition(folders: dict[str, Path]) -> None:
    """SD 3.5 without T5 is given zeros in its place, which are attended to."""
    hand = FAMILIES["sd35"].load(str(folders["sd35"]))
    told = hand.describe(["a red cat"])
    assert told is not None and bool((told.embeds == 0).all(dim=-1).any()) and bool(told.mask.all())
    clips = hand.describe(["a red square", "two dogs"]).embeds[:, :16]  # type: ignore[union-attr]
    assert hand.condition_rms() == pytest.approx(float(clips.square().mean().sqrt()), rel=0.2)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sana_sprint_in_few_steps(steps: int, folders: dict[str, Path]) -> None:
    family, hand = FAMILIES["sana_sprint"], sana_sprint.load(str(folders["sana_sprint"]))
    told = condition(hand)
    with torch.no_grad():
        expected = family.draw(open_official("sana_sprint", folders["sana_sprint"]), told, None, noise(family.latents), steps, 1.0)
    assert (hand.draw(told, [], family.latents, steps, [], generators()) - expected).abs().max() <= 1e-4
    assert (hand.default_steps, hand.default_guidance) == (2, 1.0)


def test_sana_sprint_is_told_its_guidance(folders: dict[str, Path]) -> None:
    latents, timestep = torch.randn(2, 4, 16, 16), torch.tensor([300.0, 700.0])
    usual, same, other = (sana_sprint.load(str(folders["sana_sprint"]), distilled_guidance=told) for told in (None, 4.5, 7.0))
    told = condition(usual)
    with torch.no_grad():
        first, second, third = (hand.predict(latents, timestep, told) for hand in (usual, same, other))
    assert torch.equal(first, second) and (first - third).abs().max() > 1e-3


def test_sana_and_sana_sprint_send_each_others_checkpoints_on(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a SanaSprintPipeline, distilled to be told its guidance; hand sana_sprint draws with it"):
        sana.load(str(folders["sana_sprint"]))
    folder = FAMILIES["sana"].make(tmp_path / "hand")
    with pytest.raises(UserError, match="a SanaPipeline with FlowMatchEulerDiscreteScheduler; hand sana_sprint is for SCMScheduler"):
        sana_sprint.load(str(folder))


def test_stable_diffusion_whose_unet_projects_the_text(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = rewritten(folders["stable_diffusion"], tmp_path / "hand", "unet", encoder_hid_dim=24)
    hand = stable_diffusion.load(str(folder))
    assert hand.width == 24
    with torch.no_grad():
        assert hand.predict(torch.randn(2, 4, 16, 16), torch.tensor([300, 700]), condition(hand)).isfinite().all()


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"in_channels": 9}, "its UNet2DConditionModel takes 9 channels, its autoencoder gives 4"),
        ({"time_cond_proj_dim": 8}, r"whose UNet wants more than a text \(time_cond_proj_dim: 8\)"),
        ({"encoder_hid_dim": 8}, r"whose UNet wants more than a text \(encoder_hid_dim_type: text_proj\)"),
        ({"addition_embed_type": None}, "a StableDiffusionXLPipeline; hand sdxl is for SDXL's base"),
    ],
)
def test_sdxl_refuses_other_unets(changed: dict[str, Any], line: str, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        sdxl.load(str(rewritten(folders["sdxl"], tmp_path / "hand", "unet", **changed)))


def test_the_refiner_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    index = shutil.copytree(folders["sdxl"], tmp_path / "hand") / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "StableDiffusionXLImg2ImgPipeline"}))
    with pytest.raises(UserError, match=r"a StableDiffusionXLImg2ImgPipeline; hand sdxl is for SDXL's base, .* not for the refiner"):
        sdxl.load(str(tmp_path / "hand"))


@pytest.mark.parametrize("name", ["auraflow", "chroma", "pixart", "sana_sprint", "sd3"])
def test_a_denoiser_for_more_channels_is_refused(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    channels = 32 if name == "chroma" else 8
    with pytest.raises(UserError, match=r"takes 8 channels, its autoencoder gives 4; .* give one for text to image"):
        FAMILIES[name].load(str(rewritten(folders[name], tmp_path / "hand", "transformer", in_channels=channels)))


def test_a_scheduler_that_cannot_train_is_refused() -> None:
    with pytest.raises(UserError, match="EDMEulerScheduler: has no alphas_cumprod to train with"):
        prediction_of(diffusers.EDMEulerScheduler())
