"""What a set of pictures is measured against: the mean and covariance of a reference set's features.

The reference is a folder of pictures, whose moments are kept in a file beside it after the first pass; or such a file; or one of another
tool, with arrays `mu` and `sigma`, of which nobody knows how its pictures were brought to size, or how many they were.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from metabridge.bridge.errors import UserError
from metabridge.eval import store
from metabridge.eval.features import Encoder
from metabridge.eval.features.known import check
from metabridge.eval.features.pixels import read
from metabridge.eval.fid import Gaussian, Moments

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
BATCH, READERS = 32, 8  # pictures at a time, and threads that read them
SAID = 100  # batches between two lines of the log


@dataclass(frozen=True)
class Reference:
    n: int | None  # None: a file that does not say
    sha256: str  # of the pictures' names and sizes in bytes, or of a file's own bytes
    gaussian: Callable[[], Gaussian]

    @property
    def name(self) -> str:
        return f"ref={'unknown' if self.n is None else self.n}:{self.sha256[:8]}"

    @property
    def identity(self) -> dict[str, Any]:
        return {"pictures": self.n, "sha256": self.sha256}


def load(word: str, data: Path | None, encoder: Encoder, pictures: int | None = None) -> Reference:
    """`word`: a folder or an .npz file, below the data folder or anywhere. `pictures`: how many a whole set has."""
    places = list(dict.fromkeys([*([data / word] if data else []), Path(word).expanduser()]))
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise UserError(
            f"reference {word}: neither {' nor '.join(map(str, places))} is there; put the reference pictures there, "
            "or give their folder, or an .npz file with mu and sigma, by --model reference=PATH"
        )
    return _of_folder(found, encoder, pictures) if found.is_dir() else _of_file(found, encoder)


def _of_folder(folder: Path, encoder: Encoder, pictures: int | None) -> Reference:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if len(files) < 2 or (pictures is not None and len(files) != pictures):
        wanted = "the whole set has" if pictures is not None else "a reference has 2 at least, and should have"
        raise UserError(
            f"{folder}: {len(files)} pictures, {wanted} {pictures or 10_000}; put the rest there, or take away what is not of it"
        )
    sizes = [(folder / file).stat().st_size for file in files]
    if empty := [file for file, size in zip(files, sizes, strict=True) if not size]:
        raise UserError(f"{folder}: {len(empty)} pictures of 0 bytes, as {empty[0]}; unpack the set again")
    sha256 = _hash("".join(f"{file}\0{size}\n" for file, size in zip(files, sizes, strict=True)))
    made = _made(sha256, encoder)
    kept = folder.with_name(f"{folder.name}-fid-{_hash(made)[:12]}.npz")
    return Reference(len(files), sha256, partial(_moments, folder, files, kept, made, encoder))


def _made(sha256: str, encoder: Encoder) -> str:
    """All that decides the moments."""
    return json.dumps({"pictures_sha256": sha256, "encoder": dict(encoder.identity)}, sort_keys=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _moments(folder: Path, files: Sequence[str], kept: Path, made: str, encoder: Encoder) -> Gaussian:
    """From the file beside the folder; written there by the first pass."""
    if kept.exists():
        return _arrays(kept)[0]
    check("inception", encoder)
    log.warning("reference: looking at %d pictures in %s, once", len(files), folder)
    whole: Moments | None = None
    with ThreadPoolExecutor(READERS) as readers:
        for number, start in enumerate(range(0, len(files), BATCH)):
            images = readers.map(lambda file: read(folder / file, "a reference picture"), files[start : start + BATCH])
            part = Moments.of(encoder.images(list(images)))
            whole = part if whole is None else whole + part
            if number % SAID == SAID - 1:
                log.warning("reference: %d of %d pictures", start + BATCH, len(files))
    assert whole is not None
    gaussian, buffer = whole.gaussian, io.BytesIO()
    np.savez(buffer, mu=gaussian.mean, sigma=gaussian.covariance, n=whole.n, metabridge=made)
    try:
        store.write(kept, buffer.getvalue())
    except UserError as error:  # a shared folder may be read-only
        log.warning("reference: its moments are not kept, so every run looks at its pictures again (%s)", error)
    return gaussian


def _of_file(path: Path, encoder: Encoder) -> Reference:
    gaussian, n, made = _arrays(path)
    if made is None:
        return Reference(n, hashlib.sha256(path.read_bytes()).hexdigest(), lambda: gaussian)
    sha256 = str(json.loads(made)["pictures_sha256"])
    if made != _made(sha256, encoder):
        raise UserError(
            f"reference {path}: made by another network, or at another size, than the pictures will be looked at; "
            f"give the folder of its pictures, or one made by {encoder.name}"
        )
    return Reference(n, sha256, lambda: gaussian)


def _arrays(path: Path) -> tuple[Gaussian, int | None, str | None]:
    """mu [D] and sigma [D, D], and what else one of our own files says."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            mean, covariance = np.asarray(arrays["mu"], np.float64), np.asarray(arrays["sigma"], np.float64)
            n = int(arrays["n"]) if "n" in arrays else None
            made = str(arrays["metabridge"]) if "metabridge" in arrays else None
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"mu {mean.shape} and sigma {covariance.shape} do not go together")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all() and np.allclose(covariance, covariance.T)):
            raise ValueError("not finite, or sigma not symmetric")
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise UserError(f"reference {path}: no mean and covariance ({' '.join(str(error).split())}); give another, or remove it") from error
    return Gaussian(mean, covariance), n, made
