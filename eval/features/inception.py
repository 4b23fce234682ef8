"""Features for FID: the weights of the field, and how pictures are brought to the network's 299x299.

`256`: short side to 256 bicubic, the middle square, then the network's own bilinear. `none`: the network's own alone, as torch-fidelity
and torchmetrics do with pictures as they are given; it has no antialias, so large pictures come out rough.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from metabridge.bridge.errors import UserError, unknown
from metabridge.eval import store
from metabridge.eval.download import download
from metabridge.eval.features import full_precision
from metabridge.eval.features.pixels import middle, short_side, tensor, tf1_bilinear

if TYPE_CHECKING:
    from torch import Tensor

    from metabridge.eval.features.inception_net import Inception

log = logging.getLogger(__name__)

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
HASH = "6726825d"  # how its sha256 begins
BASE = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
CACHE = Path("~/.cache/metabridge/weights")
RESIZES = {"256": "resize256", "none": "resize-none"}
_UNUSED = ("fc.weight", "fc.bias")  # of its classes


class InceptionFeatures:
    def __init__(self, weights: str, resize: str, device: str) -> None:
        """`weights`: a file, or WEIGHTS, which is fetched where it is not there yet."""
        if resize not in RESIZES:
            raise UserError(f"scoring.resize: {unknown(resize, RESIZES, 'way to resize')}")
        self.path, self.resize, self.device = _find(weights), resize, device

    @property
    def name(self) -> str:
        return f"inception-{'2015-12-05' if self._sha256.startswith(HASH) else self._sha256[:8]} {RESIZES[self.resize]}"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"sha256": self._sha256, "resize": self.resize}

    @cached_property
    def _sha256(self) -> str:
        return _hash(self.path)

    @cached_property
    def _network(self) -> Inception:
        return read(self.path).to(self.device)

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """[n, 2048]"""
        import torch

        with full_precision():
            batch = torch.stack([self.pixels(image) for image in images]).to(self.device)
            return np.asarray(self._network(batch).cpu())

    def pixels(self, image: Image.Image) -> Tensor:
        """[3, 299, 299] in 0..255"""
        if self.resize == "256":
            image = middle(short_side(image, 256), 256)
        return tf1_bilinear(tensor(image), 299)


def read(path: Path) -> Inception:
    """The network with a file's weights: all of its own, and none of another."""
    import torch

    from metabridge.eval.features.inception_net import Inception

    network, advice = Inception(), f"give {WEIGHTS} with --model inception=FILE"
    try:
        found = network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=False)
    except (OSError, EOFError, UnpicklingError, RuntimeError, TypeError) as error:
        raise UserError(f"inception {path}: not the network's weights ({' '.join(str(error).split())[:200]}); {advice}") from error
    lacking = [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
    if other := [*lacking, *(name for name in found.unexpected_keys if name not in _UNUSED)]:
        raise UserError(f"inception {path}: {len(other)} weights are lacking or of another network, as {other[0]}; {advice}")
    return network.eval().requires_grad_(False)


def _find(word: str) -> Path:
    path = Path(word).expanduser()
    if path.is_file():
        return path
    if word != WEIGHTS:
        raise UserError(f"inception {word}: no such file; give {WEIGHTS} with --model inception=FILE, or leave it out: it is fetched")
    kept = CACHE.expanduser() / WEIGHTS
    if not kept.is_file():
        _fetch(kept)
    return kept


def _fetch(path: Path) -> None:
    """Under its own name only when it is whole and right."""
    url, part = f"{BASE}/{WEIGHTS}", path.with_name(f".{path.name}.part")
    with store.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("ab") as lock:  # shards of one run start at the same time
            store.lock(lock)
            if path.is_file():
                return
            log.warning("inception: fetching %s (95 MB) to %s", url, path)
            download(url, part, lambda done, total: None, "run the same command again, or give it with --model inception=FILE")
            if not (found := _hash(part)).startswith(HASH):
                part.unlink()
                raise UserError(
                    f"{url}: its sha256 is {found[:16]}..., that of the weights begins with {HASH}; nothing was kept; "
                    "give them with --model inception=FILE"
                )
            os.replace(part, path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
