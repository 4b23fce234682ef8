"""CLIP as a reader of colors: exact pixels before it, exact arithmetic after it, and the real class at tiny size as plumbing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.detect import Detection, clip_colors
from metabridge.eval.detect.clip_colors import Clip, ClipColors, crop, pixels
from metabridge.eval.items import Services
from metabridge.eval.scorers.geneval_rules import COLORS
from tests.conftest import noise_picture
from tests.eval import tiny_features

GREY = (0x99, 0x99, 0x99)


def test_the_crop_is_the_object_before_grey() -> None:
    image = noise_picture(0, 12, 9)
    mask = np.zeros((9, 12), bool)
    mask[2:6, 3:10] = True
    mask[3, 4] = False
    before = image.tobytes()
    found = np.asarray(crop(image, Detection("dog", 0.9, (3, 2, 10, 6), mask)))
    expected = np.asarray(image)[2:6, 3:10].copy()
    expected[1, 1] = GREY
    assert (found == expected).all() and image.tobytes() == before
    wider = np.asarray(crop(image, Detection("dog", 0.9, (1.4, 0.6, 10.6, 7.2), mask)))  # a box that is larger than its mask, not whole
    assert wider.shape == (6, 10, 3)
    assert (wider[0] == GREY).all() and (wider[1:5, 2:9] == expected).all()
    assert (np.asarray(crop(image, Detection("dog", 0.9, (3, 2, 10, 6)))) == np.asarray(image)[2:6, 3:10]).all()


def test_pixels_are_the_middle_square() -> None:
    """The short side becomes the side, bicubic with antialias; of the long one the middle stays."""
    image = noise_picture(1, 40, 15)
    resized = np.asarray(image.resize((21, 8), Image.Resampling.BICUBIC), np.float64) / 255  # 8 * 40 / 15 = 21.3
    expected = (resized[:, 6:14] - (0.48145466, 0.4578275, 0.40821073)) / (0.26862954, 0.26130258, 0.27577711)  # (21 - 8) / 2 is even 6
    assert np.abs(pixels(image, 8).permute(1, 2, 0).numpy() - expected).max() < 1e-5
    tall = pixels(image.transpose(Image.Transpose.ROTATE_90), 8)
    assert tall.shape == (3, 8, 8)


class Stub:
    """Embeddings by hand; it counts what it is asked."""

    def __init__(self, texts: dict[str, Sequence[float]], image: Sequence[float]) -> None:
        self.known, self.image = texts, image
        self.asked: list[str] = []
        self.seen: list[Image.Image] = []

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        self.asked += texts
        return torch.tensor([self.known.get(text, (0.0, 0.0, 1.0)) for text in texts])

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        self.seen += images
        return torch.tensor([self.image] * len(images))


def test_a_color_is_the_mean_of_three_prompts() -> None:
    """Each prompt of unit length before the mean, the mean of unit length after it: lengths must not vote, nor agreement of prompts."""
    texts = {
        "a photo of a red dog": (100.0, 0.0, 0.0),
        "a photo of a red-colored dog": (0.0, 1.0, 0.0),
        "a photo of a red object": (0.0, 1.0, 0.0),
        **dict.fromkeys(("a photo of a blue dog", "a photo of a blue-colored dog", "a photo of a blue object"), (1.0, 0.0, 0.0)),
    }
    stub = Stub(texts, (1.0, 1.0, 0.0))
    reader = ClipColors(stub, {"repo": "stub"})
    found = [Detection("dog", 0.9, (0, 0, 4, 4)), Detection("dog", 0.8, (2, 0, 4, 4))]
    # red: (1, 2, 0) / sqrt(5) . (1, 1, 0) / sqrt(2) = 0.949; blue: 0.707
    assert reader.colors(Image.new("RGB", (8, 8)), found) == ["red", "red"]
    weights = reader._weights("dog")
    assert torch.allclose(weights[COLORS.index("red")], torch.tensor([1.0, 2.0, 0.0]) / 5**0.5)
    assert [image.size for image in stub.seen] == [(4, 4), (2, 4)]
    assert stub.asked[:3] == ["a photo of a red dog", "a photo of a red-colored dog", "a photo of a red object"]
    assert len(stub.asked) == 30
    reader.colors(Image.new("RGB", (8, 8)), [replace(found[0], name="cat"), found[0]])
    assert len(stub.asked) == 60 and stub.asked[30] == "a photo of a red cat"  # a class is embedded once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_features.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def reader(folder: Path) -> ClipColors:
    return clip_colors.load(Services(None, models={"clip": str(folder)}))


def test_the_real_class(reader: ClipColors, folder: Path) -> None:
    """Its similarities are those of the model's own forward, for one prompt a color and no ensemble."""
    clip = Clip(str(folder), "cpu")
    texts, image = ["a photo of a red dog", "a dog"], noise_picture(2, 40, 24)
    tokens = clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        whole = clip.model(**tokens, pixel_values=pixels(image, 32)[None])
    mine = clip.images([image]), clip.texts(texts)
    unit = [rows / rows.norm(dim=-1, keepdim=True) for rows in mine]
    assert torch.allclose(unit[0], whole.image_embeds, atol=1e-6) and torch.allclose(unit[1], whole.text_embeds, atol=1e-6)
    assert torch.allclose(clip.texts(texts[1:]), mine[1][1:], atol=1e-5)  # padding changes nothing
    found = [Detection("dog", 0.9, (0, 0, 20, 20)), Detection("dog", 0.8, (4, 4, 30, 12))]
    colors = reader.colors(image, found)
    assert set(colors) <= set(COLORS)
    assert colors == [reader.colors(image, [one])[0] for one in found]
    assert reader.identity["repo"] == str(folder) and len(reader.identity["fingerprint"]) == 64


def test_an_untrained_clip_is_told_by_its_check(reader: ClipColors, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        reader.check()
    assert "of 10 flat colors rightly; colors are not to be trusted" in caplog.text


def test_a_clip_that_sees_nothing_is_found_before_scoring(reader: ClipColors) -> None:
    with pytest.raises(UserError, match="clip stub: the same embedding for ten different colors; the weights or the device are broken"):
        ClipColors(Stub({}, (1.0, 0.0, 0.0)), {"repo": "stub"}).check()
    with pytest.raises(UserError, match="clip stub: its embeddings are not finite"):
        ClipColors(Stub({}, (float("nan"), 0.0, 0.0)), {"repo": "stub"}).check()


def test_other_models_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"clip .*nowhere: cannot be loaded \(.*; download it, or give its folder with --model clip=FOLDER"):
        Clip(str(tmp_path / "nowhere"), "cpu")
    (tmp_path / "tower").mkdir()
    transformers.CLIPTextModel.from_pretrained(folder).save_pretrained(tmp_path / "tower")
    with pytest.raises(UserError, match=r"clip .*tower: "):
        Clip(str(tmp_path / "tower"), "cpu")
