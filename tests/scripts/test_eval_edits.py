"""`metabridge eval BRIDGE --suite flatland_edit`: all of it runs, and the bridge that ships for it does what docs/flatland.md reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Command

REPORTED = {  # with think, docs/flatland.md
    "edit": {"overall": 0.73},
    "given": {"mix": 0.94, "both": 0.78, "reconstruct": 0.96},
    "dialogue": {"dialogue": 0.74, "frames": 0.66},
}
EACH = 10  # prompts a kind


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


@pytest.mark.slow
def test_the_bridge_for_pictures_is_as_good_as_reported(metabridge: Command) -> None:
    """Two standard errors of a small sample below, so that its luck does not fail the test."""
    assert metabridge("eval", "flatland-edit", "--suite", "flatland_edit", "--rows", "think", "--limit", EACH, "-o", "edits")[0] == 0
    scores = json.loads(Path("edits/result.json").read_text())["scores"]
    for part, kinds in REPORTED.items():
        right = scores[part]["think"]["correct"]
        for kind, share in kinds.items():
            prompts = EACH * (len(right) - 1 if kind == "overall" else 1)
            assert right[kind]["value"] >= share - 2 * (share * (1 - share) / prompts) ** 0.5, (part, kind)
