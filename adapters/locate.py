"""Where weights lie: `package:flatland/brain` in the installed package, a folder on this disk, or a hub id."""

from __future__ import annotations

from collections.abc import Collection
from importlib.resources import files
from pathlib import Path

from metabridge.adapters import skeleton
from metabridge.bridge.artifact import is_local
from metabridge.bridge.errors import UserError

PACKAGE = "package:"


def locate(repo: str, revision: str = "main") -> str:
    """A folder's path, or the hub id as it stands (the libraries download it at `revision`)."""
    if repo.startswith(PACKAGE):
        folder = Path(str(files("metabridge.adapters"))) / repo.removeprefix(PACKAGE)
        if not folder.is_dir():
            raise UserError(f"{repo}: not in this installation ({folder.parent} holds {_listing(folder.parent)}); install metabridge again")
        return str(folder)
    if is_local(repo):
        path = Path(repo).expanduser()
        if not path.is_dir():
            raise UserError(f"{repo}: no such folder; give the folder of a checkpoint in the hub's layout, or a hub id")
        return str(path.resolve())
    if repo.count("/") != 1 or any(character.isspace() for character in repo):
        raise UserError(f"{repo}: neither a folder here nor a hub id; write ./folder, owner/name or package:flatland/...")
    return skeleton.configs_of(repo) if skeleton.active() else repo


def hub_error(repo: str, revision: str, error: Exception) -> UserError:
    """The libraries' long messages about a repository that cannot be had, in one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    local = repo.startswith(PACKAGE) or is_local(repo)
    advice = "the folder is incomplete or damaged, copy it again" if local else "check the name, the network and your access to it"
    return UserError(f"{repo}@{revision}: cannot be loaded ({reason[:200]}); {advice}")


def refuse_missing(keys: Collection[str], part: str = "") -> None:
    """Tensors that a checkpoint lacks, which both libraries would draw at random with no more than a warning."""
    if keys:
        raise ValueError(f"{part}{len(keys)} tensors missing, the first is {min(keys)}")


def _listing(folder: Path) -> str:
    return ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__")) if folder.is_dir() else "nothing"
