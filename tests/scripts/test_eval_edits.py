"""`metabridge eval flatland --suite flatland_edit` with the bridge that ships: all of it runs, whatever the drawings are like."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Command


def test_edits_and_conversations_end_to_end(metabridge: Command) -> None:
    words = ("eval", "flatland", "--suite", "flatland_edit", "--images", 1, "--steps", 1, "--guidance", 1, "-o", "edits")
    code, out, err = metabridge(*words, "--limit", 1, "--rows", "bridge")
    assert code == 0 and not err and "Conversations" in out
    result = json.loads(Path("edits/result.json").read_text())
    assert result["pictures"] == {"ok": 22, "model_error": 0, "infra_error": 0}
    assert 0 <= result["scores"]["edit"]["implicit"]["change"]["overall"]["value"] <= 1
    assert Path("edits/report.html").exists() and Path("edits/sheets/bridge-dialogue.png").exists()


def test_a_row_without_references_needs_a_hand_that_takes_some(metabridge: Command, trained: Path) -> None:
    code, _, err = metabridge("eval", "plan", trained, "--suite", "flatland_edit", "--rows", "bridge,query-only", "-o", "edits")
    assert code == 2 and err == "metabridge: --rows query-only: the hand is given no source pictures in any case; leave query-only out\n"
