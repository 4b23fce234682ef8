"""Detectors: pixels -> objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Detection:
    name: str  # class
    score: float  # 0..1
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels
    mask: np.ndarray | None = None  # [H, W] bool


class Detector(Protocol):
    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        """Every detection of each RGB picture, whatever its score, best first."""


class ColorReader(Protocol):
    def colors(self, image: Image.Image, found: list[Detection]) -> list[str]:
        """The color of each object."""
