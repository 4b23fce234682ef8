"""DINO's picture embedding: the class token after the last norm.

Pictures as in DINO's own evaluation: short side to 256 bicubic, the middle 224.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from metabridge.eval.detect.pretrained import load_model
from metabridge.eval.features import full_precision
from metabridge.eval.features.pixels import middle, short_side, tensor

if TYPE_CHECKING:
    from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of pixels in 0..1


class DinoFeatures:
    def __init__(self, repo: str, device: str) -> None:
        from transformers import ViTModel

        # the checkpoint has no pooler; and a subclass without one would not find its weights, which are renamed by the class's name
        self.model, found = load_model(ViTModel, "dino", repo, device, add_pooling_layer=False)
        self.name, self.side = PurePath(repo).name, self.model.config.image_size
        self.identity: Mapping[str, Any] = {**found, "input": f"short side {self.side * 8 // 7} bicubic, middle {self.side}"}

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        import torch

        with full_precision():
            batch = torch.stack([self.pixels(image) for image in images]).to(self.model.device)
            return np.asarray(self.model(pixel_values=batch).last_hidden_state[:, 0].cpu())

    def pixels(self, image: Image.Image) -> Tensor:
        """[3, side, side]"""
        import torch

        values = tensor(middle(short_side(image, self.side * 8 // 7), self.side)) / 255
        return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
