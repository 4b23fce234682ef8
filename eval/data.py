"""Where a benchmark's files lie, whether they are what was pinned, and how those that are missing are fetched."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import sync_folder
from metabridge.bridge.reading import kind_of, refuse_unknown
from metabridge.eval import store
from metabridge.eval.download import download

log = logging.getLogger(__name__)

ROOT = "METABRIDGE_BENCH_DATA"
BASE = "https://raw.githubusercontent.com"
ACCEPTED = "ACCEPTED"  # in a data folder: the licences that its user has accepted, a line each
OK, MISSING, WRONG = "ok", "missing", "wrong"
THERE = "there"  # by hand: nothing is known of what it should be

Progress = Callable[[str, int, int | None], None]  # file, bytes that are there, bytes in all where known


@dataclass(frozen=True)
class DataFile:
    """A file of a public repository at one commit."""

    name: str  # in the data folder
    repo: str
    commit: str
    path: str
    sha256: str = ""
    git_blob_sha1: str = ""  # in its place, where the file itself could not be had when it was pinned
    bytes: int | None = None

    @property
    def wanted(self) -> str:
        return self.sha256 or self.git_blob_sha1

    def url(self, base: str = BASE) -> str:
        return f"{base}/{self.repo}/{self.commit}/{quote(self.path)}"

    def hash_of(self, path: Path) -> str:
        """The hash of a file of this kind: sha256, or sha1 of git's header and the bytes."""
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class DataSpec:
    """The `data:` of a benchmark's file."""

    folder: str
    licence: str = ""
    accept: bool = False  # whether the user must accept the licence before anything is fetched
    url: str = ""
    files: tuple[DataFile, ...] = ()
    by_hand: str = ""  # what a user must put into the folder himself, and where to get it

    @staticmethod
    def parse(tree: Any, where: str) -> DataSpec:
        tree = dict(_mapping(tree, DataSpec, where))
        files = tree.pop("files", None) or []
        if not isinstance(files, list):
            raise UserError(f"{where}.files: {kind_of(files)} given; it is a list")
        spec = DataSpec(files=tuple(_file(file, f"{where}.files.{i}") for i, file in enumerate(files)), **tree)
        if not _stays_inside(spec.folder):
            raise UserError(f"{where}.folder: {spec.folder!r} given; it is the name of a folder below the data folder")
        if not isinstance(spec.accept, bool):
            raise UserError(f"{where}.accept: {spec.accept!r} given; it is true or false")
        names = [file.name for file in spec.files]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{where}.files: {twice} is there twice; give each file its own name")
        if not spec.files and not spec.by_hand:
            raise UserError(f"{where}: neither files nor by_hand given; leave data out where nothing is needed")
        return spec


@dataclass(frozen=True)
class FileState:
    name: str
    state: str  # ok | missing | wrong
    found: str  # hash; empty where it is missing
    wanted: str


def locate(spec: DataSpec, root: Path | None = None) -> Path:
    """The folder of a benchmark's files: below `root`, else below $METABRIDGE_BENCH_DATA, else in the user's cache."""
    base = root or Path(os.environ.get(ROOT) or "~/.cache/metabridge/benchmarks")
    return base.expanduser() / spec.folder


def verify(spec: DataSpec, folder: Path) -> list[FileState]:
    """Of the pinned files."""
    return [_state(file, folder) for file in spec.files]


def _state(file: DataFile, folder: Path) -> FileState:
    path = folder / file.name
    if not path.exists():
        return FileState(file.name, MISSING, "", file.wanted)
    try:
        about = path.stat()
        found = _hash(file, path.absolute(), about.st_size, about.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); mend it") from error
    return FileState(file.name, OK if found == file.wanted else WRONG, found, file.wanted)


@lru_cache(4096)
def _hash(file: DataFile, path: Path, size: int, mtime_ns: int) -> str:
    """Once in a process: every stage asks whether the files are what was pinned, and some are large."""
    return file.hash_of(path)


def by_hand(spec: DataSpec, folder: Path) -> FileState:
    """Whether anything lies there that is neither pinned nor our own."""
    known = {*(file.name for file in spec.files), ACCEPTED}
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    there = any(name.as_posix() not in known and not name.name.startswith(".") for name in names)
    return FileState("", THERE if there else MISSING, "", "")


def advice(spec: DataSpec, folder: Path, states: Sequence[FileState]) -> list[str]:
    """What to do about files that are not there, or not right; a line each."""
    lines = [
        f"{folder / state.name}: not what was pinned; move it away, and the right one will be fetched"
        for state in states
        if state.state == WRONG
    ]
    if number := sum(state.state == MISSING and bool(state.name) for state in states):
        accept = "" if may_fetch(spec, folder) else f" by --accept-licence {spec.folder} ({spec.licence or 'no licence stated'})"
        lines.append(f"{folder}: {number} pinned files missing; an evaluation fetches them{accept} from {spec.url}")
    if any(state.state == MISSING and not state.name for state in states):
        lines.append(f"{folder}: to be put there by hand: {' '.join(spec.by_hand.split())}")
    return lines


def ready(
    spec: DataSpec,
    root: Path | None = None,
    accepted: Collection[str] = (),
    progress: Progress = lambda name, done, total: None,
    base: str = BASE,
) -> Path:
    """The folder with every pinned file in it; what is missing is fetched."""
    folder = locate(spec, root)
    if spec.by_hand and not folder.is_dir():
        raise UserError(f"{folder}: no such folder; put the data there by hand: {' '.join(spec.by_hand.split())}")
    fetch(spec, folder, accepted, progress, base)
    return folder


def fetch(
    spec: DataSpec,
    folder: Path,
    accepted: Collection[str] = (),
    progress: Progress = lambda name, done, total: None,
    base: str = BASE,
) -> None:
    """Fetch the files that are missing. One that is there and is not what was pinned is refused, never replaced."""
    if not _missing(spec, folder):
        return
    if not may_fetch(spec, folder, accepted):
        raise UserError(
            f"{spec.folder}: its data is not fetched before you accept its licence ({spec.licence or 'none stated'}; {spec.url}): "
            f"give --accept-licence {spec.folder}"
        )
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("ab") as lock:  # shards of one run start at the same time
            store.lock(lock)
            if spec.accept and not _remembers(spec, folder):
                with (folder / ACCEPTED).open("a", encoding="utf-8") as remembered:
                    remembered.write(_licence(spec) + "\n")
            for file in _missing(spec, folder):
                _fetch(file, folder, progress, base)


def may_fetch(spec: DataSpec, folder: Path, accepted: Collection[str] = ()) -> bool:
    """Whether the licence needs no acceptance, or has it: now, or at an earlier time as the data folder remembers."""
    return not spec.accept or spec.folder in accepted or _remembers(spec, folder)


def _remembers(spec: DataSpec, folder: Path) -> bool:
    path = folder / ACCEPTED
    return path.exists() and _licence(spec) in path.read_text(encoding="utf-8").splitlines()


def _licence(spec: DataSpec) -> str:
    """As it is remembered: another licence, or another source, is to be accepted anew."""
    return f"{spec.folder}: {spec.licence or 'none stated'} ({spec.url})"


def _missing(spec: DataSpec, folder: Path) -> list[DataFile]:
    states = verify(spec, folder)
    if wrong := next((state for state in states if state.state == WRONG), None):
        raise UserError(
            f"{folder / wrong.name}: not the file that was pinned: its hash is {wrong.found}, wanted is {wrong.wanted}; "
            "move it away, and the right one will be fetched"
        )
    return [file for file, state in zip(spec.files, states, strict=True) if state.state == MISSING]


def _fetch(file: DataFile, folder: Path, progress: Progress, base: str) -> None:
    """Into a temporary name, which a later run goes on with; under its own name only when it is whole and right."""
    path, url = folder / file.name, file.url(base)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")

    def whole() -> str:
        download(url, part, lambda done, total: progress(file.name, done, total), f"run the same command again, or put the file at {path}")
        return file.hash_of(part)  # of what the disk holds

    begun = part.exists()
    found = whole()
    if found != file.wanted and begun:
        log.warning("%s: what an earlier run had begun does not fit; fetched anew", path)
        part.unlink()
        found = whole()
    if found != file.wanted:
        part.unlink()
        raise UserError(
            f"{url}: not the file that was pinned: its hash is {found}, wanted is {file.wanted}; "
            f"nothing was kept; get the right one and put it at {path}"
        )
    os.replace(part, path)
    sync_folder(path.parent)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); make room there, or give another place with --data"
        ) from error


def _mapping(tree: Any, kind: type[Any], where: str) -> Mapping[str, Any]:
    """With the keys of a dataclass, and those that it has no default for."""
    names = [f.name for f in fields(kind)]
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: {kind_of(tree)} given; it is a mapping of {', '.join(names)}")
    refuse_unknown(tree, names, where)
    if lacking := next((f.name for f in fields(kind) if f.default is NO_DEFAULT and f.name not in tree), None):
        raise UserError(f"{where}.{lacking}: missing")
    return tree


def _file(tree: Any, where: str) -> DataFile:
    file = DataFile(**_mapping(tree, DataFile, where))
    if not _stays_inside(file.name):
        raise UserError(f"{where}.name: {file.name!r} given; it is a path inside the data folder")
    if not re.fullmatch(r"[0-9a-f]{40}", str(file.commit)):
        raise UserError(f"{where}.commit: {file.commit!r} given; it is the 40 hex digits of a commit, so that the file cannot change")
    if bool(file.sha256) == bool(file.git_blob_sha1):
        raise UserError(f"{where}: give sha256 or git_blob_sha1, one of the two")
    if not re.fullmatch(r"[0-9a-f]{64}" if file.sha256 else r"[0-9a-f]{40}", str(file.wanted)):
        raise UserError(f"{where}: {file.wanted!r} is no {'sha256' if file.sha256 else 'sha1'} in hex digits")
    return file


def _stays_inside(name: str) -> bool:
    """A relative path that does not climb out of its folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and path.parts[0] not in ("", "~") and "\\" not in name
