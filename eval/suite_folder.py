"""The folder of a suite: suite.json says which benchmarks belong to it, where each lies, and what is to be set against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metabridge.bridge.errors import UserError
from metabridge.eval import store
from metabridge.eval.suites import Difference

NAME = "suite.json"
SCHEMA = 1


@dataclass(frozen=True)
class Members:
    done: tuple[Path, ...]  # with a result, in the suite's order
    missing: Mapping[str, Path]  # those without one: benchmark -> folder
    differences: tuple[Difference, ...] = ()


def read(folder: Path) -> Members:
    """Of an evaluation's own folder, itself; of one without suite.json, the evaluations that lie in it, by name."""
    if (folder / "plan.json").exists() or not folder.is_dir():
        return Members((folder,), {})
    if (folder / NAME).exists():
        tree = store.read_json(folder / NAME)
        try:
            if tree["schema"] != SCHEMA:
                raise UserError(f"{folder / NAME}: schema {tree['schema']!r} given, this version reads {SCHEMA}; plan the suite anew")
            members = [(str(member["benchmark"]), folder / str(member["folder"])) for member in tree["members"]]
            differences = tuple(Difference(**one) for one in tree["compare"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / NAME}: not a suite that this version can read ({error}); plan the suite anew") from error
    else:
        members, differences = [(path.parent.name, path.parent) for path in sorted(folder.glob("*/plan.json"))], ()
    finished = {place for _, place in members if (place / "result.json").exists()}
    if not finished:
        raise UserError(
            f"{folder}: no evaluation with a result there: neither its own result.json nor one in a folder of it; "
            "give what `metabridge eval -o` wrote"
        )
    missing = {name: place for name, place in members if place not in finished}
    return Members(tuple(place for _, place in members if place in finished), missing, differences)
