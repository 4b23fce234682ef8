"""Which files a source reads: one, those in a folder, or those of a pattern; sorted, so that their order hangs on names alone."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from metabridge.bridge.errors import UserError

BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")


def is_remote(path: str) -> bool:
    """Whether a path is of another place than this machine's disks, as hf://datasets/x/y."""
    return re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


def find(what: str, path: str, files: str | None, endings: tuple[str, ...]) -> list[Path]:
    """The files meant by `path`: a file, a folder, a pattern with *, ? or {000..003}; by `files`, a pattern inside of the folder `path`."""
    kinds = " or ".join(endings[:2])
    if not path:
        raise UserError(f"{what}.path: empty; give a file, a folder of {kinds} files, or a pattern as part-{{000..009}}{endings[0]}")
    start = Path(path).expanduser()
    if files is not None:
        if not start.is_dir():
            raise UserError(f"{what}.path: {start}: no folder; {files} is looked for in it")
        return _matching(f"{what}.files", str(Path(glob.escape(str(start))) / files), f"{files} in {start}")
    if start.is_dir():
        found = [file for file in walk(start) if file.name.lower().endswith(endings)]
        if not found:
            raise UserError(f"{what}.path: {start}: no {kinds} file in it; give another folder")
        return found
    if start.is_file():
        return [start]
    return _matching(f"{what}.path", str(start), str(start))


def addresses(what: str, path: str, files: str | None, endings: tuple[str, ...]) -> list[str]:
    """The same for a path of another place; whoever reads it resolves * and ?."""
    if path.lower().endswith(endings):
        return braces(path)
    if not files and not path.startswith("hf://"):
        raise UserError(f"{what}.path: {path}: cannot be listed; name its files, as {path.rstrip('/')}/part-{{000..009}}{endings[0]}")
    return braces(f"{path.rstrip('/')}/{files or f'**/*{endings[0]}'}")


def picture_root(path: str, files: str | None, root: str | None) -> Path | None:
    """Where relative paths start; None = beside each file."""
    if files is None:
        return None if root is None else Path(root).expanduser()
    return Path(path).expanduser() / Path(root or ".").expanduser()


def walk(folder: Path) -> list[Path]:
    """Every file below a folder, but what is hidden; a linked folder once, so that links may go round in circles."""
    found: list[Path] = []
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); mend its permissions, or move it elsewhere") from error

    for at, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(at, name) for name in names if not name.startswith(".")]
    return sorted(found)


def braces(pattern: str) -> list[str]:
    """{000..003} and {a,b} written out, from left to right."""
    if not (match := BRACES.search(pattern)):
        return [pattern]
    inside = match[1]
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        width = len(bounds[1]) if bounds[1].startswith("0") or len(bounds[1]) == len(bounds[2]) else 0
        choices = [f"{number:0{width}d}" for number in range(int(bounds[1]), int(bounds[2]) + 1)]
    else:
        choices = inside.split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [before + choice + rest for choice in choices for rest in braces(after)]


def _matching(option: str, pattern: str, said: str) -> list[Path]:
    found: dict[Path, None] = {}
    missing: list[str] = []
    for part in braces(pattern):
        named = sorted(Path(name) for name in glob.glob(part, recursive=True) if Path(name).is_file())
        found |= dict.fromkeys(named)
        if not named and "*" not in part and "?" not in part:
            missing.append(part)
    if not found:
        raise UserError(f"{option}: {said}: no such file; give a file, a folder or a pattern that exists")
    if missing:
        raise UserError(f"{option}: {missing[0]}: no such file, nor {len(missing) - 1} others of {said}; name those that are there")
    return list(found)
