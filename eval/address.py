"""Where an OpenAI-compatible endpoint is, and the key to it; neither lets a secret be seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from metabridge.bridge.errors import UserError

HIDDEN = "[key]"
_SECRET = 6  # characters; what is shorter (none, EMPTY) stands for no key, and is a part of other words
_QUERY = {"api-version"}  # names in an address that hold no secret


@dataclass(frozen=True)
class Address:
    base: str  # up to .../v1
    query: str
    model: str

    @property
    def host(self) -> str:
        """Name and port alone."""
        return urlsplit(self.base).netloc

    def url(self, path: str) -> str:
        return f"{self.base}/{path}{self.query and '?' + self.query}"


@dataclass(frozen=True)
class Form:
    """How an address is given, for the errors."""

    kind: str
    text: str  # {host} stands for the one that was given
    variable: str  # where a key belongs
    bare: str = "no address given"  # of one without a host, or with blanks in it


def parse(word: str, form: Form, paths: Sequence[str], shown: str = "") -> Address:
    """`word`: URL#MODEL, where the URL may end in one of `paths`. `shown`: what an error may repeat of a word that is no address."""
    place, _, model = word.partition("#")
    advice = f"write {form.text.format(host='http://127.0.0.1:8000')}"
    try:
        url = urlsplit(place)
        _ = url.port, (url.hostname or "").encode("idna")  # as a client will read them
    except ValueError:  # whose text repeats parts of the address
        raise UserError(f"{shown or form.kind}: no address given; {advice}") from None
    if url.scheme not in ("http", "https") or not url.hostname or " " in place or not place.isprintable():
        raise UserError(f"{shown or form.kind}: {form.bare}; {advice}")
    host = url.netloc.rpartition("@")[2]
    # what stands in an address ends up in plans, results and the history of a shell
    if "@" in url.netloc:
        raise UserError(f"{form.kind} at {host}: a name or password stands in the address; put the key into {form.variable} instead")
    if names := sorted({name for name, _ in parse_qsl(url.query, keep_blank_values=True)} - _QUERY):
        raise UserError(
            f"{form.kind} at {host}: the address has ?{names[0]}=, which may be a secret; put the key into {form.variable} instead"
        )
    if not model.strip():
        raise UserError(f"{form.kind} at {host}: says no model; write {form.text.format(host=host)}")
    path = url.path.rstrip("/") or "/v1"
    for end in paths:
        path = path.removesuffix(f"/{end}")
    return Address(f"{url.scheme}://{url.netloc}{path}", url.query, model.strip())


@dataclass(frozen=True)
class Key:
    variable: str  # where it comes from
    value: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.value}"}

    def hide(self, tree: Any) -> Any:
        """The same text or JSON without the key: upstream errors like to repeat it."""
        if isinstance(tree, str):
            return tree.replace(self.value, HIDDEN) if len(self.value) >= _SECRET else tree
        if isinstance(tree, list):
            return [self.hide(value) for value in tree]
        if isinstance(tree, dict):
            return {self.hide(name): self.hide(value) for name, value in tree.items()}
        return tree


def key_of(variables: Sequence[str]) -> Key | None:
    """The first of these variables that is set."""
    for variable in variables:
        if value := os.environ.get(variable, "").strip():
            # the libraries below repeat a header they cannot send in their errors
            if not (value.isascii() and value.isprintable() and " " not in value):
                raise UserError(f"{variable}: holds blanks or signs that no key has; set it to the key alone")
            return Key(variable, value)
    return None
