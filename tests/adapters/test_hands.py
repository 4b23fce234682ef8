"""What holds for every hand: drawing equals the official pipeline's, describe is its encode_prompt, a batch equals its rows."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny
import torch
from torch import Tensor

from metabridge.adapters.hands import sana, stable_diffusion
from metabridge.adapters.pretrained import CAPTIONS, PretrainedHand, prediction_of
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition
from metabridge.bridge.recipe import Objective

PROMPTS = ["a red cat", "a small yellow bird to the left of a dog"]
LENGTH = 16
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}  # Sana's default on the hub
LDM = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@dataclass
class Family:
    make: Callable[..., Path]
    load: Callable[..., PretrainedHand]
    pipeline: Any
    schedulers: dict[str, Any]  # what its checkpoints on the hub come with
    masked: bool  # its padding is not attended to
    latents: tuple[int, int, int] = (4, 16, 16)
    load_options: dict[str, Any] = field(default_factory=dict)
    call_options: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "sana": Family(
        make=tiny.make_hand,
        load=sana.load,
        pipeline=diffusers.SanaPipeline,
        schedulers={
            "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            "dpm": diffusers.DPMSolverMultistepScheduler(**FLOW),
        },
        masked=True,
        load_options={"max_sequence_length": LENGTH},
        call_options={"use_resolution_binning": False, "complex_human_instruction": None, "max_sequence_length": LENGTH},
    ),
    "stable_diffusion": Family(
        make=tiny.make_sd_hand,
        load=stable_diffusion.load,
        pipeline=diffusers.StableDiffusionPipeline,
        schedulers={
            "ddim": diffusers.DDIMScheduler(**LDM, clip_sample=False, steps_offset=1),
            "pndm": diffusers.PNDMScheduler(**LDM, skip_prk_steps=True, steps_offset=1),
            "euler": diffusers.EulerDiscreteScheduler(**LDM),
            "v": diffusers.DDIMScheduler(**LDM, clip_sample=False, steps_offset=1, prediction_type="v_prediction"),
        },
        masked=False,
    ),
}
CASES = [(name, solver) for name, family in FAMILIES.items() for solver in family.schedulers]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: family.make(tmp_path_factory.mktemp(name) / "hand") for name, family in FAMILIES.items()}


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def family(name: str) -> Family:
    return FAMILIES[name]


@pytest.fixture
def folder(name: str, folders: dict[str, Path]) -> Path:
    return folders[name]


@pytest.fixture
def hand(family: Family, folder: Path) -> PretrainedHand:
    return family.load(str(folder), **family.load_options)


@pytest.fixture
def official(family: Family, folder: Path) -> Any:
    return open_official(family, folder)


def open_official(family: Family, folder: Path) -> Any:
    pipeline = family.pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + k) for k in range(count)]


def noise(shape: tuple[int, ...], count: int) -> Tensor:
    return torch.stack([torch.randn(shape, generator=g) for g in generators(count)])


def described(hand: PretrainedHand, captions: list[str]) -> Condition:
    condition = hand.describe(captions)
    assert condition is not None
    return condition


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
@pytest.mark.parametrize(("name", "solver"), CASES)
def test_drawing_equals_the_official_pipeline(
    name: str, solver: str, guidance_scale: float, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES[name]
    hand, official = family.load(str(folders[name]), **family.load_options), open_official(family, folders[name])
    scheduler = family.schedulers[solver]
    monkeypatch.setattr(hand, "scheduler", scheduler)
    official.scheduler = type(scheduler).from_config(scheduler.config)
    condition, null = described(hand, PROMPTS), described(hand, [""])
    guided = guidance_scale > 1
    told: dict[str, Any] = {"prompt_embeds": condition.embeds, "negative_prompt_embeds": null.expand(2).embeds if guided else None}
    if family.masked:
        told |= {"prompt_attention_mask": condition.mask, "negative_prompt_attention_mask": null.expand(2).mask if guided else None}
        told["negative_prompt"] = None
    expected = official(
        **told,
        latents=noise(family.latents, 2),
        height=64,
        width=64,
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        output_type="latent",
        **family.call_options,
    ).images
    latents = hand.draw(condition, [null] if guided else [], family.latents, 6, [guidance_scale] if guided else [], generators(2))
    assert (latents - expected).abs().max() <= 1e-4
    with torch.no_grad():
        pixels = official.vae.decode(expected / official.vae.config.scaling_factor).sample
    assert (hand.decode(latents) - pixels).abs().max() <= 1e-4


def test_batch_equals_singles(hand: PretrainedHand, family: Family) -> None:
    condition, null = described(hand, PROMPTS), described(hand, [""])
    together = hand.draw(condition, [null], family.latents, 3, [3.0], generators(2))
    alone = [hand.draw(condition.rows(torch.tensor([k])), [null], family.latents, 3, [3.0], generators(2)[k : k + 1]) for k in range(2)]
    assert (together - torch.cat(alone)).abs().max() <= 1e-5 * together.abs().max().clamp(min=1)


def test_padding_of_a_longer_batch_mate_changes_nothing(hand: PretrainedHand, family: Family) -> None:
    short = Condition(torch.randn(1, 5, hand.width), torch.ones(1, 5, dtype=torch.long))
    both = Condition.cat([short, Condition(torch.randn(1, 9, hand.width), torch.ones(1, 9, dtype=torch.long))])
    latents, timestep = torch.randn(2, *family.latents), torch.tensor([300.0, 700.0])
    with torch.no_grad():
        together, alone = hand.predict(latents, timestep, both)[:1], hand.predict(latents[:1], timestep[:1], short)
    assert (together - alone).abs().max() <= 1e-5


def test_describe_is_the_official_encode_prompt(hand: PretrainedHand, official: Any, family: Family) -> None:
    """With the empty caption as the official pipeline's negative prompt, and rows in the order given."""
    if family.masked:
        embeds, mask, empty, empty_mask = official.encode_prompt(PROMPTS, max_sequence_length=LENGTH)
        real = torch.cat([mask[:1], empty_mask[:1], mask[1:]])
    else:
        embeds, empty = official.encode_prompt(PROMPTS, "cpu", 1, True)
        real = torch.ones(3, LENGTH, dtype=torch.long)
    condition = described(hand, [PROMPTS[0], "", PROMPTS[1]])
    assert torch.equal(condition.mask, real)
    expected = torch.stack([embeds[0], empty[0], embeds[1]])
    assert (condition.embeds - expected)[real.bool()].abs().max() <= 1e-5


def test_encode_is_the_vae(hand: PretrainedHand, official: Any, family: Family) -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        encoded = official.vae.encode(pixels)
        expected = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mean
    latents = hand.encode(pixels)
    assert latents.shape == (2, *family.latents)
    assert (latents - expected * official.vae.config.scaling_factor).abs().max() <= 1e-5


def test_condition_rms(hand: PretrainedHand) -> None:
    condition = described(hand, list(CAPTIONS))
    squares = [row[mask.bool()].square().mean() * mask.sum() for row, mask in zip(condition.embeds, condition.mask, strict=True)]
    assert hand.condition_rms() == pytest.approx(float((sum(squares) / condition.mask.sum()).sqrt()), rel=1e-5)


def test_without_a_text_encoder(family: Family, tmp_path: Path) -> None:
    hand = family.load(str(family.make(tmp_path / "hand", text_encoder=False)))
    assert hand.describe(["a cat"]) is None
    assert hand.condition_rms() == 1.0


def test_default_size_and_latent_shape(hand: PretrainedHand) -> None:
    assert hand.default_size == (64, 64)
    assert hand.latent_shape(32, 64) == (4, 8, 16)
    with pytest.raises(UserError, match="height, width: 30x64 given; each is a multiple of 4"):
        hand.latent_shape(30, 64)


def test_gradient_reaches_the_condition_only(hand: PretrainedHand, family: Family) -> None:
    condition = described(hand, PROMPTS)
    embeds = condition.embeds.clone().requires_grad_()
    loss = hand.loss(torch.randn(2, *family.latents), dataclasses.replace(condition, embeds=embeds), Objective(), (1, 2))
    loss.sum().backward()
    assert loss.shape == (2,) and embeds.grad is not None and embeds.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in hand.parameters())


def test_bfloat16_hand_predicts_float32(family: Family, folder: Path) -> None:
    hand = family.load(str(folder), dtype="bfloat16")
    condition = Condition(torch.randn(1, 5, 16, requires_grad=True), torch.ones(1, 5, dtype=torch.long))
    predicted = hand.predict(torch.randn(1, *family.latents), torch.tensor([500.0]), condition)
    predicted.sum().backward()
    assert predicted.dtype == torch.float32
    assert condition.embeds.grad is not None and condition.embeds.grad.dtype == torch.float32
    assert hand.encode(torch.zeros(1, 3, 64, 64)).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_starts_as_the_hand_and_leaves_its_weights_alone(family: Family, folder: Path, dtype: str) -> None:
    plain, hand = (family.load(str(folder), dtype=dtype, train=train, **family.load_options) for train in ("none", "lora"))
    assert hand.identity == plain.identity and not plain.trainable()
    latents, timestep = torch.randn(2, *family.latents), torch.tensor([300.0, 700.0])
    condition, native = Condition(torch.randn(2, 5, hand.width), torch.ones(2, 5, dtype=torch.long)), described(hand, PROMPTS)
    before = plain.predict(latents, timestep, condition).detach()
    assert torch.equal(hand.predict(latents, timestep, condition), before)

    frozen = {name: p.detach().clone() for name, p in hand.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD(hand.trainable(), lr=1.0)
    for _ in range(2):  # the second matrix is zero at first, so that the first one moves a step later
        optimizer.zero_grad()
        hand.loss(latents, condition, Objective(distill=0.5), (1, 2), teacher=native).sum().backward()
        optimizer.step()
    assert all(p.dtype == torch.float32 and p.grad is not None and p.grad.abs().max() > 0 for p in hand.trainable())
    assert all(torch.equal(p, frozen[name]) for name, p in hand.named_parameters() if name in frozen)
    assert not torch.equal(hand.predict(latents, timestep, condition), before)
    with hand.untouched(), torch.no_grad():  # what teaches, and what the baseline draws with
        assert torch.equal(hand.predict(latents, timestep, condition), before)
    assert all(p.requires_grad for p in hand.trainable())


def test_random_weights_are_the_same_every_time(family: Family, folder: Path) -> None:
    one, two = (family.load(str(folder), weights="random") for _ in range(2))
    assert one.identity == two.identity != family.load(str(folder)).identity


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"train": "half"}, "hand.train: 'half' given; it is one of: none, lora"),
        ({"lora_rank": 4}, "hand.lora_rank: 4 given; it is 1 at least, and has an effect with hand.train=lora alone"),
        ({"weights": "none"}, "hand.weights: 'none' given"),
        ({"dtype": "int8"}, "hand.dtype: 'int8' given"),
    ],
)
def test_bad_options(family: Family, folder: Path, options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        family.load(str(folder), **options)


def test_a_folder_with_a_part_missing(family: Family, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "hand", ignore=shutil.ignore_patterns("vae"))
    with pytest.raises(UserError, match="cannot be loaded"):
        family.load(str(tmp_path / "hand"))


@pytest.mark.parametrize(("kind", "word"), [("flow_prediction", "flow"), ("epsilon", "epsilon"), ("v_prediction", "v")])
def test_what_a_scheduler_predicts(kind: str, word: str) -> None:
    assert prediction_of(diffusers.DPMSolverMultistepScheduler(prediction_type=kind)) == word


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(UserError, match="predicts sample; known are"):
        prediction_of(diffusers.DPMSolverMultistepScheduler(prediction_type="sample"))


def test_sana_with_the_official_instruction(folders: dict[str, Path]) -> None:
    folder = str(folders["sana"])
    hand, official = sana.load(folder, max_sequence_length=LENGTH, instruction=True), open_official(FAMILIES["sana"], folders["sana"])
    assert isinstance(hand.native, sana.SanaNative)
    hand.native.instruction = ["one line.", "Prompt: "]  # the tiny text encoder has no room for the real one
    embeds, mask, empty, empty_mask = official.encode_prompt(
        PROMPTS[:1], max_sequence_length=LENGTH, complex_human_instruction=["one line.", "Prompt: "]
    )
    condition = described(hand, ["", PROMPTS[0]])
    for row, (expected, real) in enumerate([(empty, empty_mask), (embeds, mask)]):
        assert (condition.embeds[row] - expected[0])[real[0].bool()].abs().max() <= 1e-5
    assert sana.load(folder, instruction=True).native.instruction[0].startswith("Given a user prompt")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"in_channels": 9}, "this UNet takes 9 channels, its autoencoder gives 4"),
        ({"addition_embed_type": "text"}, "this UNet wants text too; hand stable_diffusion is for SD 1.x and 2.x"),
    ],
)
def test_stable_diffusion_refuses_other_unets(changed: dict[str, Any], line: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["stable_diffusion"], tmp_path / "hand")
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    extra = {"addition_embed_type_num_heads": 2} if "addition_embed_type" in changed else {}
    diffusers.UNet2DConditionModel.from_config({**unet.config, **changed, **extra}).save_pretrained(folder / "unet")
    with pytest.raises(UserError, match=line):
        stable_diffusion.load(str(folder))
