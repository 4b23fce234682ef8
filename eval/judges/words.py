"""`--judge WORD`: which kind of judge it names, and where that is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from metabridge.bridge.errors import UserError

FORMS = "URL#MODEL (as http://127.0.0.1:8000/v1#Qwen/Qwen3.5-9B), local:REPO_OR_FOLDER[@REVISION], brain, replay:FILE[#MODEL]"
_QUERY = {"api-version"}  # names in an address that hold no secret


@dataclass(frozen=True)
class Word:
    kind: str  # endpoint | local | brain | replay
    place: str = ""  # address, repository or file
    name: str = ""  # model or revision


def parse(word: str) -> Word:
    kind, _, rest = word.partition(":")
    if kind.lower() in ("http", "https"):
        return _endpoint(word)
    if word == "brain":
        return Word("brain")
    if kind == "local" and rest:
        repo, _, revision = rest.rpartition("@")
        return Word("local", repo, revision) if repo and not Path(rest).expanduser().exists() else Word("local", rest)
    if kind == "replay" and rest:
        file, _, model = rest.partition("#")
        return Word("replay", file, model)
    raise UserError(f"judge {_shown(word)!r}: no such kind of judge; write {FORMS}")


def post_url(address: str) -> str:
    """Where questions go: .../v1/chat/completions, of an address that may end earlier."""
    url = urlsplit(address)
    path = url.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    return url._replace(path=path, fragment="").geturl()


def host(address: str) -> str:
    """Name and port alone."""
    return urlsplit(address).netloc.rpartition("@")[2]


def _endpoint(word: str) -> Word:
    address, _, model = word.partition("#")
    url = _split(word, address)
    if not url.hostname or " " in address or not address.isprintable():
        raise UserError(f"judge {_shown(word)!r}: an address has a host and no blanks; write {FORMS}")
    # what stands in an address ends up in plans, results and the history of a shell
    if url.username is not None or url.password is not None:
        raise UserError(
            f"judge at {host(address)}: a name or password stands in the address; put the key into METABRIDGE_JUDGE_KEY instead"
        )
    if names := sorted({name for name, _ in parse_qsl(url.query, keep_blank_values=True)} - _QUERY):
        raise UserError(
            f"judge at {host(address)}: the address has ?{names[0]}=, which may be a secret; put the key into METABRIDGE_JUDGE_KEY "
            "and leave the rest out"
        )
    if not model.strip():
        raise UserError(f"judge at {host(address)}: says no model; write URL#MODEL, as {host(address)}/v1#Qwen/Qwen3.5-9B")
    return Word("endpoint", address, model.strip())


def _split(word: str, address: str) -> SplitResult:
    try:
        url = urlsplit(address)
        _ = url.port, (url.hostname or "").encode("idna")  # as a client will read them
    except ValueError:  # whose text repeats parts of the address
        raise UserError(f"judge {_shown(word)!r}: no address; write {FORMS}") from None
    return url


def _shown(word: str) -> str:
    """A word that may have been meant as an address, without what may be a password or a key in it."""
    return re.sub(r"\?[^#]*", "?...", re.sub(r".*@", "...@", word))
