"""What FID is measured against: a folder looked at once, its kept moments, another tool's file; and what is refused of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.features import reference
from tests.conftest import noise_picture


class Means:
    """Features by hand: the mean of each color, and of the whole. It counts the pictures it sees."""

    name = "means"

    def __init__(self, size: str = "own") -> None:
        self.identity: dict[str, Any] = {"size": size}
        self.seen = 0

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        self.seen += len(images)
        colors = np.array([np.asarray(image, np.float32).mean((0, 1)) for image in images])
        return np.concatenate([colors, colors.mean(1, keepdims=True)], 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(40):
        path = tmp_path / "data" / "pictures" / ("a" if number % 2 else "b") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_picture(number, 8, 8).save(path)
    (tmp_path / "data" / "pictures" / "read.me").write_text("no picture")
    return tmp_path / "data" / "pictures"


def test_a_folder_is_looked_at_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Means()
    found = reference.load("pictures", folder.parent, encoder, 40)
    assert encoder.seen == 0  # naming it costs nothing
    assert found.n == 40 and found.name == f"ref=40:{found.sha256[:8]}" and found.identity == {"pictures": 40, "sha256": found.sha256}
    first = found.gaussian()
    assert encoder.seen == 40 + 5 and "looking at 40 pictures" in caplog.text  # and the known ones
    features = Means().images([noise_picture(number, 8, 8) for number in range(40)]).astype(np.float64)
    assert np.allclose(first.mean, features.mean(0)) and np.allclose(first.covariance, np.cov(features, rowvar=False))
    again = reference.load("pictures", folder.parent, encoder, 40).gaussian()
    assert encoder.seen == 45
    assert (again.mean == first.mean).all() and (again.covariance == first.covariance).all()
    (kept,) = folder.parent.glob("pictures-fid-*.npz")
    assert reference.load(str(folder), None, encoder).gaussian().mean.tolist() == first.mean.tolist()  # by its own path

    file = reference.load(str(kept), None, encoder)  # the kept file on its own, as on another machine: the same reference
    assert (file.name, file.identity) == (found.name, found.identity)
    assert (file.gaussian().covariance == first.covariance).all()


def test_other_settings_or_pictures_are_another_pass(folder: Path) -> None:
    name = reference.load("pictures", folder.parent, Means()).name
    reference.load("pictures", folder.parent, Means()).gaussian()
    other = Means("another")
    reference.load("pictures", folder.parent, other).gaussian()
    assert other.seen == 45 and len(list(folder.parent.glob("*.npz"))) == 2
    noise_picture(99, 9, 9).save(folder / "a" / "1.png")
    changed, encoder = reference.load("pictures", folder.parent, Means()), Means()
    assert changed.name != name and changed.n == 40
    reference.load("pictures", folder.parent, encoder).gaussian()
    assert encoder.seen == 45


def test_a_file_of_another_tool(folder: Path, tmp_path: Path) -> None:
    sigma = np.cov(np.random.default_rng(0).normal(size=(50, 4)), rowvar=False)
    np.savez(tmp_path / "stats.npz", mu=np.arange(4.0), sigma=sigma)
    found = reference.load(str(tmp_path / "stats.npz"), folder.parent, Means())
    assert found.n is None and found.name == f"ref=unknown:{found.sha256[:8]}"
    assert found.gaussian().mean.tolist() == [0, 1, 2, 3] and (found.gaussian().covariance == sigma).all()


def test_a_folder_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr("metabridge.eval.store.write_whole", full)
    assert reference.load("pictures", folder.parent, Means()).gaussian().mean.shape == (4,)
    assert "its moments are not kept, so every run looks at its pictures again" in caplog.text


def refused(word: str, data: Path | None, pictures: int | None = None) -> str:
    with pytest.raises(UserError) as error:
        reference.load(word, data, Means(), pictures).gaussian()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_that_are_refused(folder: Path, tmp_path: Path) -> None:
    data = folder.parent
    assert refused("none", data) == (
        f"reference none: neither {data}/none nor none is there; put the reference pictures there, "
        "or give their folder, or an .npz file with mu and sigma, by --model reference=PATH"
    )
    assert (
        refused("pictures", data, 41) == f"{folder}: 40 pictures, the whole set has 41; put the rest there, or take away what is not of it"
    )
    (tmp_path / "empty").mkdir()
    assert "0 pictures, a reference has 2 at least" in refused(str(tmp_path / "empty"), None)
    (folder / "a" / "3.png").write_bytes(b"")
    assert refused("pictures", data) == f"{folder}: 1 pictures of 0 bytes, as a/3.png; unpack the set again"
    (folder / "a" / "3.png").write_bytes(b"torn")
    assert refused("pictures", data).startswith(f"{folder}/a/3.png: a reference picture that cannot be read (")
    assert not list(data.glob("*.npz"))


def test_files_that_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    cases: dict[str, dict[str, Any]] = {
        "do not go together": {"mu": np.zeros(4), "sigma": np.zeros((3, 3))},
        "'sigma is not a file in the archive'": {"mu": np.zeros(4)},
        "not finite, or sigma not symmetric": {"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])},
        "not finite": {"mu": np.array([np.nan, 0]), "sigma": np.eye(2)},
    }
    for says, arrays in cases.items():
        np.savez(path, **arrays)
        said = refused(str(path), None)
        assert said.startswith(f"reference {path}: no mean and covariance (") and says in said
    for content in (b"", b"no archive", b"PK\x03\x04 torn"):
        path.write_bytes(content)
        assert refused(str(path), None).startswith(f"reference {path}: no mean and covariance (")
    reference.load("pictures", folder.parent, Means("another")).gaussian()
    (kept,) = folder.parent.glob("*.npz")
    assert "made by another network, or at another size" in refused(str(kept), None)
