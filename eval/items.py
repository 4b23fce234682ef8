"""The words of an evaluation: what is asked for (Item), what a scorer says of a picture (Verdict), and what it may ask for help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from metabridge.eval.judges import Judge

OK, MODEL_ERROR, INFRA_ERROR = "ok", "model_error", "infra_error"  # scored; counts as the worst; not scored, the result is incomplete


@dataclass(frozen=True)
class Item:
    """One prompt of a benchmark. Its number is its place in the full benchmark, so that a limited run draws the same pictures."""

    number: int
    id: str  # fit for a file name, unique within its group
    group: str  # tag, kind or category: what the benchmark averages apart
    text: str  # what is drawn, as the model is told
    want: Mapping[str, Any]  # what the scorer needs to know, plain JSON
    images: tuple[str, ...] = ()  # pictures that come with the prompt (edits): paths below the benchmark's data folder
    turns: tuple[str, ...] = ()  # a conversation: what is said one after the other, a picture each; they are kept as one, side by side
    held_out: bool = False  # kept out of training on purpose: scored apart


@dataclass(frozen=True)
class Verdict:
    """What a scorer says of one picture."""

    values: Mapping[str, float]  # metric -> value; of a ratio metric the numerator, and "NAME.of" the denominator
    reason: str = ""  # what is wrong, in a few words, for people
    detail: Mapping[str, Any] = field(default_factory=dict)  # answers, detections, raw texts: plain JSON
    facets: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # finer category -> (points, of how many)
    features: np.ndarray | None = None  # [D] float32, for metrics over the whole set


class Unscored(Exception):
    """A picture could not be scored, and that is not the picture's fault: the judge was away, or spoke nonsense three times."""


class Scorer(Protocol):
    """Scores pictures of one benchmark. Made by load(benchmark, services) of a module of metabridge.eval.scorers."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """`variant` (as m2f-hf, or the judge's id), `parser` (a version), and what else decides a score: models, prompts' hash."""

    @property
    def workers(self) -> int:
        """How many batches may be scored at the same time, in threads: 1, or the judge's concurrency."""

    @property
    def batch(self) -> int:
        """How many pictures `score` takes at once."""

    def check(self) -> None:
        """Before the first picture: a canary for a judge, a known picture for a detector. Raises UserError."""

    def score(self, rows: Sequence[tuple[Item, Image.Image]]) -> Sequence[Verdict | Unscored]:
        """A verdict for each RGB picture."""


@dataclass(frozen=True)
class Services:
    """What a scorer may use."""

    data: Path | None  # the benchmark's data folder, files verified; None where a benchmark has none
    judge: Judge | None = None
    models: Mapping[str, str] = field(
        default_factory=dict
    )  # role (detector, clip, dino, inception ...) -> repo or folder, in place of the default
    compat: str = "none"  # none | official: with the upstream defects, for audits
    device: str = "cpu"
