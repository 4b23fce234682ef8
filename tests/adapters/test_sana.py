"""Sana: our loop equals the official pipeline, encode and decode its VAE, describe its encode_prompt."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import diffusers
import pytest
import tiny
import torch
from torch import Tensor

from metabridge.adapters.hands.sana import CAPTIONS, SanaHand, load, prediction_of
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition
from metabridge.bridge.recipe import Objective

PROMPTS = ["a red cat", "a small yellow bird to the left of a dog"]
LENGTH = 16


@pytest.fixture(scope="module")
def hand(hand_folder: Path) -> SanaHand:
    return load(str(hand_folder), max_sequence_length=LENGTH)


@pytest.fixture(scope="module")
def official(hand_folder: Path) -> diffusers.SanaPipeline:
    pipeline = diffusers.SanaPipeline.from_pretrained(hand_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + k) for k in range(count)]


def noise(shape: tuple[int, ...], count: int) -> Tensor:
    return torch.stack([torch.randn(shape, generator=g) for g in generators(count)])


def schedulers(pipeline: diffusers.SanaPipeline) -> dict[str, object]:
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}  # Sana's default on the hub
    return {"euler": pipeline.scheduler, "dpm": diffusers.DPMSolverMultistepScheduler(**flow)}


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
@pytest.mark.parametrize("solver", ["euler", "dpm"])
def test_drawing_equals_the_official_pipeline(
    hand: SanaHand, official: diffusers.SanaPipeline, solver: str, guidance_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = schedulers(official)[solver]
    monkeypatch.setattr(hand, "scheduler", scheduler)
    monkeypatch.setattr(official, "scheduler", type(scheduler).from_config(scheduler.config))  # type: ignore[attr-defined]
    condition, null = hand.describe(PROMPTS), hand.describe([""])
    assert condition is not None and null is not None
    shape = hand.latent_shape(64, 64)
    guided = guidance_scale > 1
    expected = official(
        prompt_embeds=condition.embeds,
        prompt_attention_mask=condition.mask,
        negative_prompt=None,
        negative_prompt_embeds=null.expand(2).embeds if guided else None,
        negative_prompt_attention_mask=null.expand(2).mask if guided else None,
        latents=noise(shape, 2),
        height=64,
        width=64,
        num_inference_steps=6,
        guidance_scale=guidance_scale,
        use_resolution_binning=False,
        output_type="latent",
    ).images
    latents = hand.draw(condition, [null] if guided else [], shape, 6, [guidance_scale] if guided else [], generators(2))
    assert (latents - expected).abs().max() <= 1e-4
    pixels = official.vae.decode(expected / official.vae.config.scaling_factor).sample
    assert (hand.decode(latents) - pixels).abs().max() <= 1e-4


def test_batch_equals_singles(hand: SanaHand) -> None:
    condition, null = hand.describe(PROMPTS), hand.describe([""])
    assert condition is not None and null is not None
    shape = hand.latent_shape(64, 64)
    together = hand.draw(condition, [null], shape, 3, [3.0], generators(2))
    alone = [hand.draw(condition.rows(torch.tensor([k])), [null], shape, 3, [3.0], generators(2)[k : k + 1]) for k in range(2)]
    assert (together - torch.cat(alone)).abs().max() <= 1e-5


def test_describe_is_the_official_encode_prompt(hand: SanaHand, official: diffusers.SanaPipeline) -> None:
    """With the empty caption as the official pipeline's negative prompt, and rows in the order given."""
    embeds, mask, empty, empty_mask = official.encode_prompt(PROMPTS, max_sequence_length=LENGTH)
    condition = hand.describe([PROMPTS[0], "", PROMPTS[1]])
    assert condition is not None
    real = torch.cat([mask[:1], empty_mask[:1], mask[1:]])
    assert torch.equal(condition.mask, real)
    expected = torch.stack([embeds[0], empty[0], embeds[1]])
    assert (condition.embeds - expected)[real.bool()].abs().max() <= 1e-5


def test_describe_with_the_official_instruction(hand_folder: Path, official: diffusers.SanaPipeline) -> None:
    hand = load(str(hand_folder), max_sequence_length=LENGTH, instruction=True)
    assert hand.native is not None
    hand.native.instruction = ["one line.", "Prompt: "]  # the tiny text encoder has no room for the real one
    embeds, mask, empty, empty_mask = official.encode_prompt(
        PROMPTS[:1], max_sequence_length=LENGTH, complex_human_instruction=["one line.", "Prompt: "]
    )
    condition = hand.describe(["", PROMPTS[0]])
    assert condition is not None
    for row, (expected, real) in enumerate([(empty, empty_mask), (embeds, mask)]):
        assert (condition.embeds[row] - expected[0])[real[0].bool()].abs().max() <= 1e-5
    assert load(str(hand_folder), instruction=True).native.instruction[0].startswith("Given a user prompt")  # type: ignore[union-attr]


def test_encode_is_the_vae(hand: SanaHand, official: diffusers.SanaPipeline) -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = hand.encode(pixels)
    assert latents.shape == (2, *hand.latent_shape(64, 64))
    with torch.no_grad():
        assert torch.equal(latents, official.vae.encode(pixels).latent * official.vae.config.scaling_factor)


def test_condition_rms(hand: SanaHand) -> None:
    condition = hand.describe(CAPTIONS)
    assert condition is not None
    squares = [row[mask.bool()].square().mean() * mask.sum() for row, mask in zip(condition.embeds, condition.mask, strict=True)]
    assert hand.condition_rms() == pytest.approx(float((sum(squares) / condition.mask.sum()).sqrt()), rel=1e-5)


def test_without_a_text_encoder(tmp_path: Path) -> None:
    hand = load(str(tiny.make_hand(tmp_path / "hand", text_encoder=False)))
    assert hand.describe(["a cat"]) is None
    assert hand.condition_rms() == 1.0


def test_default_size_and_latent_shape(hand: SanaHand) -> None:
    assert hand.default_size == (64, 64)
    assert hand.latent_shape(32, 64) == (4, 8, 16)
    with pytest.raises(UserError, match="height, width: 30x64 given; each is a multiple of 4"):
        hand.latent_shape(30, 64)


def test_gradient_reaches_the_condition_only(hand: SanaHand) -> None:
    condition = hand.describe(PROMPTS)
    assert condition is not None
    embeds = condition.embeds.clone().requires_grad_()
    loss = hand.loss(torch.randn(2, 4, 16, 16), dataclasses.replace(condition, embeds=embeds), Objective(), (1, 2))
    loss.sum().backward()
    assert loss.shape == (2,) and embeds.grad is not None and embeds.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in hand.parameters())


def test_bfloat16_hand_predicts_float32(hand_folder: Path) -> None:
    hand = load(str(hand_folder), dtype="bfloat16")
    condition = Condition(torch.randn(1, 5, 16, requires_grad=True), torch.ones(1, 5, dtype=torch.long))
    predicted = hand.predict(torch.randn(1, 4, 16, 16), torch.tensor([500.0]), condition)
    predicted.sum().backward()
    assert predicted.dtype == torch.float32
    assert condition.embeds.grad is not None and condition.embeds.grad.dtype == torch.float32
    assert hand.encode(torch.zeros(1, 3, 64, 64)).dtype == torch.float32


def test_random_weights_are_the_same_every_time(hand_folder: Path) -> None:
    one, two = (load(str(hand_folder), weights="random") for _ in range(2))
    assert one.identity == two.identity != load(str(hand_folder)).identity


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"train": "lora"}, "hand.train: 'lora' given; only none is offered"),
        ({"weights": "none"}, "hand.weights: 'none' given"),
        ({"dtype": "int8"}, "hand.dtype: 'int8' given"),
    ],
)
def test_bad_options(hand_folder: Path, options: dict[str, str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        load(str(hand_folder), **options)  # type: ignore[arg-type]


def test_a_folder_with_a_part_missing(hand_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(hand_folder, tmp_path / "hand", ignore=shutil.ignore_patterns("vae"))
    with pytest.raises(UserError, match="cannot be loaded"):
        load(str(tmp_path / "hand"))


@pytest.mark.parametrize(("kind", "word"), [("flow_prediction", "flow"), ("epsilon", "epsilon"), ("v_prediction", "v")])
def test_what_a_scheduler_predicts(kind: str, word: str) -> None:
    assert prediction_of(diffusers.DPMSolverMultistepScheduler(prediction_type=kind)) == word


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(UserError, match="predicts sample; known are"):
        prediction_of(diffusers.DPMSolverMultistepScheduler(prediction_type="sample"))
