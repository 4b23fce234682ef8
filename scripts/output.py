"""What commands share where they write a file that was asked for, and where they count rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def write_asked(option: str, path: Path, data: bytes, make_folder: bool = False) -> None:
    """Write the file of an `option`; `make_folder`: and the folder that it lies in."""
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written ({error.strerror or error}); make room or give another path") from error


def rows_progress(console: Console) -> Progress:
    """A bar with the rows a second, which `rows_a_second` gives, and the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), console=console, transient=True
    )


def rows_a_second(progress: Progress, task: TaskID) -> str:
    speed = progress.tasks[task].speed
    return f"{speed:.0f} rows/s" if speed else ""
