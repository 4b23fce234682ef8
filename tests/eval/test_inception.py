"""FID's network against torch-fidelity's, by its answers as they were recorded; how pictures come to its size; what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import download
from metabridge.eval.features import inception, known
from metabridge.eval.features.inception import InceptionFeatures
from metabridge.eval.features.inception_net import Inception
from metabridge.eval.features.pixels import middle, short_side, tensor, tf1_bilinear
from tests.conftest import noise_picture
from tests.eval import tiny_features


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_features.inception(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture(scope="module")
def encoder(weights: Path) -> InceptionFeatures:
    return InceptionFeatures(str(weights), "none", "cpu")


def test_names_and_shapes_are_torch_fidelitys() -> None:
    """The sha256 of torch-fidelity 0.4.0's own list, so that the field's file of weights fits."""
    state = Inception().state_dict() | {"fc.weight": torch.empty(1008, 2048), "fc.bias": torch.empty(1008)}
    listed = "".join(f"{name} {tuple(tensor.shape)}\n" for name, tensor in sorted(state.items()))
    assert hashlib.sha256(listed.encode()).hexdigest() == "eeafab116b1cf3f08243d1931ba765f5601f57773ada5fcfee37024cf0ca23e4"


def test_features_are_torch_fidelitys(encoder: InceptionFeatures) -> None:
    """What its network said of this picture, resized by itself, under these weights. It needs torchvision, so it cannot be asked here."""
    (features,) = encoder.images([known.pictures()[1]])
    at = {7: 0.0, 318: 0.0, 629: 2.461514, 940: 0.339955, 1251: 0.353788, 1562: 2.593274, 1873: 2.639584, 2003: 7.935746, 2010: 8.270674}
    assert features.shape == (2048,) and features.dtype == np.float32
    assert features[list(at)] == pytest.approx(list(at.values()), rel=1e-4, abs=1e-5)
    assert float(features.mean()) == pytest.approx(0.998960, rel=1e-4) and float(np.linalg.norm(features)) == pytest.approx(
        75.90977, rel=1e-4
    )


def test_batch_is_singles_and_order_does_not_matter(encoder: InceptionFeatures) -> None:
    images = [noise_picture(seed, 40 + 30 * seed, 64) for seed in range(3)]
    together = encoder.images(images)
    apart = np.concatenate([encoder.images([image]) for image in reversed(images)])[::-1]
    assert np.abs(together - apart).max() <= 1e-5 * np.abs(together).max()
    known.check("inception", encoder)


def test_tf1_bilinear_on_a_ramp() -> None:
    """Pixel i is taken at i old / new: no half pixel, and what lies behind the last pixel is the last pixel."""
    ramp = torch.arange(50.0).expand(1, 20, 50)
    at = np.minimum(np.arange(299) * 50 / 299, 49)
    assert np.allclose(tf1_bilinear(ramp, 299)[0].numpy(), at, atol=1e-5)
    assert np.allclose(tf1_bilinear(ramp.transpose(1, 2), 299)[0].T.numpy(), at, atol=1e-5)


def test_tf1_bilinear_where_nothing_lies_between() -> None:
    image = noise_picture(3, 598, 897)
    assert torch.equal(tf1_bilinear(tensor(image), 299), tensor(image)[:, ::3, ::2])
    assert torch.equal(tf1_bilinear(tensor(image)[:, :299, :299], 299), tensor(image)[:, :299, :299])


@pytest.mark.parametrize(
    ("size", "short", "corner"),
    [
        ((640, 427), (383, 256), (64, 0)),  # 63.5 and 298.5 are rounded to even, as Python does
        ((300, 1000), (256, 853), (0, 298)),
        ((256, 256), (256, 256), (0, 0)),
    ],
)
def test_256_is_pillows_bicubic_and_the_middle(
    size: tuple[int, int], short: tuple[int, int], corner: tuple[int, int], encoder: InceptionFeatures, weights: Path
) -> None:
    image, (left, top) = noise_picture(4, *size), corner
    square = np.asarray(image.resize(short, Image.Resampling.BICUBIC))[top : top + 256, left : left + 256]
    assert (np.asarray(middle(short_side(image, 256), 256)) == square).all()
    own = InceptionFeatures(str(weights), "256", "cpu")
    assert torch.equal(own.pixels(image), encoder.pixels(Image.fromarray(square)))


def test_256_is_torchs_antialias_but_for_rounding() -> None:
    """torchvision resizes tensors by torch's own, which differs from Pillow's by one grey level at most."""
    image = noise_picture(5, 640, 512)
    pixels = tensor(image).to(torch.uint8)
    theirs = torch.nn.functional.interpolate(pixels[None], (256, 320), mode="bicubic", antialias=True)[0]
    assert (tensor(short_side(image, 256)) - theirs).abs().max() <= 1


def test_the_name_says_weights_and_size(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    encoder = InceptionFeatures(str(weights), "256", "cpu")
    assert encoder.name == f"inception-{digest[:8]} resize256"
    assert encoder.identity == {"sha256": digest, "resize": "256"}
    monkeypatch.setattr(inception, "HASH", digest[:8])
    assert InceptionFeatures(str(weights), "none", "cpu").name == "inception-2015-12-05 resize-none"


def test_other_files_are_refused(tmp_path: Path, weights: Path) -> None:
    advice = "give pt_inception-2015-12-05-6726825d.pth with --model inception=FILE"
    state = torch.load(weights, weights_only=True)
    lacking = {name: tensor for name, tensor in state.items() if not name.startswith("Mixed_7c.branch_pool.bn")}
    # the file of the field has no counters of batches
    bare = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    files = {"text": b"no weights", "empty": b"", "list": [1, 2], "lacking": lacking, "more": state | {"AuxLogits.fc.bias": torch.zeros(3)}}
    said = {}
    for name, content in (files | {"bare": bare}).items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    inception.read(tmp_path / "bare.pth")
    for name in files:
        with pytest.raises(UserError) as error:
            inception.read(tmp_path / f"{name}.pth")
        said[name] = str(error.value)
        assert said[name].startswith(f"inception {tmp_path}/{name}.pth: ") and said[name].endswith(f"; {advice}") and "\n" not in said[name]
    assert "not the network's weights (" in said["text"] and "not the network's weights (" in said["list"]
    assert "4 weights are lacking or of another network, as Mixed_7c.branch_pool.bn.weight" in said["lacking"]
    assert "1 weights are lacking or of another network, as AuxLogits.fc.bias" in said["more"]
    with pytest.raises(UserError, match=r"^inception nowhere\.pth: no such file; give pt_inception"):
        InceptionFeatures("nowhere.pth", "256", "cpu")
    with pytest.raises(UserError, match=r"^scoring\.resize: 512: no such way to resize; .* 256, none$"):
        InceptionFeatures(str(weights), "512", "cpu")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing on the tests' own output."""


def test_weights_are_fetched_once_and_held_to_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    (served / inception.WEIGHTS).write_bytes(b"the weights")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(inception, "BASE", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(inception, "CACHE", cache)
    monkeypatch.setattr(download, "PAUSE", 0.001)
    found = hashlib.sha256(b"the weights").hexdigest()
    try:
        with pytest.raises(
            UserError, match=rf"{inception.WEIGHTS}: its sha256 is {found[:16]}\.\.\., that of the weights begins with 6726825d"
        ):
            InceptionFeatures(inception.WEIGHTS, "256", "cpu")
        assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []
        monkeypatch.setattr(inception, "HASH", found[:8])
        assert InceptionFeatures(inception.WEIGHTS, "256", "cpu").path == cache / inception.WEIGHTS
    finally:
        server.shutdown()
        server.server_close()
    assert InceptionFeatures(inception.WEIGHTS, "256", "cpu").path.read_bytes() == b"the weights"
    (cache / inception.WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"cannot be fetched \(.*\); run the same command again, or give it with --model inception=FILE$"):
        InceptionFeatures(inception.WEIGHTS, "256", "cpu")


class Answers:
    """An encoder that says what it is told, a list of rows a call."""

    name, identity = "stub", {"repo": "stub"}

    def __init__(self, *answers: Sequence[Sequence[float]]) -> None:
        self.answers = list(answers)

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.array(self.answers.pop(0), np.float32)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([[[1, 0], [0, float("nan")]]] * 3, "the features of a known picture are not finite"),
        ([[[1, 0], [1, 0]]] * 3, "the same features for two different pictures"),
        ([[[0, 0], [0, 0]]] * 3, "the same features for two different pictures"),
        ([[[1, 0], [0, 1]], [[1, 1e-4], [0, 1]], [[1, 0]]], "other features for a picture when looked at again"),
        ([[[1, 0], [0, 1]], [[1, 0], [0, 1]], [[1, 1e-4]]], "other features for a picture when looked at alone"),
    ],
)
def test_an_encoder_that_is_broken_is_found_before_scoring(answers: list[list[list[float]]], says: str) -> None:
    with pytest.raises(UserError, match=rf"^inception stub: {says}; the weights or the device are broken: compare --device cpu"):
        known.check("inception", Answers(*answers))
    known.check("inception", Answers([[1, 0], [0, 1]], [[1, 0], [0, 1]], [[1, 1e-6]]))
