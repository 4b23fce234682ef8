"""Hands that see source pictures as tokens: drawing equals the official pipelines for editing, whatever a row's batch mates have."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hand_families import FAMILIES
from hand_families.family import EDITED, Family
from PIL import Image
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from metabridge.adapters import assemble
from metabridge.adapters.hands import flux, flux2, qwen_image
from metabridge.adapters.pretrained import PretrainedHand
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Objective, Part
from metabridge.bridge.sizes import stacked
from tests.adapters.test_hands import Folders, generators, noise, open_official, some_condition

EDITORS = {name: family for name, family in FAMILIES.items() if family.edit is not None}
TIMES = torch.tensor([300.0, 700.0, 500.0, 900.0])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return Folders(tmp_path_factory.mktemp("editors"))


@pytest.fixture(params=EDITORS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def family(name: str) -> Family:
    return FAMILIES[name]


@pytest.fixture
def hand(family: Family, name: str, folders: dict[str, Path]) -> PretrainedHand:
    return family.load(str(folders[name]), **family.load_options)


def picture(seed: int) -> Image.Image:
    """Of random blocks, so that no two places of it look alike."""
    height, width = EDITED
    blocks = torch.randint(0, 256, (height // 8, width // 8, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(blocks.repeat_interleave(8, 0).repeat_interleave(8, 1).numpy())


def seen(hand: PretrainedHand, *numbers: int) -> Tensor:
    """[1, R, C, h, w], latents of these pictures."""
    return hand.encode(stacked([picture(number) for number in numbers], EDITED)).unsqueeze(0)


def edited(hand: PretrainedHand) -> tuple[int, int, int]:
    return hand.latent_shape(*EDITED)


def rows(hand: PretrainedHand, most: int) -> list[Condition]:
    """A row without a source picture, with one, with `most`, and without again."""
    told = [some_condition(hand, 7, batch=4).rows(torch.tensor([k])) for k in range(4)]
    shown = [None, seen(hand, 1), seen(hand, *range(2, 2 + most)), None]
    return [dataclasses.replace(one, references=references) for one, references in zip(told, shown, strict=True)]


CASES = [
    (name, count, scale) for name, family in EDITORS.items() for count in ((1, 2) if family.several else (1,)) for scale in family.guidance
]


@pytest.mark.parametrize(("name", "count", "guidance_scale"), CASES)
def test_editing_equals_the_official_pipeline(name: str, count: int, guidance_scale: float, folders: dict[str, Path]) -> None:
    family, folder = FAMILIES[name], folders[name]
    hand = family.load(str(folder), **family.load_options)
    official = family.editor(folder) if family.editor else open_official(family, folder)
    condition, null = some_condition(hand, 7), some_condition(hand, 7).apply(lambda x: x * 2 if x.is_floating_point() else x)
    guided, numbers = guidance_scale > 1, range(1, 1 + count)
    start = noise(edited(hand), 1)
    assert family.edit is not None
    with torch.no_grad():
        shown = [picture(number) for number in numbers]
        expected = family.edit(official, condition, null if guided else None, start, 4, guidance_scale, shown)
    told, weaker = (dataclasses.replace(one, references=seen(hand, *numbers)) for one in (condition, null))
    latents = hand.draw(told, [weaker] if guided else [], edited(hand), 4, [guidance_scale] if guided else [], generators(1))
    assert (latents - expected).abs().max() <= 1e-4
    blind = hand.draw(condition, [null] if guided else [], edited(hand), 4, [guidance_scale] if guided else [], generators(1))
    assert (latents - blind).abs().max() > 1e-2


def test_a_source_picture_is_encoded_as_officially(name: str, family: Family, hand: PretrainedHand, folders: dict[str, Path]) -> None:
    official = family.editor(folders[name]) if family.editor else open_official(family, folders[name])
    pixels = official.image_processor.preprocess(picture(1), *EDITED)
    video = isinstance(hand, qwen_image.QwenImageHand)
    with torch.no_grad():
        encoded = official._encode_vae_image(image=pixels.unsqueeze(2) if video else pixels, generator=None)
    assert (seen(hand, 1)[0] - (encoded.squeeze(2) if video else encoded)).abs().max() <= 1e-5


def test_a_row_does_not_depend_on_what_its_mates_are_shown(hand: PretrainedHand, family: Family) -> None:
    alone = rows(hand, 2 if family.several else 1)
    latents = noise(edited(hand), 4)
    with torch.no_grad():
        together = hand.predict(latents, TIMES, Condition.cat(alone))
        singles = [hand.predict(latents[k : k + 1], TIMES[k : k + 1], alone[k]) for k in range(4)]
    assert (together - torch.cat(singles)).abs().max() <= 1e-5
    drawn = hand.draw(Condition.cat(alone), [], edited(hand), 2, [], generators(4))
    one = hand.draw(alone[1], [], edited(hand), 2, [], generators(4)[1:2])
    assert (drawn[1:2] - one).abs().max() <= 1e-5 * drawn.abs().max().clamp(min=1)


def test_zeros_are_no_picture(hand: PretrainedHand, family: Family) -> None:
    latents, told = noise(edited(hand), 4), some_condition(hand, 7, batch=4)
    zeros = torch.zeros(4, 2, *edited(hand))
    shown, padded = seen(hand, 1).expand(4, 1, *edited(hand)), zeros.clone()
    padded[:2, 0], padded[2:, 1] = shown[:2, 0], shown[2:, 0]  # beside the zeros on either side
    with torch.no_grad():
        plain, none, one, beside = (
            hand.predict(latents, TIMES, dataclasses.replace(told, references=references)) for references in (None, zeros, shown, padded)
        )
    assert torch.equal(plain, none)
    assert torch.equal(one, beside) and (one - plain).abs().max() > 1e-2


def test_the_three_rows_of_guidance(hand: PretrainedHand) -> None:
    """(no picture, no text), (picture, no text), (picture, text), in one batch, against each alone."""
    told, null, blind = (some_condition(hand, 7).apply(lambda x, s=scale: x * s if x.is_floating_point() else x) for scale in (1, 2, 3))
    told, null = (dataclasses.replace(one, references=seen(hand, 1)) for one in (told, null))
    scales = [1.5, 4.0]
    drawn = hand.draw(told, [blind, null], edited(hand), 1, scales, generators(1))
    latents, scheduler = noise(edited(hand), 1), hand.schedule(1, edited(hand), torch.device("cpu"))
    (timestep,) = scheduler.timesteps
    with torch.no_grad():
        v00, v0i, vti = (hand.predict(latents, timestep.expand(1), one) for one in (blind, null, told))
    expected = scheduler.step(hand.guide([v00, v0i, vti], scales), timestep, latents, return_dict=False)[0]
    assert (drawn - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
    assert (v00 - v0i).abs().max() > 1e-2


def test_the_loss_of_a_mixed_batch(hand: PretrainedHand) -> None:
    alone, targets = rows(hand, 1), noise(edited(hand), 4)
    both = Condition.cat(alone)
    embeds = both.embeds.clone().requires_grad_()
    loss = hand.loss(targets, dataclasses.replace(both, embeds=embeds), Objective(), (1, 2, 3, 4))
    loss.sum().backward()
    singles = [hand.loss(targets[k : k + 1], alone[k], Objective(), (k + 1,)) for k in range(4)]
    assert (loss - torch.cat(singles)).abs().max() <= 1e-5 * loss.max()
    assert embeds.grad is not None and bool((embeds.grad.flatten(1).abs().amax(1) > 0).all())


def test_bfloat16(family: Family, name: str, folders: dict[str, Path]) -> None:
    hand = family.load(str(folders[name]), dtype="bfloat16")
    with torch.no_grad():
        predicted = hand.predict(noise(edited(hand), 4), TIMES, Condition.cat(rows(hand, 1)))
    assert predicted.dtype == torch.float32 and predicted.isfinite().all()


def test_as_many_as_the_checkpoint_takes(family: Family, hand: PretrainedHand, name: str, folders: dict[str, Path]) -> None:
    folder = str(folders[name])
    assert hand.references == family.references
    none = family.load(folder, references=0)
    latents, told = noise(edited(hand), 1), some_condition(hand, 7)
    with torch.no_grad():
        shown = none.predict(latents, TIMES[:1], dataclasses.replace(told, references=seen(hand, 1)))
        assert none.references == 0 and torch.equal(shown, hand.predict(latents, TIMES[:1], told))
    if family.several:
        assert family.load(folder, references=9).references == 9
    else:
        with pytest.raises(
            UserError, match=rf"^hand.references: 2 given; a checkpoint for {family.pipeline.__name__} takes 1, of this hand"
        ):
            family.load(folder, references=2)


def test_the_order_of_several(folders: dict[str, Path]) -> None:
    for name in ("flux2", "qwen_image_edit_plus"):
        hand = FAMILIES[name].load(str(folders[name]))
        told, latents = some_condition(hand, 7), noise(edited(hand), 1)
        with torch.no_grad():
            one, two = (
                hand.predict(latents, TIMES[:1], dataclasses.replace(told, references=seen(hand, *order))) for order in ((1, 2), (2, 1))
            )
        assert (one - two).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "load", "line"),
    [
        ("flux", flux.load, "FluxPipeline takes none, of this hand those for FluxKontextPipeline take some"),
        ("qwen_image", qwen_image.load, "QwenImagePipeline takes none, of this hand those for QwenImageEditPipeline, QwenImageEditPlusP"),
        ("flux2", flux2.load, "^hand.references: -1 given; a checkpoint for Flux2Pipeline takes 6"),
    ],
)
def test_checkpoints_for_text_to_image_take_none(name: str, load: object, line: str, folders: dict[str, Path]) -> None:
    assert load is FAMILIES[name].load
    given = -1 if name == "flux2" else 1
    with pytest.raises(UserError, match=line):
        FAMILIES[name].load(str(folders[name]), references=given)
    assert FAMILIES[name].load(str(folders[name])).references == FAMILIES[name].references


def test_a_bridge_draws_from_a_picture(folders: dict[str, Path], tiny_recipe: Recipe) -> None:
    """A picture's size and latents reach the hand; prompts with and without one go together."""
    recipe = dataclasses.replace(tiny_recipe, hand=Part("flux", {"repo": str(folders["flux_kontext"])}))
    pipeline = BridgePipeline(assemble(recipe))
    settings = {"num_inference_steps": 2, "output_type": "latent", "height": EDITED[0], "width": EDITED[1]}
    prompts, shown = ["make it red", "a dog"], [picture(1), None]
    together = pipeline(prompts, shown, seeds=[1, 2], guidance_scale=3.0, image_guidance_scale=2.0, **settings).images
    alone = [
        pipeline(prompt, own, seeds=[1 + k], guidance_scale=3.0, image_guidance_scale=2.0 if own else 1.0, **settings).images[0]
        for k, (prompt, own) in enumerate(zip(prompts, shown, strict=True))
    ]
    assert (together[0] - alone[0]).abs().max() <= 1e-5 * together[0].abs().max().clamp(min=1)
    assert (together[1] - alone[1]).abs().max() <= 1e-5 * together[1].abs().max().clamp(min=1)
    pipeline.bridge.hand.references = 0  # the brain alone looks at it
    assert (pipeline(prompts[0], picture(1), seeds=[1], **settings).images[0] - together[0]).abs().max() > 1e-2


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_a_sharded_hand_sees_no_pictures(folders: dict[str, Path]) -> None:
    hand = flux.load(str(folders["flux_kontext"]))
    for block in hand.blocks():
        fully_shard(block, mesh=init_device_mesh("cpu", (1,)))
    latents, told = noise(edited(hand), 1), some_condition(hand, 7)
    with torch.no_grad():
        assert hand.predict(latents, TIMES[:1], told).isfinite().all()
        with pytest.raises(UserError, match=r"^train.shard: hand given, .* sees source pictures in a pass for each number of them"):
            hand.predict(latents, TIMES[:1], dataclasses.replace(told, references=seen(hand, 1)))
