"""Mask2Former's way from pixels to detections: hand-written logits, an independent slow route, and the real class at tiny size."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.detect import Detection, mask2former
from metabridge.eval.detect.mask2former import Mask2Former, Shape, distance, instances, known_pictures, pixels
from metabridge.eval.items import Services
from tests.conftest import noise_picture

NAMES = ["person", "computer mouse", "dog"]
SIZES = [(64, 64), (48, 80), (37, 53), (200, 31)]  # height, width: square, wide, odd, tall


def square(height: int, width: int, box: tuple[int, int, int, int], inside: float = 5.0, outside: float = -5.0) -> torch.Tensor:
    logits = torch.full((height, width), outside)
    logits[box[1] : box[3], box[0] : box[2]] = inside
    return logits


def chances(*rows: list[float]) -> torch.Tensor:
    """Logits whose softmax is these; the last column is `no object`."""
    return torch.tensor(rows).log()


def same_size(height: int, width: int) -> Shape:
    return Shape((height, width), (height, width), (height, width))


def test_two_squares() -> None:
    """Known boxes, scores and classes; the second square's query is of two classes."""
    classes = chances([0.1, 0.8, 0.05, 0.05], [0.5, 0.1, 0.35, 0.05], [0.01, 0.01, 0.01, 0.97])
    masks = torch.stack([square(32, 48, (4, 6, 10, 20)), square(32, 48, (20, 0, 48, 8), inside=1.0), square(32, 48, (0, 0, 0, 0))])
    found = instances(classes, masks, same_size(32, 48), NAMES)
    sure, half = 1 / (1 + math.exp(-5)), 1 / (1 + math.exp(-1))
    first, second = (4.0, 6.0, 10.0, 20.0), (20.0, 0.0, 48.0, 8.0)
    assert [(one.name, one.box) for one in found] == [
        ("computer mouse", first), ("person", second), ("dog", second), ("person", first), ("computer mouse", second), ("dog", first)
    ]  # fmt: skip
    expected = [0.8 * sure, 0.5 * half, 0.35 * half, 0.1 * sure, 0.1 * half, 0.05 * sure]
    assert [one.score for one in found] == pytest.approx(expected, rel=1e-5)
    assert found[0].mask is not None and found[0].mask.dtype == bool and found[0].mask.shape == (32, 48)
    assert found[0].mask.sum() == 6 * 14 and found[0].mask[6:20, 4:10].all()
    assert found[1].mask is found[2].mask


def test_a_hundred_of_query_and_class_by_class_score() -> None:
    """The choice is made before the mask's quality counts: a sure class of a poor mask stays, a less sure one of a good mask goes."""
    classes = chances(*[[0.3, 0.3, 0.3, 0.1]] * 40)
    classes[7] = chances([0.29, 0.29, 0.29, 0.13])[0]
    masks = torch.stack([square(8, 8, (0, 0, 4, 4), inside=9.0 if k == 7 else 0.01) for k in range(40)])
    found = instances(classes, masks, same_size(8, 8), NAMES)
    assert len(found) == 100
    assert max(one.score for one in found) < 0.16  # 0.3 * sigmoid(0.01); query 7 would have had 0.29
    classes[7] = chances([0.31, 0.01, 0.01, 0.67])[0]
    assert instances(classes, masks, same_size(8, 8), NAMES)[0].score == pytest.approx(0.31, abs=1e-3)


def test_padding_is_cut_before_the_picture_takes_its_size() -> None:
    """A mask of the padding alone is no object, and one that reaches into it ends at the picture's edge."""
    shape = Shape(own=(30, 20), resized=(60, 40), padded=(64, 64))
    masks = torch.stack([square(16, 16, (11, 0, 16, 16)), square(16, 16, (5, 0, 16, 16))])
    found = instances(chances([0.9, 0.02, 0.02, 0.06], [0.02, 0.9, 0.02, 0.06]), masks, shape, NAMES)
    assert {one.name for one in found if one.score > 0.5} == {"computer mouse"}
    assert found[0].box == (10.0, 0.0, 20.0, 30.0)  # quarter 5 of 16 is pixel 20 of 64, 10 of the picture's own


def slow(classes: np.ndarray, masks: np.ndarray, shape: Shape) -> list[tuple[float, int, tuple[int, ...], np.ndarray]]:
    """The same by loops over pixels in float64: (score, class, box, mask), best first."""

    def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        out = np.zeros(size)
        for y in range(size[0]):
            for x in range(size[1]):
                v, u = (
                    min(max((p + 0.5) * n / m - 0.5, 0), n - 1) for p, n, m in ((y, image.shape[0], size[0]), (x, image.shape[1], size[1]))
                )
                top, left = int(v), int(u)
                below, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
                a, b = v - top, u - left
                upper = (1 - b) * image[top, left] + b * image[top, right]
                lower = (1 - b) * image[below, left] + b * image[below, right]
                out[y, x] = (1 - a) * upper + a * lower
        return out

    pairs = []
    for query, logits in enumerate(classes):
        total = sum(math.exp(value) for value in logits)
        pairs += [(math.exp(value) / total, query, label) for label, value in enumerate(logits[:-1])]
    found = []
    for chance, query, label in sorted(pairs, key=lambda pair: -pair[0])[:100]:
        logits = resize(resize(masks[query], shape.padded)[: shape.resized[0], : shape.resized[1]], shape.own)
        places = [(y, x) for y in range(shape.own[0]) for x in range(shape.own[1]) if logits[y, x] > 0]
        if places:
            quality = sum(1 / (1 + math.exp(-logits[place])) for place in places) / len(places)
            rows, columns = zip(*places, strict=True)
            found.append((chance * quality, label, (min(columns), min(rows), max(columns) + 1, max(rows) + 1), logits > 0))
    return sorted(found, key=lambda one: -one[0])


@pytest.mark.parametrize("size", SIZES)
def test_against_a_slow_route(size: tuple[int, int]) -> None:
    height, width = size
    resized = (height * 3 // 4, width * 3 // 4)
    shape = Shape(size, resized, (-(-resized[0] // 32) * 32, -(-resized[1] // 32) * 32))
    generator = torch.Generator().manual_seed(height)
    classes = torch.randn(4, 4, generator=generator)
    masks = torch.randn(4, shape.padded[0] // 4, shape.padded[1] // 4, generator=generator) - 0.5
    masks[2] = -1.0  # an empty one
    found = instances(classes, masks, shape, NAMES)
    expected = slow(classes.double().numpy(), masks.double().numpy(), shape)
    assert len(found) == len(expected) == 9
    for one, (score, label, box, mask) in zip(found, expected, strict=True):
        assert one.score == pytest.approx(score, rel=1e-4)
        assert (one.name, one.box) == (NAMES[label], box)
        assert (one.mask == mask).all()


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((1024, 1024), (800, 800), (800, 800)),
        ((480, 640), (800, 1067), (800, 1088)),
        ((333, 500), (800, 1201), (800, 1216)),
        ((300, 900), (444, 1333), (448, 1344)),  # the long side is the limit
        ((1333, 800), (1333, 800), (1344, 800)),
    ],
)
def test_sizes(size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]) -> None:
    assert Shape.of(*size) == Shape(size, resized, padded)


def test_pixels() -> None:
    """Pixel centres, no antialias, whole values; ImageNet's mean and deviation; the padding is zero."""
    image = Image.fromarray(np.array([[[0, 0, 0], [255, 100, 10]]], np.uint8))  # 1 x 2
    values = pixels(image, Shape((1, 2), (1, 4), (2, 6)))
    assert values.shape == (3, 2, 6)
    bytes_ = values[:, 0, :4] * torch.tensor([[58.395], [57.12], [57.375]]) + torch.tensor([[123.675], [116.28], [103.53]])
    assert torch.allclose(bytes_, torch.tensor([[0.0, 64, 191, 255], [0, 25, 75, 100], [0, 2, 8, 10]]), atol=1e-4)
    assert not values[:, 1].any() and not values[:, :, 4:].any()
    halved = pixels(Image.fromarray(np.arange(0, 160, 10, dtype=np.uint8).repeat(3).reshape(1, 16, 3)), Shape((1, 16), (1, 4), (1, 4)))
    assert torch.allclose(halved[0, 0] * 58.395 + 123.675, torch.tensor([15.0, 55, 95, 135]).round(), atol=1e-4)


def tiny(**options: object) -> transformers.Mask2FormerForUniversalSegmentation:
    backbone = transformers.SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=[f"stage{k}" for k in (1, 2, 3, 4)],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        **{"id2label": {0: "person", 1: "mouse", 2: "dog"}, **options},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.Mask2FormerForUniversalSegmentation(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mask2former")
    tiny().save_pretrained(folder / "model")
    (folder / "object_names.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return folder


@pytest.fixture
def services(folder: Path) -> Services:
    return Services(folder, models={"detector": str(folder / "model")})


@pytest.fixture
def detector(services: Services) -> Mask2Former:
    return mask2former.load(services)


def test_the_real_class(detector: Mask2Former) -> None:
    """Pictures of several sizes in one call equal each alone, to the bit, and the parts put together by hand."""
    images = [noise_picture(seed, *size) for seed, size in enumerate(SIZES[:3])]
    together = detector.detect(images)
    for image, found in zip(images, together, strict=True):
        assert found and [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        (alone,) = detector.detect([image])
        same(found, alone)
        shape = Shape.of(image.height, image.width)
        with torch.no_grad():
            answer = detector.model(pixel_values=pixels(image, shape)[None])
        assert answer.masks_queries_logits.shape[-2:] == (shape.padded[0] // 4, shape.padded[1] // 4)
        same(found, instances(answer.class_queries_logits[0], answer.masks_queries_logits[0], shape, NAMES))
    assert detector.identity["repo"].endswith("model") and len(detector.identity["fingerprint"]) == 64


def same(a: list[Detection], b: list[Detection]) -> None:
    assert [replace(one, mask=None) for one in a] == [replace(one, mask=None) for one in b]
    assert all((one.mask == other.mask).all() for one, other in zip(a, b, strict=True))


def test_a_working_detector_passes_its_check(detector: Mask2Former) -> None:
    detector.check()
    first, second = known_pictures()
    assert first.size == second.size and first.tobytes() != second.tobytes()


def break_nan(model: torch.nn.Module) -> None:
    model.class_predictor.weight[0, 0] = torch.nan


def break_constant(model: torch.nn.Module) -> None:
    """The picture no longer reaches the answer: what comes of the backbone is zero, and the layers after it have their own say."""
    for layer in model.model.pixel_level_module.encoder.hidden_states_norms.values():
        layer.weight.zero_()
        layer.bias.zero_()
    for layer in model.modules():
        if isinstance(layer, torch.nn.GroupNorm):
            layer.bias.normal_(generator=torch.Generator().manual_seed(0))


def break_empty(model: torch.nn.Module) -> None:
    *_, last = (m for m in model.model.transformer_module.decoder.mask_predictor.mask_embedder.modules() if isinstance(m, torch.nn.Linear))
    last.weight.zero_()
    last.bias.zero_()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_nan, "its outputs are not finite"),
        (break_empty, "no mask at all in two known pictures"),
        (break_constant, "the same answer to two different pictures"),
    ],
)
def test_a_broken_detector_is_found_before_scoring(detector: Mask2Former, damage: object, message: str) -> None:
    with torch.no_grad():
        damage(detector.model)  # type: ignore[operator]
    with pytest.raises(UserError, match=f"detector .*model on cpu: {message}; the weights or the device are broken"):
        detector.check()


def test_a_picture_whose_answer_is_not_finite_stops_the_run(detector: Mask2Former) -> None:
    with torch.no_grad():
        break_nan(detector.model)
    with pytest.raises(UserError, match="its outputs are not finite"):
        detector.detect([noise_picture(0, 32, 32)])


def test_distance() -> None:
    a = (chances([0.5, 0.3, 0.2]), torch.zeros(1, 2, 2))
    assert distance(a, a) == 0
    assert distance(a, (chances([0.2, 0.6, 0.2]), torch.zeros(1, 2, 2))) == pytest.approx(0.3)
    assert distance(a, (chances([0.5, 0.3, 0.2]), torch.full((1, 2, 2), 40.0))) == pytest.approx(0.5)


@pytest.mark.gpu
def test_the_gpu_answers_as_the_cpu_does(services: Services) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    mask2former.load(replace(services, device="cuda")).check()


def test_other_models_are_refused(folder: Path, services: Services, tmp_path: Path) -> None:
    def load(model: Path | str) -> Mask2Former:
        return mask2former.load(replace(services, models={"detector": str(model)}))

    with pytest.raises(
        UserError, match=r"detector .*nowhere: cannot be loaded \(.*; download it, or give its folder with --model detector="
    ):
        load(tmp_path / "nowhere")
    for name, labels, message in [
        ("more", {k: f"LABEL_{k}" for k in range(4)}, "4 classes, the benchmark has 3; give a model of COCO instances"),
        ("other", {0: "wall", 1: "mouse", 2: "sky"}, "2 of its 3 classes have other names, as wall for person; give a model of COCO"),
    ]:
        tiny(id2label=labels).save_pretrained(tmp_path / name)
        with pytest.raises(UserError, match=message):
            load(tmp_path / name)
    tiny(id2label={k: f"LABEL_{k}" for k in range(3)}).save_pretrained(tmp_path / "unnamed")
    load(tmp_path / "unnamed")
    model = tiny()
    state = {name: tensor for name, tensor in model.state_dict().items() if "class_predictor" not in name}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    with pytest.raises(
        UserError, match=r"the checkpoint lacks 2 of the model's weights, as class_predictor.bias; it is damaged or another kind"
    ):
        load(tmp_path / "part")
