"""Only queries and connector learn; everything else stays as it was, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from metabridge.adapters import assemble
from metabridge.bridge.artifact import content_hash
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.bridge.model import Batch, Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe

PROMPTS = ("a red cat", "two blue dogs in the snow", "a small yellow bird")


def batch(bridge: Bridge, captions: tuple[str | None, ...] | None = None, images: tuple[Image.Image, ...] = ()) -> Batch:
    pixels = torch.rand(len(PROMPTS), 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch((bridge.brain.collate([Example(prompt, images) for prompt in PROMPTS]),), pixels, (1, 2, 3), captions)


def train(bridge: Bridge, steps: int, **parts: object) -> None:
    optimizer = torch.optim.AdamW(bridge.trained().values(), lr=1e-3)
    rows = batch(bridge, **parts)  # type: ignore[arg-type]
    for _ in range(steps):
        bridge(rows).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def from_tree(brain: Path, hand: Path, **sections: object) -> Bridge:
    return assemble(Recipe.from_dict(tiny.recipe_tree(brain, hand) | sections))


def test_what_is_frozen_stays_bit_identical(bridge: Bridge) -> None:
    frozen, trained = content_hash(bridge.frozen()), {name: x.detach().clone() for name, x in bridge.trained().items()}
    train(bridge.train(), 3)
    assert content_hash(bridge.frozen()) == frozen
    assert all(not torch.equal(trained[name], x) for name, x in bridge.trained().items())


def test_text_logits_are_bit_identical_with_and_without_the_bridge(bridge: Bridge, brain_folder: Path, picture: Image.Image) -> None:
    import transformers

    train(bridge, 2)
    inputs = bridge.brain.collate([Example("what is it", (picture,)), Example("a cat")])
    bridge.condition(inputs)
    model = transformers.AutoModelForImageTextToText.from_pretrained(brain_folder)
    with torch.no_grad():
        alone, bridged = (m(**inputs).logits for m in (model.eval(), bridge.brain.model))
    assert torch.equal(alone, bridged)


def test_every_trained_tensor_gets_a_gradient_and_no_other(bridge: Bridge) -> None:
    loss = bridge(batch(bridge))
    assert loss.shape == (3,)
    loss.mean().backward()
    for name, parameter in bridge.named_parameters():
        if name in bridge.trained():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
    assert {name.split(".")[0] for name in bridge.trained()} == {"queries", "connector"}


def test_loss_of_a_batch_equals_its_singles(bridge: Bridge) -> None:
    rows = batch(bridge)
    together = bridge(rows)
    for k, prompt in enumerate(PROMPTS):
        alone = bridge(Batch((bridge.brain.collate([Example(prompt)]),), rows.pixels[k : k + 1], rows.noise_seeds[k : k + 1]))
        assert (together[k] - alone).abs().max() <= 1e-5


def test_conditions_of_pictures_and_of_words(bridge: Bridge, picture: Image.Image) -> None:
    mixed = bridge.condition(bridge.brain.collate([Example("edit it", (picture,)), Example("a cat")]))
    alone = bridge.condition(bridge.brain.collate([Example("a cat")]))
    assert mixed.embeds.shape == (2, 5, bridge.hand.width)
    assert (mixed.embeds[1:] - alone.embeds).abs().max() <= 1e-5


def test_frozen_parts_stay_in_eval(bridge: Bridge) -> None:
    bridge.train()
    assert bridge.training and bridge.connector.training
    assert not any(module.training for part in (bridge.brain, bridge.hand) for module in part.modules())


def test_queries_start_at_the_scale_of_embeddings(bridge: Bridge) -> None:
    assert bridge.queries.std().item() == pytest.approx(bridge.brain.embedding_std(), rel=0.2)


def test_distillation_alone_is_the_distance_to_the_native_prediction(brain_folder: Path, hand_folder: Path) -> None:
    """With distill = 1 the loss is |p(x_t, bridge) - p(x_t, native)|^2, whatever the data; a row without a caption keeps the data loss."""
    bridge = from_tree(brain_folder, hand_folder, objective={"distill": 1.0})
    plain = from_tree(brain_folder, hand_folder)
    rows = batch(bridge, captions=("a red cat", None, "a small yellow bird"))
    latents, condition = bridge.hand.encode(rows.pixels), bridge.condition(rows.inputs[0])
    sigma, noise = bridge.hand._draw_noise(latents, bridge.objective, rows.noise_seeds)  # type: ignore[operator]
    noisy, timestep = (1 - sigma) * latents + sigma * noise, 1000 * sigma.flatten()
    native = bridge.hand.describe(["a red cat", "", "a small yellow bird"])
    predicted, target = (bridge.hand.predict(noisy, timestep, c) for c in (condition, native))  # type: ignore[operator]
    expected = (predicted - target).square().flatten(1).mean(1)
    loss = bridge(rows)
    assert torch.allclose(loss[[0, 2]], expected[[0, 2]], atol=1e-6)
    assert torch.allclose(loss[1], plain(batch(plain))[1], atol=1e-6)
    assert torch.equal(bridge(batch(bridge)), plain(batch(plain)))  # no captions at all


def test_shallow_taps_read_shallow(brain_folder: Path, hand_folder: Path) -> None:
    bridge = from_tree(brain_folder, hand_folder, connector={"queries": 4, "taps": [2, 1], "width": 24, "layers": 1, "heads": 2})
    assert bridge.depth == 2
    shallow = bridge.condition(bridge.brain.collate([Example("a cat")]))
    deep = bridge.condition_from(bridge.brain.read(bridge.brain.collate([Example("a cat")])))
    assert (shallow.embeds - deep.embeds).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"connector": {"taps": [4]}}, "connector.taps: 4 given, but the brain has 3 layers; use 1..3 or -1"),
        (
            {"objective": {"name": "epsilon"}},
            "objective.name: epsilon given, but this hand's scheduler predicts flow; set objective.name=flow",
        ),
    ],
)
def test_settings_that_do_not_fit(brain_folder: Path, hand_folder: Path, sections: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        from_tree(brain_folder, hand_folder, **sections)


def test_distilling_from_a_hand_that_lost_its_text_encoder(brain_folder: Path, hand_folder: Path) -> None:
    bridge = from_tree(brain_folder, hand_folder, objective={"distill": 0.5})
    bridge.hand.native = None  # type: ignore[assignment]
    with pytest.raises(UserError, match="no text encoder to learn from"):
        bridge(batch(bridge, captions=("a", "b", "c")))


def test_half_precision_base_under_a_float32_bridge(brain_folder: Path, hand_folder: Path) -> None:
    tree = tiny.recipe_tree(brain_folder, hand_folder)
    for part in ("brain", "hand"):
        tree[part] |= {"dtype": "bfloat16"}  # type: ignore[operator]
    bridge = assemble(Recipe.from_dict(tree))
    assert {x.dtype for x in bridge.trained().values()} == {torch.float32}
    train(bridge, 2)
    assert torch.isfinite(bridge(batch(bridge))).all()


def test_float64_throughout(bridge: Bridge) -> None:
    bridge.double()
    rows = batch(bridge)
    loss = bridge(rows)
    assert loss.dtype == torch.float64
    alone = bridge(Batch((bridge.brain.collate([Example(PROMPTS[0])]),), rows.pixels[:1], rows.noise_seeds[:1]))
    assert (loss[:1] - alone).abs().max() <= 1e-12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_the_cpu_gives(bridge: Bridge) -> None:
    rows = batch(bridge)
    expected = bridge(rows).detach()
    assert (bridge.to("cuda")(rows).detach().cpu() - expected).abs().max() <= 1e-3
    pipeline = BridgePipeline(bridge, "tiny")
    images = pipeline(list(PROMPTS), think=True, max_new_tokens=4, seeds=[1, 2, 3], output_type="pt").images
    assert all(torch.isfinite(image).all() for image in images)
