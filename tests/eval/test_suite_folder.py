"""What a suite's folder holds: members in order, those without a result, and what to subtract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metabridge.bridge.errors import UserError
from metabridge.eval import suite_folder
from metabridge.eval.suites import Difference


def suite(folder: Path, **changes: Any) -> Path:
    """Three members, the second of which has no result."""
    members = [{"benchmark": name, "folder": name} for name in ("wise", "geneval", "dpg")]
    compare = [{"name": "gap", "first": "wise", "second": "dpg", "note": "why"}]
    (folder / "suite.json").write_text(json.dumps({"schema": 1, "suite": "mine", "members": members, "compare": compare} | changes))
    for name in ("wise", "geneval", "dpg"):
        (folder / name).mkdir()
        (folder / name / "plan.json").write_text("{}")
    for name in ("wise", "dpg"):
        (folder / name / "result.json").write_text("{}")
    return folder


def test_members_in_order_and_those_without_a_result(tmp_path: Path) -> None:
    found = suite_folder.read(suite(tmp_path))
    assert found.done == (tmp_path / "wise", tmp_path / "dpg")
    assert found.missing == {"geneval": tmp_path / "geneval"}
    assert found.differences == (Difference("gap", "wise", "dpg", "why"),)


def test_a_folder_of_evaluations_without_a_suite(tmp_path: Path) -> None:
    (suite(tmp_path) / "suite.json").unlink()
    found = suite_folder.read(tmp_path)
    assert found == suite_folder.Members((tmp_path / "dpg", tmp_path / "wise"), {"geneval": tmp_path / "geneval"})
    assert suite_folder.read(tmp_path / "wise") == suite_folder.Members((tmp_path / "wise",), {})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"schema": 2}, "schema 2 given, this version reads 1; plan the suite anew"),
        ({"members": [{"benchmark": "wise"}]}, "not a suite that this version can read ('folder'); plan the suite anew"),
        ({"compare": None}, "not a suite that this version can read ('NoneType' object is not iterable); plan the suite anew"),
    ],
)
def test_a_suite_file_that_is_none(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        suite_folder.read(suite(tmp_path, **changes))
    assert str(error.value) == f"{tmp_path / 'suite.json'}: {line}"


def test_no_result_anywhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no evaluation with a result there"):
        suite_folder.read(tmp_path)
