"""The libraries' bars for reading a file from the disk say nothing worth a line; those for downloads stay."""

from __future__ import annotations


def quiet() -> None:
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
