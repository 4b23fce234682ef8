"""Who is evaluated: a bridge, a diffusers pipeline, an image endpoint, or a folder of pictures. One file a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from metabridge.eval.items import OK

if TYPE_CHECKING:
    from metabridge.eval.plan import Sample


@dataclass(frozen=True)
class Drawing:
    """One picture, or why there is none: a model_error counts as wrong, an infra_error is tried again by the next run."""

    image: Image.Image | None
    thought: str | None = None
    state: str = OK
    reason: str = ""
    source: str = ""  # sha256 of the file that it was taken from, where somebody else drew it


class Subject(Protocol):
    @property
    def identity(self) -> Mapping[str, Any]:
        """`kind`, `name`, `fingerprint` and what else says who drew."""

    @property
    def alone(self) -> bool:
        """Whether each picture is drawn by itself, so that only those that lack are drawn again; else with all that it was drawn with."""

    def generation(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a plan writes down, with every default filled in. `asked` has num_inference_steps, guidance_scale, height and
        width, None where nothing was said."""

    def draw(
        self, row: str, samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], settings: Mapping[str, Any]
    ) -> Sequence[Drawing]:
        """A drawing a sample, from its prompt, its own seed and the pictures that come with it.

        Raises UserError where going on is of no use until somebody has mended something; what the call has drawn is lost then.
        """
