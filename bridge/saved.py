"""Where a saved bridge lies, also after a save that was killed in the middle. Imports no torch, so that a wrong name answers at once."""

from __future__ import annotations

import os
from pathlib import Path


def aside(folder: Path) -> Path:
    """Where a save keeps the folder's former bridge until the new one is in place."""
    return folder.parent / f".{folder.name}.old"


def last_saved(folder: Path) -> Path | None:
    """The whole bridge of `folder`: there, or still put aside; None = nowhere."""
    # os.path: Path.is_file raises where a name is too long or a folder cannot be entered
    return next((place for place in (folder, aside(folder)) if os.path.isfile(place / "bridge.json")), None)
