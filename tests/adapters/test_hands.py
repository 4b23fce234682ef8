"""What holds for every hand: drawing equals the official pipeline's, describe is its encode_prompt, a batch equals its rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from hand_families import FAMILIES
from hand_families.family import HEIGHT, LENGTH, WIDTH, Family
from torch import Tensor

from metabridge.adapters.hands import sana, stable_diffusion
from metabridge.adapters.pretrained import CAPTIONS, PretrainedHand
from metabridge.adapters.schedules import prediction_of
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition
from metabridge.bridge.settings import Objective

PROMPTS = ["a red cat", "a small yellow bird to the left of a dog"]


class Folders(dict[str, Path]):
    """A tiny checkpoint a family, made when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, name: str) -> Path:
        self[name] = FAMILIES[name].make(self.root / name)
        return self[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return Folders(tmp_path_factory.mktemp("hands"))


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
    pipeline = family.open(folder) if family.open else family.pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + k) for k in range(count)]


def noise(shape: tuple[int, ...], count: int) -> Tensor:
    return torch.stack([torch.randn(shape, generator=g) for g in generators(count)])


def some_condition(hand: PretrainedHand, length: int, batch: int = 1) -> Condition:
    generator = torch.Generator().manual_seed(length)
    pooled = None if hand.pooled_width is None else torch.randn(batch, hand.pooled_width, generator=generator)
    embeds = torch.randn(batch, length, hand.width, generator=generator)
    return Condition(embeds, torch.ones(batch, length, dtype=torch.long), pooled)


def described(hand: PretrainedHand, captions: list[str]) -> Condition:
    condition = hand.describe(captions)
    assert condition is not None
    return condition


CASES = [(name, solver, scale) for name, family in FAMILIES.items() for solver in family.schedulers for scale in family.guidance]


@pytest.mark.parametrize(("name", "solver", "guidance_scale"), CASES)
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
    with torch.no_grad():
        expected = family.draw(official, condition, null.expand(2) if guided else None, noise(family.latents, 2), 6, guidance_scale)
    latents = hand.draw(condition, [null] if guided else [], family.latents, 6, [guidance_scale] if guided else [], generators(2))
    assert (latents - expected).abs().max() <= 1e-4


def test_batch_equals_singles(hand: PretrainedHand, family: Family) -> None:
    condition, null = described(hand, PROMPTS), described(hand, [""])
    together = hand.draw(condition, [null], family.latents, 3, [3.0], generators(2))
    alone = [hand.draw(condition.rows(torch.tensor([k])), [null], family.latents, 3, [3.0], generators(2)[k : k + 1]) for k in range(2)]
    assert (together - torch.cat(alone)).abs().max() <= 1e-5 * together.abs().max().clamp(min=1)


def test_padding_of_a_longer_batch_mate_changes_nothing(hand: PretrainedHand, family: Family) -> None:
    short, long = some_condition(hand, 5), some_condition(hand, 9)
    both = Condition.cat([short, long])
    if not hand.masked:
        with pytest.raises(ValueError, match="this denoiser has no mask"):
            hand.draw(both, [], family.latents, 1, [], generators(2))
        return
    hand.double()  # linear attention over random weights divides by sums near zero: in float32 its rounding alone may reach 1e-5
    latents, timestep = torch.randn(2, *family.latents, dtype=torch.float64), torch.tensor([300.0, 700.0])
    with torch.no_grad():
        together, alone = hand.predict(latents, timestep, both)[:1], hand.predict(latents[:1], timestep[:1], short)
    assert (together - alone).abs().max() <= 1e-9


def test_describe_is_the_official_encode_prompt(hand: PretrainedHand, official: Any, family: Family) -> None:
    """Rows in the order given, whatever their mates."""
    condition, expected = described(hand, PROMPTS), family.describe(official, PROMPTS)
    real = condition.mask.bool()
    assert torch.equal(condition.mask, expected.mask)
    assert (condition.embeds - expected.embeds)[real].abs().max() <= 1e-5
    if hand.pooled_width is None:
        assert condition.pooled is None
    else:
        assert condition.pooled is not None and expected.pooled is not None
        assert condition.pooled.shape == (2, hand.pooled_width)
        assert (condition.pooled - expected.pooled).abs().max() <= 1e-5
    mixed, null = described(hand, [PROMPTS[0], "", PROMPTS[1]]), described(hand, [""])
    for k, single in ((0, described(hand, PROMPTS[:1])), (1, family.describe(official, [""])), (1, null)):
        own = mixed.embeds[k][mixed.mask[k].bool()]
        assert (own - single.embeds[0][single.mask[0].bool()]).abs().max() <= 1e-5


def test_encode_and_decode_are_the_official_ones(hand: PretrainedHand, official: Any, family: Family) -> None:
    pixels = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = hand.encode(pixels)
    assert latents.shape == (2, *family.latents)
    with torch.no_grad():
        encoded, decoded = family.encode(official, pixels), family.decode(official, latents)
    assert (latents - encoded).abs().max() <= 1e-5
    assert (hand.decode(latents) - decoded).abs().max() <= 1e-5


def test_condition_rms(hand: PretrainedHand) -> None:
    condition = described(hand, list(CAPTIONS))
    tokens = [
        token for row, mask in zip(condition.embeds, condition.mask, strict=True) for token in row[mask.bool()] if token.abs().max() > 0
    ]
    assert hand.condition_rms() == pytest.approx(float(torch.stack(tokens).square().mean().sqrt()), rel=1e-5)


def test_without_a_text_encoder(family: Family, tmp_path: Path) -> None:
    hand = family.load(str(family.make(tmp_path / "hand", text_encoder=False)))
    assert hand.describe(["a cat"]) is None
    assert hand.condition_rms() == 1.0


def test_default_size_and_latent_shape(hand: PretrainedHand, family: Family) -> None:
    assert hand.default_size == family.default_size
    channels, height, width = family.latents
    assert hand.latent_shape(HEIGHT // 2, WIDTH) == (channels, height // 2, width)
    with pytest.raises(
        UserError, match=f"height, width: {HEIGHT - 1}x{WIDTH} given; each is a multiple of {family.multiple} for this hand"
    ):
        hand.latent_shape(HEIGHT - 1, WIDTH)


def test_gradient_reaches_the_condition_only(hand: PretrainedHand, family: Family) -> None:
    condition = some_condition(hand, 7, batch=2).apply(lambda x: x.requires_grad_() if x.is_floating_point() else x)
    loss = hand.loss(torch.randn(2, *family.latents), condition, Objective(), (1, 2))
    loss.sum().backward()
    assert loss.shape == (2,)
    for told in (condition.embeds, condition.pooled):
        assert told is None or (told.grad is not None and told.grad.abs().max() > 0)
    assert all(parameter.grad is None for parameter in hand.parameters())


def test_bfloat16_hand_predicts_float32(family: Family, folder: Path) -> None:
    hand = family.load(str(folder), dtype="bfloat16")
    condition = some_condition(hand, 5)
    condition.embeds.requires_grad_()
    predicted = hand.predict(torch.randn(1, *family.latents), torch.tensor([500.0]), condition)
    predicted.sum().backward()
    assert predicted.dtype == torch.float32
    assert condition.embeds.grad is not None and condition.embeds.grad.dtype == torch.float32
    assert hand.encode(torch.zeros(1, 3, HEIGHT, WIDTH)).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_starts_as_the_hand_and_leaves_its_weights_alone(family: Family, folder: Path, dtype: str) -> None:
    plain, hand = (family.load(str(folder), dtype=dtype, train=train, **family.load_options) for train in ("none", "lora"))
    assert hand.identity == plain.identity and not plain.trainable()
    latents, timestep = torch.randn(2, *family.latents), torch.tensor([300.0, 700.0])
    condition, native = some_condition(hand, 5, batch=2), described(hand, PROMPTS)
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
        ({"in_channels": 9}, "its UNet2DConditionModel takes 9 channels, its autoencoder gives 4"),
        ({"addition_embed_type": "text"}, r"a StableDiffusionPipeline whose UNet wants more than a text \(addition_embed_type: text\)"),
        ({"time_cond_proj_dim": 8}, r"whose UNet wants more than a text \(time_cond_proj_dim: 8\)"),
    ],
)
def test_stable_diffusion_refuses_other_unets(changed: dict[str, Any], line: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["stable_diffusion"], tmp_path / "hand")
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    extra = {"addition_embed_type_num_heads": 2} if "addition_embed_type" in changed else {}
    diffusers.UNet2DConditionModel.from_config({**unet.config, **changed, **extra}).save_pretrained(folder / "unet")
    with pytest.raises(UserError, match=line):
        stable_diffusion.load(str(folder))
