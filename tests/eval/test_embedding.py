"""Similarities by hand-made vectors, whose cosines are known; the real classes of CLIP and DINO at tiny size as plumbing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from metabridge.bridge.errors import UserError
from metabridge.eval.features.clip import ClipFeatures
from metabridge.eval.features.dino import DinoFeatures
from metabridge.eval.items import Item, Services
from metabridge.eval.scorers import embedding
from metabridge.eval.scorers.embedding import Embedding
from tests.conftest import noise_picture
from tests.eval import tiny_features

RED, GREEN, BLUE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


class Colors:
    """A picture's vector is its first pixel, a text's as it is told."""

    name, limit = "colors", 4
    identity: Mapping[str, str] = {"repo": "colors"}

    def __init__(self, texts: Mapping[str, Sequence[float]] | None = None) -> None:
        self.known = texts or {}
        self.seen = 0

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        self.seen += len(images)
        return np.array([image.getpixel((0, 0)) for image in images], np.float32)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self.known[text] for text in texts], np.float32)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) + 2 for text in texts]


def flat(color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (8, 6), color)


def item(text: str, *real: str) -> Item:
    return Item(0, "0", "subject", text, {"real": list(real)})


@pytest.fixture
def real(tmp_path: Path) -> Path:
    for name, color in (("red", RED), ("green", GREEN), ("grey", (255, 255, 255))):
        flat(color).save(tmp_path / f"{name}.png")
    return tmp_path


def test_values_are_cosines(real: Path) -> None:
    """Whatever the vectors' lengths; the mean over real pictures, not the cosine to their mean."""
    clip = Colors({"red": (2, 0, 0), "yellow": (5, 5, 0), "not red": (-1, 0, 0)})
    scorer = Embedding(("clip_score", "clip_t", "clip_i", "dino"), clip, Colors(), real)
    subject = ("red.png", "grey.png")
    verdicts = scorer.score([(item(text, *subject), flat(RED)) for text in clip.known] + [(item("red", "green.png"), flat((3, 4, 0)))])
    mean = (1 + 3**-0.5) / 2
    expected = [(100, 1, mean), (100 / 2**0.5, 2**-0.5, mean), (0, -1, mean), (60, 0.6, 0.8)]
    assert [list(verdict.values) for verdict in verdicts] == [["clip_score", "clip_t", "clip_i", "dino"]] * 4
    for verdict, (score, text, image) in zip(verdicts, expected, strict=True):
        assert list(verdict.values.values()) == pytest.approx([score, text, image, image], abs=1e-6)
        assert verdict.features is None and not verdict.detail


def test_real_pictures_are_embedded_once(real: Path) -> None:
    dino = Colors()
    scorer = Embedding(("dino",), None, dino, real)
    scorer.score([(item("red", "red.png", "grey.png"), flat(RED)), (item("red", "red.png"), flat(RED))])
    scorer.score([(item("red", "grey.png", "green.png"), flat(RED))])
    assert dino.seen == 3 + 3  # drawn and real


def test_a_prompt_that_is_longer_than_what_is_compared() -> None:
    clip = Colors({"a b": (1, 0, 0), "a b c": (1, 0, 0)})
    short, long = Embedding(("clip_score",), clip, None, None).score([(item("a b"), flat(RED)), (item("a b c"), flat(RED))])
    assert short.detail == {} and long.detail == {"prompt_tokens": 5, "compared": 4}


def test_what_is_refused(real: Path) -> None:
    def said(item: Item, data: Path | None) -> str:
        with pytest.raises(UserError) as error:
            Embedding(("dino",), None, Colors(), data).score([(item, flat(RED))])
        return str(error.value)

    assert said(item("red"), real) == "scoring.measures: subject/0 has no real pictures to be compared with; its reader names none"
    (real / "torn.png").write_bytes(b"torn")
    assert said(item("red", "torn.png"), real).startswith(f"{real}/torn.png: a real picture that cannot be read (")
    for measures, says in (
        (None, "scoring.measures: None given; it is a list of: clip_score, clip_t, clip_i, dino"),
        ([], "scoring.measures: [] given; it is a list of: clip_score, clip_t, clip_i, dino"),
        (["dinos"], "scoring.measures: dinos: no such measure; did you mean dino? it may be one of: clip_i, clip_score, clip_t, dino"),
    ):
        with pytest.raises(UserError) as error:
            embedding.load({"measures": measures}, Services(None))
        assert str(error.value) == says


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {"clip": str(tiny_features.clip(folder / "tiny-clip")), "dino": str(tiny_features.dino(folder / "tiny-dino"))}


def test_the_real_classes(models: dict[str, str], real: Path) -> None:
    """Batch = singles, and the order of pictures does not matter."""
    scorer = embedding.load({"measures": ["clip_t", "clip_i", "dino"]}, Services(real, models=models))
    scorer.check()
    assert scorer.identity["variant"] == "tiny-dino tiny-clip" and list(scorer.identity["models"]) == ["dino", "clip"]
    assert scorer.identity["models"]["dino"]["input"] == "short side 64 bicubic, middle 56"
    rows = [
        (item(text, "red.png", "grey.png"), noise_picture(seed, 40 + 9 * seed, 70))
        for seed, text in enumerate(("a cat", "two dogs run", "x"))
    ]
    together = scorer.score(rows)
    apart = [scorer.score([row])[0] for row in reversed(rows)][::-1]
    for one, other in zip(together, apart, strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-5) and all(-1 <= value <= 1 for value in one.values.values())
    again = embedding.load({"measures": ["clip_t", "clip_i", "dino"]}, Services(real, models=models))
    assert [verdict.values for verdict in again.score(rows)] == [verdict.values for verdict in together]


def test_clip_score_is_the_models_own_logit(models: dict[str, str]) -> None:
    """transformers' CLIPModel and processor, without the temperature. Where the middle is no whole pixel, the processor is not CLIP's."""
    image, text = noise_picture(3, 60, 40), "a cat on a mat"
    (verdict,) = embedding.load({"measures": ["clip_score", "clip_t"]}, Services(None, models=models)).score([(item(text), image)])
    model, tokenizer = (kind.from_pretrained(models["clip"]) for kind in (transformers.CLIPModel, transformers.CLIPTokenizer))
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    with torch.no_grad():
        out = model(**tokenizer([text], return_tensors="pt"), pixel_values=processor(image, return_tensors="pt")["pixel_values"])
        cosine = float(out.logits_per_image / model.logit_scale.exp())
    assert verdict.values == pytest.approx({"clip_t": cosine, "clip_score": 100 * max(cosine, 0)}, abs=1e-5)


def test_a_long_text_is_its_beginning(models: dict[str, str]) -> None:
    clip = ClipFeatures(models["clip"], "cpu")
    words = "a " * 75  # and a begin and an end
    assert clip.limit == 77 and clip.lengths([words, words + "b"]) == [77, 78]
    assert np.abs(clip.texts([words + "b c d"]) - clip.texts([words])).max() < 1e-6
    assert np.abs(clip.texts(["a", words]) - np.concatenate([clip.texts(["a"]), clip.texts([words])])).max() < 1e-5


def test_dino_is_the_class_token(models: dict[str, str]) -> None:
    """Its picture by transformers' own processor, told DINO's evaluation: short side to 8/7 of the side, the middle, ImageNet's colors."""
    image = noise_picture(4, 90, 75)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 64},
        crop_size={"height": 56, "width": 56},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    dino = DinoFeatures(models["dino"], "cpu")
    assert (dino.pixels(image) - pixels[0]).abs().max() < 1e-5
    model = transformers.ViTModel.from_pretrained(models["dino"], add_pooling_layer=False)
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state[:, 0]
    assert np.abs(dino.images([image]) - expected.numpy()).max() < 1e-5


def test_the_hubs_names_of_dinos_weights(models: dict[str, str], tmp_path: Path) -> None:
    """The file has the names that the hub's has, and no pooler; one that lacks a layer is refused."""
    folder = tmp_path / "dino"
    folder.mkdir()
    weights = load_file(Path(models["dino"]) / "model.safetensors")
    assert "encoder.layer.1.attention.attention.query.weight" in weights and not any("pooler" in name for name in weights)
    save_file({name: tensor for name, tensor in weights.items() if "layer.1.output" not in name}, folder / "model.safetensors")
    (folder / "config.json").write_text((Path(models["dino"]) / "config.json").read_text())
    assert json.loads((folder / "config.json").read_text())["model_type"] == "vit"
    with pytest.raises(UserError, match=r"^dino .*: the checkpoint lacks 2 of the model's weights, as layers\.1\.mlp\.fc2\.bias"):
        DinoFeatures(str(folder), "cpu")


def test_a_clip_that_reads_nothing_is_found_before_scoring() -> None:
    clip = Colors({"a red ball": (1, 0, 0), "two dogs on a street": (1, 0, 0)})
    with pytest.raises(UserError, match=r"^clip colors: the same embedding, or none, for two different texts; fetch the weights again$"):
        Embedding(("clip_t",), clip, None, None).check()
    clip.known = {"a red ball": (1, 0, 0), "two dogs on a street": (0, float("nan"), 0)}
    with pytest.raises(UserError, match=r"^clip colors: the same embedding, or none"):
        Embedding(("clip_t",), clip, None, None).check()
