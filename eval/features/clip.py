"""CLIP's picture and text embeddings. Pictures as CLIP wants them: short side bicubic, the middle square."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from metabridge.eval.detect.clip_colors import Clip
from metabridge.eval.features import full_precision


class ClipFeatures:
    """Of texts that are longer than the model reads, the beginning is embedded, as is done everywhere."""

    def __init__(self, repo: str, device: str) -> None:
        self.clip, self.name = Clip(repo, device), PurePath(repo).name
        self.limit: int = self.clip.model.config.text_config.max_position_embeddings

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.clip.identity

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        with full_precision():
            return np.asarray(self.clip.images(images).cpu())

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        tokens = self.clip.tokenizer(list(texts), padding=True, truncation=True, max_length=self.limit, return_tensors="pt")
        with full_precision():
            return np.asarray(self.clip.model.get_text_features(**tokens.to(self.clip.model.device)).pooler_output.cpu())

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(tokens) for tokens in self.clip.tokenizer(list(texts), verbose=False)["input_ids"]]
