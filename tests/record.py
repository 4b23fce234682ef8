"""`pytest tests/adapters --record-status`: what the contract tests found, the soak's among them, written into adapters/status.json."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import brain_families
import hand_families
import pytest

RECORD = Path(__file__).parents[1] / "adapters/status.json"
CONTRACTS = {
    "test_brains.py": "brains",
    "test_hands.py": "hands",
    "test_reference_hands.py": "hands",
}  # each parametrized by the `name` of a family
TABLES: dict[str, dict[str, Any]] = {"brains": brain_families.FAMILIES, "hands": hand_families.FAMILIES}
RAN = pytest.StashKey[dict[tuple[str, str], list[str]]]()  # (kind, entry) -> what was wrong, a line a test


def entry_of(kind: str, name: str) -> str:
    """Where the record has a family: brains by model_type, hands by the file of their adapter, which may have several."""
    return TABLES[kind][name].load.__module__.rsplit(".")[-1] if kind == "hands" else name


def declared(kind: str) -> dict[str, dict[str, str]]:
    """What the tables claim, by entry of the record."""
    if kind == "brains":
        return {name: {"status": family.status, "reason": family.reason} for name, family in sorted(TABLES[kind].items())}
    pipelines: dict[str, set[str]] = defaultdict(set)
    for name, family in TABLES[kind].items():
        pipelines[entry_of(kind, name)].add(family.pipeline.__name__)
    return {
        entry: {"status": "exact", "reason": f"draws as diffusers' {', '.join(sorted(pipelines[entry]))}"} for entry in sorted(pipelines)
    }


def found(kind: str, ran: dict[tuple[str, str], list[str]], before: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The record of a kind: what is declared where every test passed, what stood before where none ran."""
    record = {}
    for entry, claim in declared(kind).items():
        wrong = ran.get((kind, entry))
        if wrong is None:
            record[entry] = before.get(entry, {"status": "untested", "reason": "no contract test has run"})
        else:
            record[entry] = {"status": "untested", "reason": f"{len(wrong)} not passed: {wrong[0]}"} if wrong else claim
    return record


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-status", action="store_true", help="write what the contract tests find into adapters/status.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RAN] = defaultdict(list)
    if config.getoption("--record-status"):
        if config.option.keyword:
            raise pytest.UsageError("--record-status: a part of the contract (-k) proves nothing of a family; leave out -k")
        config.option.markexpr = ""  # the soak is part of the contract


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    report = yield
    kind, callspec = CONTRACTS.get(item.path.name), getattr(item, "callspec", None)
    if kind and callspec and callspec.params.get("name") in TABLES[kind]:
        wrong = item.config.stash[RAN][kind, entry_of(kind, callspec.params["name"])]
        if report.skipped:
            wrong.append(f"{item.originalname} was skipped ({report.longrepr[2]})")
        elif report.failed:
            wrong.append(f"{item.originalname} fails")
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--record-status"):
        before = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        record = {kind: found(kind, session.config.stash[RAN], before.get(kind, {})) for kind in TABLES}
        RECORD.write_text(json.dumps(record, indent=2) + "\n")
