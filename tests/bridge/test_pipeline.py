"""The public call: seeds, batches, guidance, thinking, and what bad input is told."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from PIL import ExifTags, Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition, Example
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import DECISION, BridgePipeline
from metabridge.bridge.settings import Objective
from metabridge.bridge.sizes import stacked as stacked_pictures

PROMPTS = ["a red cat", "two blue dogs in the snow", "a small yellow bird"]


@pytest.fixture(scope="module")
def pipeline(_bridge: Bridge) -> BridgePipeline:
    return BridgePipeline(copy.deepcopy(_bridge), "tiny")


def stacked(images: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(images)


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_images_are_row_major(pipeline: BridgePipeline) -> None:
    output = pipeline(PROMPTS, num_images_per_prompt=2, seeds=[1, 2, 3, 4, 5, 6], output_type="pt")
    assert len(output.images) == 6 and output.thoughts == [None] * 3 and output.seeds == [1, 2, 3, 4, 5, 6]
    again = pipeline(PROMPTS[1], num_images_per_prompt=2, seeds=[3, 4], output_type="pt")
    assert (stacked(again.images) - stacked(output.images[2:4])).abs().max() <= 1e-5


@pytest.mark.parametrize("think", [False, True])
def test_results_do_not_depend_on_the_batch(pipeline: BridgePipeline, think: bool) -> None:
    """In float64: linear attention of random weights divides by sums near zero, which makes 1e-4 of float32's rounding on some CPUs."""
    exact = copy.deepcopy(pipeline.bridge).double()
    seeds = list(range(6))
    settings = {"num_images_per_prompt": 2, "seeds": seeds, "output_type": "latent", "think": think, "max_new_tokens": 5}
    one, two = (BridgePipeline(exact, batch_size=size)(PROMPTS, **settings) for size in (16, 2))
    assert (stacked(one.images) - stacked(two.images)).abs().max() <= 1e-9
    assert one.thoughts == two.thoughts


def test_whole_chunks_give_the_same_bits(pipeline: BridgePipeline) -> None:
    """Prompts 0..3 come out alike, bit for bit, whether or not others follow: chunks are cut by item index."""
    small = BridgePipeline(pipeline.bridge, batch_size=2)
    four = [*PROMPTS, "a dog"]
    few = small(four, seeds=[0, 1, 2, 3], output_type="latent").images
    many = small([*four, "a mat", "a square"], seeds=list(range(6)), output_type="latent").images
    assert torch.equal(stacked(few), stacked(many[:4]))


def test_drawing_is_condition_guidance_and_hand(pipeline: BridgePipeline) -> None:
    """The call spelled out by hand."""
    bridge = pipeline.bridge
    with torch.no_grad():
        condition, null = (bridge.condition(bridge.brain.collate([Example(p)])) for p in ("a red cat", ""))
    latents = bridge.hand.draw(condition, [null], (4, 16, 16), 4, [2.5], generators([7]))
    output = pipeline("a red cat", seeds=[7], num_inference_steps=4, guidance_scale=2.5, output_type="latent")
    assert (output.images[0] - latents[0]).abs().max() <= 1e-5
    pixels = (bridge.hand.decode(latents)[0] / 2 + 0.5).clamp(0, 1)
    drawn = pipeline("a red cat", seeds=[7], num_inference_steps=4, guidance_scale=2.5, output_type="pt").images[0]
    assert (drawn - pixels).abs().max() <= 1e-4
    image = pipeline("a red cat", seeds=[7], num_inference_steps=4, guidance_scale=2.5).images[0]
    assert isinstance(image, Image.Image) and image.size == (64, 64) and image.mode == "RGB"


def test_size_and_steps(pipeline: BridgePipeline) -> None:
    seen: list[int] = []

    def callback(own: BridgePipeline, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        assert own is pipeline and tensors["latents"].shape == (1, 4, 8, 16) and 0 <= timestep <= 1000
        seen.append(step)

    image = pipeline("a cat", height=32, width=64, num_inference_steps=5, seeds=[0], callback_on_step_end=callback).images[0]
    assert image.size == (64, 32) and seen == [0, 1, 2, 3, 4]


def test_guidance_and_negative_prompt_have_an_effect(pipeline: BridgePipeline) -> None:
    def draw(**settings: object) -> torch.Tensor:
        return pipeline("a red cat", seeds=[1], output_type="latent", **settings).images[0]

    plain = draw(guidance_scale=1.0)
    assert not torch.allclose(plain, draw(guidance_scale=3.0))
    assert not torch.allclose(draw(guidance_scale=3.0), draw(guidance_scale=3.0, negative_prompt="a dog"))
    assert torch.equal(draw(), draw(guidance_scale=pipeline.bridge.hand.default_guidance))


def test_the_null_prompt_is_read_once(pipeline: BridgePipeline) -> None:
    """Its Memory is kept, its condition is not: the connector may have been trained on in between."""
    own = BridgePipeline(copy.deepcopy(pipeline.bridge))
    first = own("a cat", seeds=[1], output_type="latent").images[0]
    (memory,) = own.nulls.memories.values()
    with torch.no_grad():
        own.bridge.queries += 0.5
    second = own("a cat", seeds=[1], output_type="latent").images[0]
    assert list(own.nulls.memories.values()) == [memory]
    assert not torch.allclose(first, second)
    assert torch.equal(second, BridgePipeline(own.bridge)("a cat", seeds=[1], output_type="latent").images[0])


def test_guidance_of_an_edit(pipeline: BridgePipeline, picture: Image.Image) -> None:
    """(no picture, no text), (picture, no text), (picture, text)."""
    bridge = pipeline.bridge
    with torch.no_grad():
        blind, pictured, full = (
            bridge.condition(bridge.brain.collate([e])) for e in (Example(""), Example("", (picture,)), Example("edit it", (picture,)))
        )
    settings = {"image": picture, "seeds": [3], "guidance_scale": 2.0, "output_type": "latent"}
    three = pipeline("edit it", image_guidance_scale=1.5, **settings).images[0]
    expected = bridge.hand.draw(full, [blind, pictured], (4, 16, 16), 3, [1.5, 2.0], generators([3]))
    assert (three - expected[0]).abs().max() <= 1e-5
    two = pipeline("edit it", **settings).images[0]
    expected = bridge.hand.draw(full, [pictured], (4, 16, 16), 3, [2.0], generators([3]))
    assert (two - expected[0]).abs().max() <= 1e-5


def test_pictures_for_each_prompt(pipeline: BridgePipeline, picture: Image.Image, wide_picture: Image.Image) -> None:
    pictures = [[picture, wide_picture], [wide_picture]]
    together = pipeline(["mix", "edit"], image=pictures, seeds=[1, 2], output_type="latent").images
    alone = pipeline("mix", image=[picture, wide_picture], seeds=[1], output_type="latent").images
    assert (together[0] - alone[0]).abs().max() <= 1e-5


def test_a_picture_held_sideways_is_looked_at_upright(pipeline: BridgePipeline, wide_picture: Image.Image) -> None:
    sideways = wide_picture.transpose(Image.Transpose.ROTATE_90)
    sideways.getexif()[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees clockwise
    ways = [pipeline("edit it", image=image, seeds=[1], preserve=1.0, output_type="pt").images[0] for image in (wide_picture, sideways)]
    assert torch.equal(*ways)


def test_thinking_puts_the_queries_after_the_thought(pipeline: BridgePipeline) -> None:
    bridge = pipeline.bridge
    output = pipeline("a red cat", think=True, max_new_tokens=6, seeds=[1], output_type="latent", guidance_scale=1.0)
    memory = bridge.brain.read(bridge.brain.collate([Example("a red cat")], think=True))
    thoughts, grown = bridge.brain.reply(memory, 6)
    with torch.no_grad():
        expected = bridge.hand.draw(bridge.condition_from(grown), [], (4, 16, 16), 3, [], generators([1]))
    assert output.thoughts == thoughts
    assert (output.images[0] - expected[0]).abs().max() <= 1e-5


def test_rewriting_reads_the_thought_as_a_prompt(pipeline: BridgePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"seeds": [1], "output_type": "latent"}
    brain = pipeline.bridge.brain
    monkeypatch.setattr(brain, "reply", lambda memory, max_new_tokens: (["a dog"], memory))
    output = pipeline("a red cat", think=True, think_mode="rewrite", **settings)
    assert output.thoughts == ["a dog"]
    assert torch.equal(output.images[0], pipeline("a dog", **settings).images[0])
    monkeypatch.setattr(brain, "reply", lambda memory, max_new_tokens: ([""], memory))
    output = pipeline("a red cat", think=True, think_mode="rewrite", **settings)
    assert torch.equal(output.images[0], pipeline("a red cat", **settings).images[0])


def test_generators_and_seeds(pipeline: BridgePipeline) -> None:
    def draw(**settings: object) -> tuple[torch.Tensor, list[int]]:
        output = pipeline(PROMPTS[:2], output_type="latent", **settings)
        return stacked(output.images), output.seeds

    by_seeds, _ = draw(seeds=[4, 5])
    by_generators, seeds = draw(generator=generators([4, 5]))
    assert torch.equal(by_seeds, by_generators) and seeds == [4, 5]
    by_one, seeds = draw(generator=torch.Generator().manual_seed(9))
    assert torch.equal(by_one, draw(generator=torch.Generator().manual_seed(9))[0])
    assert torch.equal(by_one, draw(seeds=seeds)[0])
    free, seeds = draw()
    assert torch.equal(free, draw(seeds=seeds)[0]) and len(set(seeds)) == 2


def test_native_drawing_is_the_hand_under_its_own_text_encoder(pipeline: BridgePipeline) -> None:
    hand = pipeline.bridge.hand
    native, null = hand.describe(PROMPTS), hand.describe([""])
    assert native is not None and null is not None
    expected = hand.draw(native, [null], (4, 16, 16), 3, [3.0], generators([1, 2, 3]))
    output = pipeline.draw_native(PROMPTS, seeds=[1, 2, 3], output_type="latent")
    assert (stacked(output.images) - expected).abs().max() <= 1e-5
    unguided = pipeline.draw_native(PROMPTS[0], seeds=[1], guidance_scale=1.0, output_type="latent").images[0]
    assert (
        unguided - hand.draw(Condition.cat([native]).rows(torch.tensor([0])), [], (4, 16, 16), 3, [], generators([1]))[0]
    ).abs().max() <= 1e-5


def test_native_drawing_needs_a_text_encoder(bridge: Bridge) -> None:
    bridge.hand.native = None  # type: ignore[assignment]
    with pytest.raises(UserError, match="no text encoder of its own"):
        BridgePipeline(bridge).draw_native(["a cat"])


def test_answers_are_the_brains_own(pipeline: BridgePipeline, picture: Image.Image) -> None:
    brain = pipeline.bridge.brain
    expected, _ = brain.reply(brain.read(brain.collate([Example("what is it", (picture,))])), 5)
    assert pipeline.answer("what is it", picture, max_new_tokens=5) == expected[0]


def test_a_drawing_of_nan_is_named(bridge: Bridge) -> None:
    with torch.no_grad():
        bridge.connector.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="drawing gave NaN or infinity"):
        BridgePipeline(bridge)("a cat")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_one_failed_drawing_spares_the_others(pipeline: BridgePipeline, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Tensors are handed over for the caller to count; a PIL image cannot say that it is none."""
    whole = {kind: stacked(pipeline(PROMPTS, seeds=[1, 2, 3], output_type=kind).images) for kind in ("pt", "latent")}
    draw = pipeline.bridge.hand.draw

    def spoiled(*arguments: object) -> torch.Tensor:
        latents = draw(*arguments)  # type: ignore[arg-type]
        latents[1, 0, 3, 3] = value
        return latents

    monkeypatch.setattr(pipeline.bridge.hand, "draw", spoiled)
    for kind, expected in whole.items():
        images = stacked(pipeline(PROMPTS, seeds=[1, 2, 3], output_type=kind).images)
        assert images.isfinite().flatten(1).all(1).tolist() == [True, False, True]
        assert torch.equal(images[[0, 2]], expected[[0, 2]])
    with pytest.raises(UserError, match="drawing gave NaN or infinity"):
        pipeline(PROMPTS, seeds=[1, 2, 3])


@pytest.mark.parametrize(
    ("rates", "call", "told"),
    [
        ({"drop_text": 0.1}, {}, []),
        ({"drop_text": 0.0}, {"guidance_scale": 1.0}, []),
        ({"drop_text": 0.0}, {"negative_prompt": "a dog"}, []),
        ({"drop_text": 0.0}, {}, ["objective.drop_text=0"]),
        ({"drop_text": 0.0, "drop_both": 0.1}, {}, []),  # without pictures, both gone is text gone
        ({"drop_text": 0.0, "drop_both": 0.1}, {"image": True}, ["objective.drop_text=0"]),
        ({"drop_text": 0.1, "drop_both": 0.1}, {"image": True, "image_guidance_scale": 1.5}, []),
        ({"drop_text": 0.1}, {"image": True, "image_guidance_scale": 1.5}, ["objective.drop_both=0"]),
    ],
)
def test_guidance_from_a_row_that_was_never_trained_is_said(
    bridge: Bridge, picture: Image.Image, caplog: pytest.LogCaptureFixture, rates: dict[str, float], call: dict[str, Any], told: list[str]
) -> None:
    bridge.objective = Objective(**rates)
    settings = call | ({"image": picture} if "image" in call else {})
    own = BridgePipeline(bridge)
    for _ in range(2):  # and said once
        own("a cat", seeds=[1], num_inference_steps=1, output_type="latent", **settings)
    assert len(caplog.messages) == len(told) and all(word in line for word, line in zip(told, caplog.messages, strict=True))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"think": True}, True),
        ({"thought": "a dog"}, True),
        ({}, False),
        ({"think": True, "think_mode": "rewrite"}, False),  # the queries are read after a prompt
    ],
)
def test_a_thought_before_queries_that_never_saw_one_is_said(
    bridge: Bridge, caplog: pytest.LogCaptureFixture, call: dict[str, Any], told: bool
) -> None:
    own = BridgePipeline(bridge)
    for thinks in (False, True, False):
        bridge.thinks = thinks
        own("a cat", seeds=[1], num_inference_steps=1, guidance_scale=1.0, output_type="latent", max_new_tokens=2, **call)
    assert [line for line in caplog.messages if "replies were cut" not in line] == told * [
        "think: this bridge was trained with objective.think=0, not to draw what was thought; drawings may come out worse"
    ]


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ({"prompt": "  "}, "prompt: empty; say what to draw"),
        ({"prompt": []}, "prompt: empty"),
        ({"prompt": "a", "think": True, "think_mode": "never"}, "think_mode: 'never' given; it is one of: always, auto, rewrite"),
        ({"prompt": "a", "output_type": "jpg"}, "output_type: 'jpg' given"),
        ({"prompt": "a", "num_inference_steps": 0}, "num_inference_steps: 0 given"),
        ({"prompt": "a", "image_guidance_scale": 2.0}, "image_guidance_scale: 2 given, but no prompt comes with a picture"),
        ({"prompt": ["a", "b"], "image": [Image.new("RGB", (8, 8))]}, "image: 1 entries for 2 prompts"),
        ({"prompt": "a", "seeds": [1, 2]}, "seeds: 2 given for 1 images"),
        ({"prompt": "a", "seeds": [1], "generator": torch.Generator()}, "generator and seeds: both given"),
        ({"prompt": "a", "generator": [torch.Generator(), torch.Generator()]}, "generator: 2 given for 1 images"),
        ({"prompt": "a", "height": 30}, "height, width: 30x64 given"),
        ({"prompt": "a", "height": 0}, "height, width: 0 x 64 given; a picture has one pixel at least"),
        ({"prompt": "a", "seeds": 5}, "seeds: 5 given; give a list, one seed for each of 1 images"),
        ({"prompt": "a", "num_images_per_prompt": 0}, "num_images_per_prompt: it is 1 at least"),
        ({"prompt": "a", "think_mode": "auto"}, "think_mode: 'auto' has no effect without think=True"),
        ({"prompt": "a", "negative_prompt": "b", "guidance_scale": 1.0}, "negative_prompt: has no effect at guidance_scale 1"),
        ({"prompt": "cat " * 600}, "prompt: too long"),
    ],
)
def test_bad_input(pipeline: BridgePipeline, call: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        pipeline(**call)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_thought_that_is_given_is_rewritten_to(pipeline: BridgePipeline) -> None:
    (thought,) = pipeline.think("a red cat", think_mode="rewrite", max_new_tokens=6)
    settings: dict[str, Any] = {"seeds": [1], "output_type": "latent", "think": True, "think_mode": "rewrite", "max_new_tokens": 6}
    written, given = (pipeline("a red cat", thought=told, **settings).images[0] for told in (None, thought))
    assert (written - given).abs().max() <= 1e-5
    with pytest.raises(UserError, match="think_mode: 'rewriet' given"):
        pipeline.think("a red cat", think_mode="rewriet")


def test_native_guidance_steps_away_from_the_negative_prompt(pipeline: BridgePipeline) -> None:
    settings: dict[str, Any] = {"seeds": [1], "output_type": "latent", "guidance_scale": 2.0}
    plain, away = (pipeline.draw_native("a cat", negative_prompt=text, **settings).images[0] for text in ("", "a dog"))
    assert (plain - away).abs().max() > 1e-3


def test_preserving_all_gives_the_source_and_preserving_some_changes_a_part(pipeline: BridgePipeline, picture: Image.Image) -> None:
    source = pipeline.bridge.hand.encode(stacked_pictures([picture], (64, 64)))[0]

    def draw(preserve: float) -> torch.Tensor:
        size = {"height": 64, "width": 64}  # by default it would be of the picture's shape
        return pipeline("edit it", image=picture, seeds=[3], preserve=preserve, output_type="latent", **size).images[0]

    assert torch.equal(draw(1.0), source)
    half, anew = draw(0.97), draw(0.0)
    kept = (half == source).all(dim=0)
    assert 0 < kept.float().mean() < 1 and not torch.equal(anew, half)
    for strength in (0.9, 0.99):
        more = (draw(strength) == source).all(dim=0)
        assert (more | ~kept).all() if strength > 0.97 else (kept | ~more).all()  # what a weaker one keeps, a stronger one keeps too


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_preserving_is_as_alone_in_a_batch(
    pipeline: BridgePipeline, picture: Image.Image, wide_picture: Image.Image, guidance: float
) -> None:
    settings = {"preserve": 0.5, "guidance_scale": guidance, "output_type": "latent"}
    both = pipeline(["mix", "edit"], image=[[picture], [wide_picture]], seeds=[1, 2], **settings).images
    alone = pipeline("edit", image=wide_picture, seeds=[2], **settings).images[0]
    assert (both[1] - alone).abs().max() <= 1e-5


def test_a_brain_that_needs_no_thought_writes_none(pipeline: BridgePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto: the brain is asked about each prompt; rows with and without a thought are drawn in one call."""
    brain = pipeline.bridge.brain
    own, tokenizer = brain.say, brain.collate.tokenizer
    said = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("yes", "No.", "")]

    def say(memory: Any, max_new_tokens: int) -> Any:
        return (said, memory) if max_new_tokens == DECISION else own(memory, max_new_tokens)

    settings = {"seeds": [1, 2, 3], "output_type": "latent", "think": True, "max_new_tokens": 6}
    thinking = pipeline(PROMPTS, **settings)
    monkeypatch.setattr(brain, "say", say)
    auto = pipeline(PROMPTS, think_mode="auto", **settings)
    assert auto.thoughts == [thinking.thoughts[0], None, thinking.thoughts[2]]
    plain = pipeline(PROMPTS[1], seeds=[2], output_type="latent").images[0]
    for ours, theirs in zip(auto.images, (thinking.images[0], plain, thinking.images[2]), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5


def test_a_thought_that_is_given_is_read_and_none_is_written(pipeline: BridgePipeline) -> None:
    bridge = pipeline.bridge
    output = pipeline(["a cat", "a bird"], thought=["a dog", None], think=True, max_new_tokens=4, seeds=[1, 2], output_type="latent")
    assert output.thoughts[0] == "a dog" and output.thoughts[1] not in (None, "a dog")
    with torch.no_grad():
        condition, null = (bridge.condition(bridge.brain.collate([e])) for e in (Example("a cat", thought="a dog"), Example("")))
    expected = bridge.hand.draw(condition, [null], (4, 16, 16), 3, [bridge.hand.default_guidance], generators([1]))
    assert (output.images[0] - expected[0]).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ({"prompt": "a", "preserve": 0.5}, "preserve: 0.5 given, but a prompt comes without a picture to keep anything of; leave it at 0"),
        ({"prompt": "a", "preserve": 2}, "preserve: 2 given; it is 0 "),
        ({"prompt": "a", "image": "a.png"}, "image: str given; give a PIL image, as Image.open"),
        ({"prompt": "a", "image": Image.new("RGB", (0, 5))}, "image: 0x5 pixels given; a picture has one pixel at least"),
        ({"prompt": "a", "image": Image.new("L", (10_000, 2))}, "image: 10000x2 pixels given; 8192 a side at most, scale it down first"),
        ({"prompt": ["a", "b"], "thought": "c"}, "thought: 1 given for 2 prompts; give one for each prompt"),
        ({"prompt": "a", "references": False}, "references: False given, but this hand is given no source pictures in any case"),
    ],
)
def test_odd_pictures_and_settings(pipeline: BridgePipeline, call: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        pipeline(**call)
    assert str(caught.value).startswith(line)


def test_memory_that_runs_out_is_one_line(pipeline: BridgePipeline) -> None:
    """A real allocation that fails."""

    def callback(*_: Any) -> None:
        torch.empty(2**60)

    with pytest.raises(UserError, match=r"^out of memory \(.*\); draw fewer images at once \(batch_size\), smaller ones \(height, width\)"):
        pipeline("a cat", seeds=[1], callback_on_step_end=callback)
