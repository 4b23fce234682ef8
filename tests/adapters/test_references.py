"""Source pictures by further channels: nothing changes until they are learnt, then they are seen; from pixels to the saved bridge."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from hand_families import FAMILIES
from PIL import Image

from metabridge.adapters import assemble, load_pipeline
from metabridge.adapters.references import ReferenceInput
from metabridge.bridge.artifact import content_hash, save_bridge
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition, Example
from metabridge.bridge.model import Batch, Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Objective, Part
from metabridge.bridge.sizes import stacked
from metabridge.training.data import Mixture
from metabridge.training.loader import load

NAMES = ("sana", "stable_diffusion", "sdxl")


def recipe_of(tiny_recipe: Recipe, folder: Path, name: str, **options: object) -> Recipe:
    family = FAMILIES[name]
    hand = Part(name, {"repo": str(folder), **family.load_options, **options})
    return dataclasses.replace(tiny_recipe, hand=hand, objective=Objective(drop_text=0.1, drop_both=0.1))


@pytest.fixture(scope="module")
def bridges(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Bridge, Bridge]]:
    """Each hand without source pictures, and with two."""
    made = {}
    for name in NAMES:
        folder = FAMILIES[name].make(tmp_path_factory.mktemp(name) / "hand")
        made[name] = assemble(recipe_of(tiny_recipe, folder, name)), assemble(recipe_of(tiny_recipe, folder, name, references=2))
    return made


def seeing(bridge: Bridge) -> Bridge:
    """As if it had learnt to look."""
    bridge = copy.deepcopy(bridge)
    assert bridge.hand.reference_input is not None
    torch.nn.init.normal_(bridge.hand.reference_input.projection.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return bridge


def drawn(bridge: Bridge, *prompts: str, **settings: object) -> torch.Tensor:
    seeds = list(range(len(prompts)))
    output = BridgePipeline(bridge, batch_size=settings.pop("batch_size", 16))  # type: ignore[arg-type]
    return torch.stack(
        output(list(prompts), seeds=seeds, num_inference_steps=2, height=64, width=64, output_type="latent", **settings).images
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_hand_draws_as_before_until_it_has_learnt_to_look(
    bridges: dict[str, tuple[Bridge, Bridge]], name: str, picture: Image.Image
) -> None:
    without, given = bridges[name]
    assert without.hand.references == 0 and given.hand.references == 2
    assert given.hand.identity == without.hand.identity
    fresh = [drawn(bridge, "edit it", image=[picture]) for bridge in (without, given)]
    assert torch.equal(*fresh)
    learnt = drawn(seeing(given), "edit it", image=[picture])
    assert (learnt - fresh[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_the_pictures_of_others(
    bridges: dict[str, tuple[Bridge, Bridge]], name: str, picture: Image.Image, wide_picture: Image.Image
) -> None:
    """Text to image, an edit and two pictures in one batch, as each alone; under guidance by text and picture."""
    bridge = seeing(bridges[name][1])
    prompts, images = ["a cat", "edit it", "mix them"], [[], [picture], [picture, wide_picture]]
    settings = {"guidance_scale": 2.0, "image_guidance_scale": 1.5}
    together = drawn(bridge, *prompts, image=images, **settings)
    for k, (prompt, own) in enumerate(zip(prompts, images, strict=True)):
        alone = BridgePipeline(bridge)(
            prompt,
            image=own or None,
            seeds=[k],
            num_inference_steps=2,
            height=64,
            width=64,
            output_type="latent",
            guidance_scale=2.0,
            image_guidance_scale=1.5 if own else 1.0,
        ).images[0]
        assert (together[k] - alone).abs().max() <= 2e-5


def test_guidance_rows_see_what_they_should(bridges: dict[str, tuple[Bridge, Bridge]], picture: Image.Image) -> None:
    """(no picture, no text) has no reference; (picture, no text) and (picture, text) have it."""
    bridge = seeing(bridges["sana"][1])
    hand, brain = bridge.hand, bridge.brain
    source = bridge.references(stacked([picture], (64, 64)), (1,))
    with torch.no_grad():
        blind, pictured, full = (
            bridge.condition(brain.collate([e])) for e in (Example(""), Example("", (picture,)), Example("edit it", (picture,)))
        )
    pictured, full = (dataclasses.replace(c, references=source) for c in (pictured, full))
    shape = hand.latent_shape(64, 64)
    expected = hand.draw(full, [blind, pictured], shape, 2, [1.5, 2.0], [torch.Generator().manual_seed(0)])
    ours = drawn(bridge, "edit it", image=[picture], guidance_scale=2.0, image_guidance_scale=1.5)
    assert (ours - expected).abs().max() <= 1e-5


def test_the_latents_of_the_source_are_the_hands_own(bridges: dict[str, tuple[Bridge, Bridge]], picture: Image.Image) -> None:
    bridge = bridges["sana"][1]
    pixels = stacked([picture, picture], (64, 64))
    found = bridge.references(pixels, (0, 2, 0))
    assert found.shape[:2] == (3, 2) and not found[[0, 2]].any()
    assert torch.equal(found[1], bridge.hand.encode(pixels))


def test_a_batch_without_pictures_has_a_gradient_to_share_with_other_processes(bridges: dict[str, tuple[Bridge, Bridge]]) -> None:
    bridge = copy.deepcopy(bridges["sana"][1])
    bridge(Batch((bridge.brain.collate([Example("a cat")]),), torch.zeros(1, 3, 64, 64), (1,))).sum().backward()
    assert bridge.hand.reference_input is not None
    gradient = bridge.hand.reference_input.projection.weight.grad
    assert gradient is not None and not gradient.any()


def test_only_the_last_pictures_are_given(picture: Image.Image) -> None:
    """More than it takes: the last ones; fewer: zeros for the rest."""
    first = torch.nn.Conv2d(2, 3, 1)
    look = ReferenceInput(first, 2)
    torch.nn.init.normal_(look.projection.weight)
    x, many = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 2, 4, 4)
    with torch.no_grad():
        plain = first(x)
        with look.showing(many):
            given = first(x)
        with look.showing(many[:, 1:]):
            assert torch.equal(given, first(x))
        assert torch.allclose(given - plain, look.projection(many[:, 1:].flatten(1, 2)), atol=1e-6)
        with look.showing(many[:, :1]):
            padded = torch.cat([many[:, :1], torch.zeros(1, 1, 2, 4, 4)], dim=1)
            assert torch.allclose(first(x) - plain, look.projection(padded.flatten(1, 2)), atol=1e-6)
        assert torch.equal(first(x), plain)


@pytest.mark.parametrize("train", ["none", "lora", "full"])
def test_learning_to_look_is_saved_with_the_bridge(
    tiny_recipe: Recipe, hand_folder: Path, tmp_path: Path, picture: Image.Image, train: str
) -> None:
    recipe = recipe_of(tiny_recipe, hand_folder, "sana", references=1, train=train)
    bridge = assemble(recipe)
    trained, frozen = bridge.trained(), content_hash(bridge.frozen())
    assert "hand.reference_input.projection.weight" in trained
    pixels = stacked([picture] * 2, (64, 64))
    batch = Batch(
        (bridge.brain.collate([Example("edit it", (picture,)), Example("a cat")]),),
        pixels,
        (1, 2),
        sources=pixels[:1],
        source_counts=(1, 0),
    )
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        bridge(batch).sum().backward()
        optimizer.step()
    assert bridge.hand.reference_input.projection.weight.abs().max() > 0 and content_hash(bridge.frozen()) == frozen
    save_bridge(bridge, tmp_path / "bridge", recipe, {})
    again = load_pipeline(tmp_path / "bridge").bridge
    assert torch.equal(drawn(again, "edit it", image=[picture]), drawn(bridge.eval(), "edit it", image=[picture]))
    native, before = (BridgePipeline(b).draw_native("a cat", seeds=[1], output_type="latent").images[0] for b in (again, assemble(recipe)))
    assert torch.equal(native, before)  # the hand's own drawing is as it came


def test_a_batch_of_training_has_the_pictures_of_its_rows(tiny_recipe: Recipe, hand_folder: Path) -> None:
    """Cut as the target is; of a row whose pictures are dropped there are none."""
    recipe = recipe_of(tiny_recipe, hand_folder, "sana", references=1)
    tree = {**recipe.to_dict(), "data": [{"source": "flatland", "task": "edit"}, {"source": "flatland"}]}
    tree["objective"] = {"drop_text": 0.1, "drop_both": 0.3}
    recipe = Recipe.from_dict(tree)
    bridge = assemble(recipe)
    mixture = Mixture(recipe, bridge.hand)
    rows = [mixture.row(0, index) for index in range(32)]
    loaded = load(mixture, bridge.brain.collate, 0, range(32)).batch
    assert loaded.source_counts == tuple(len(row.example.images) for row in rows)
    assert {0, 1} == set(loaded.source_counts) and loaded.sources is not None and len(loaded.sources) == sum(loaded.source_counts)
    first = next(row for row in rows if row.example.images)
    assert torch.equal(stacked(first.example.images, (64, 64))[0], loaded.sources[0].float() / 127.5 - 1)


def test_what_cannot_be_is_refused(tiny_recipe: Recipe, hand_folder: Path) -> None:
    with pytest.raises(UserError, match=r"hand.references: -1 given; 1 at least, or leave it out"):
        assemble(recipe_of(tiny_recipe, hand_folder, "sana", references=-1))


def test_conditions_of_rows_with_and_without_references_stand_in_one_batch() -> None:
    plain = Condition(torch.ones(1, 2, 3), torch.ones(1, 2))
    one, two = (dataclasses.replace(plain, references=torch.full((1, count, 2, 4, 4), 5.0)) for count in (1, 2))
    both = Condition.cat([plain, one, two])
    assert both.references is not None and both.references.shape == (3, 2, 2, 4, 4)
    assert [int((row != 0).flatten(1).any(dim=1).sum()) for row in both.references] == [0, 1, 2]
