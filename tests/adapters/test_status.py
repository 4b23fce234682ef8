"""adapters/status.json says of each family what its contract tests found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from record import RECORD, TABLES, declared, found

COMMAND = "python -m pytest tests/adapters --record-status"


@pytest.mark.parametrize("kind", TABLES)
def test_the_record_is_current(kind: str) -> None:
    record = json.loads(RECORD.read_text())[kind]
    assert record == declared(kind), f"out of date; {COMMAND}"


def test_every_entry_says_what_it_is() -> None:
    for kind, families in json.loads(RECORD.read_text()).items():
        for name, entry in families.items():
            assert entry["status"] in ("exact", "full-forward", "refused"), f"{kind} {name}"
            assert entry["reason"] and "\n" not in entry["reason"], f"{kind} {name}: no reason"


def test_only_what_passed_is_recorded() -> None:
    passed, failed, *others = sorted(TABLES["brains"])
    before: dict[str, Any] = {others[0]: {"status": "exact", "reason": "as it stood"}, "gone": {"status": "exact", "reason": ""}}
    record = found("brains", {("brains", passed): [], ("brains", failed): ["test_a fails", "test_b fails"]}, before)
    assert list(record) == sorted(TABLES["brains"])
    assert record[passed] == declared("brains")[passed]
    assert record[failed] == {"status": "untested", "reason": "2 not passed: test_a fails"}
    assert record[others[0]] == before[others[0]]
    assert record[others[1]] == {"status": "untested", "reason": "no contract test has run"}
