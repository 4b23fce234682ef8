"""The benchmark data beside the checkout is what its pins say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def test_copied_files_are_what_was_pinned(test_data: Path) -> None:
    folder = test_data / "bench_data"
    pins = json.loads((folder / "PINS.json").read_text(encoding="utf-8"))
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}
    copied = {f"{pin['repo']}/{pin['path']}": pin["sha256"] for pin in pins if pin["copied"]}
    assert copied and [name for name, sha256 in copied.items() if sha256 not in found] == []
