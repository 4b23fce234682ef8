"""`--judge WORD`: which kind of judge it names, and where that is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from metabridge.bridge.errors import UserError
from metabridge.eval import address
from metabridge.eval.address import Address

FORMS = "URL#MODEL (as http://127.0.0.1:8000/v1#Qwen/Qwen3.5-9B), local:REPO_OR_FOLDER[@REVISION], brain, replay:FILE[#MODEL]"
CHAT = "chat/completions"
VARIABLES = ("METABRIDGE_JUDGE_KEY", "OPENAI_API_KEY")  # of the key; the first that is set counts
_FORM = address.Form("judge", "URL#MODEL, as {host}/v1#Qwen/Qwen3.5-9B", VARIABLES[0], "an address has a host and no blanks")


@dataclass(frozen=True)
class Word:
    kind: str  # endpoint | local | brain | replay
    place: str = ""  # address, repository or file
    name: str = ""  # model or revision


def parse(word: str) -> Word:
    kind, _, rest = word.partition(":")
    if kind.lower() in ("http", "https"):
        return Word("endpoint", word.partition("#")[0], address_of(word).model)
    if word == "brain":
        return Word("brain")
    if kind == "local" and rest:
        repo, _, revision = rest.rpartition("@")
        return Word("local", repo, revision) if repo and not Path(rest).expanduser().exists() else Word("local", rest)
    if kind == "replay" and rest:
        file, _, model = rest.partition("#")
        return Word("replay", file, model)
    raise UserError(f"judge {_shown(word)!r}: no such kind of judge; write {FORMS}")


def address_of(word: str) -> Address:
    return address.parse(word, _FORM, (CHAT,), f"judge {_shown(word)!r}")


def _shown(word: str) -> str:
    """A word that may have been meant as an address, without what may be a password or a key in it."""
    return re.sub(r"\?[^#]*", "?...", re.sub(r".*@", "...@", word))
