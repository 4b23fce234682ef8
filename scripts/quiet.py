"""What the libraries say that is worth no line: bars for reading a file from the disk (those for downloads stay), and a false alarm."""

from __future__ import annotations

import warnings


def quiet() -> None:
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    # DDP's, of 1 x 1 convolutions: their gradients lie in memory as they should, whatever the strides of their sides of length 1
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
