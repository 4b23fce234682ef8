"""The checker reads the renderer's own drawings, and is not fooled by wrong ones."""

import random
from itertools import pairwise

import pytest
from PIL import Image, ImageDraw, ImageFilter

from metabridge.eval.detect.flatland import correct, detect
from metabridge.training.flatland.captions import TAGS, Want, captioned
from metabridge.training.flatland.prompts import KINDS, reasoning_prompts
from metabridge.training.flatland.world import COLORS, GROUND, SHAPES, Object, Scene, draw


@pytest.mark.parametrize("tag", TAGS)
def test_right_scenes_are_read_right(tag):
    rows = [captioned(random.Random(seed), tag, wanted, allow_held_out=True) for seed in range(150) for wanted in ("train", "eval")]
    assert sum(correct(draw(r.scene), r.want)[0] for r in rows) / len(rows) >= 0.99


@pytest.mark.parametrize("tag", TAGS)
def test_the_scene_of_another_caption_is_wrong(tag):
    rows = [captioned(random.Random(seed), tag, "eval") for seed in range(60)]
    for row, other in pairwise(rows):
        if row.want != other.want and not correct(draw(row.scene), other.want)[0]:
            assert correct(draw(row.scene), other.want)[1]
    strangers = [(r, o) for r in rows for o in rows[:10] if set(r.want.objects) != set(o.want.objects)]
    assert sum(correct(draw(r.scene), o.want)[0] for r, o in strangers) == 0


def scene(*objects):
    return Scene(tuple(Object(shape, color, x, y, 9.0) for color, shape, x, y in objects))


STAR, CIRCLE = ("red", "star", 17, 32), ("blue", "circle", 46, 32)
WANT = Want((("red", "star"), ("blue", "circle")), "left")


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ((STAR,), "1 objects, wanted 2"),
        ((STAR, CIRCLE, ("green", "heart", 32, 54)), "3 objects, wanted 2"),
        ((("blue", "star", 17, 32), ("red", "circle", 46, 32)), "shows"),
        ((("red", "star", 46, 32), ("blue", "circle", 17, 32)), "not left"),
        ((("red", "star", 32, 17), ("blue", "circle", 32, 46)), "not left"),
        ((("red", "heart", 17, 32), CIRCLE), "shows"),
    ],
)
def test_wrong_scenes_fail_with_the_reason(objects, reason):
    right, why = correct(draw(scene(*objects)), WANT)
    assert not right and reason in why


def test_the_right_one_passes():
    assert correct(draw(scene(STAR, CIRCLE)), WANT) == (True, "")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("size", [8.5, 13.0])
def test_every_shape_in_every_color_and_size(shape, color, size):
    (found,) = detect(draw(Scene((Object(shape, color, 32, 32, size),))))
    assert (found.shape, found.color) == (shape, color)
    assert found.x == pytest.approx(32, abs=1) and found.y == pytest.approx(32, abs=4)  # a heart is heavy on top


def test_blank_noise_blur_and_two_colored_blobs_are_no_objects():
    want = Want(((None, "circle"),))
    assert not correct(Image.new("RGB", (64, 64), GROUND), want)[0]
    assert not correct(Image.effect_noise((64, 64), 90).convert("RGB"), want)[0]
    halves = draw(scene(("red", "circle", 32, 32)))
    ImageDraw.Draw(halves).rectangle((32, 0, 64, 64), fill=GROUND)
    assert not correct(halves, want)[0]
    mixed = draw(scene(("red", "circle", 32, 32)))
    blue = draw(scene(("blue", "circle", 32, 32))).crop((32, 0, 64, 64))
    mixed.paste(blue, (32, 0))
    assert not correct(mixed, want)[0] and detect(mixed)[0].color == "mixed"
    assert not correct(draw(scene(("red", "star", 32, 32))).filter(ImageFilter.GaussianBlur(9)), Want(((None, "star"),)))[0]


def test_reasoning_prompts_want_what_their_rewrite_says():
    for kind in KINDS:
        for prompt in reasoning_prompts(kind, 20, seed=3):
            assert all((shape or "") in prompt.rewrite for _, shape in prompt.want.objects)
            assert all((color or "") in prompt.rewrite for color, _ in prompt.want.objects)
