"""`metabridge eval images:DIR | diffusers:REPO | endpoint:URL#MODEL`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from metabridge.eval import benchmarks, plan
from metabridge.eval.generate import drawn, generate
from metabridge.eval.items import OK
from tests.eval.image_server import ImageServer, Seen, paints
from tests.eval.judge_server import Reply, fails
from tests.eval.oracle import CODE, Oracle
from tests.scripts.conftest import Command, metabridge

__all__ = ["metabridge"]

SMALL = ("--limit", "1", "--images", "1")
COUNT = 22  # pictures of flatland then, of the row bridge


@pytest.fixture
def right(tmp_path: Path) -> Path:
    """A folder of pictures that show what they should."""
    oracle = Oracle()
    made = plan.make(benchmarks.load("flatland"), oracle.subject.identity, {}, CODE, limit={"all": 1}, images=1, rows=["bridge"])
    generate(plan.save(made, tmp_path / "right"), tmp_path / "right", oracle.subject)
    return tmp_path / "right"


def result(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())


def model(folder: Path) -> Any:
    return result(folder)["identity"]["model"]


def test_pictures(metabridge: Command, right: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert metabridge("eval", f"images:{right}", *SMALL, "-o", out)[0] == 0
    assert result(out)["scores"]["composition"]["overall"]["value"] == 1.0
    assert (model(out)["kind"], model(out)["drawn_by"]["name"]) == ("images", "oracle")
    whole = (out / "result.json").read_bytes()
    # a stage at a time, from what the plan says
    (out / "images" / "bridge" / "single" / "single-000-0.png").unlink()
    assert metabridge("eval", "generate", out)[0] == metabridge("eval", "score", out)[0] == 0
    assert (out / "result.json").read_bytes() == whole
    # a picture of another color, in the folder of somebody else
    with Image.open(right / "images" / "bridge" / "single" / "single-000-0.png") as image:
        Image.fromarray(255 - np.asarray(image)).save(right / "images" / "bridge" / "single" / "single-000-0.png")
    code, _, err = metabridge("eval", f"images:{right}", *SMALL, "-o", out)
    assert code == 2 and "holds another evaluation: its images fingerprint is " in err
    code, _, err = metabridge("eval", "generate", out)
    assert code == 2 and f"{right}: fingerprint " in err
    code, _, err = metabridge("eval", f"images:{right}", "--size", "64", "-o", out)
    assert code == 2 and err == "metabridge: --size: has no effect on a folder of pictures, which are drawn already; leave it out\n"


def test_a_pipeline(metabridge: Command, tmp_path: Path) -> None:
    folder, out = tiny.make_sd_hand(tmp_path / "sd"), tmp_path / "out"
    assert metabridge("eval", f"diffusers:{folder}", *SMALL, "--steps", "1", "--device", "cpu", "-o", out)[0] == 0
    generation = result(out)["identity"]["generation"]
    assert (generation["num_inference_steps"], generation["guidance_scale"], generation["rows"]) == (1, 7.5, generation["rows"])
    assert list(generation["rows"]) == ["bridge"] and model(out)["pipeline"] == "StableDiffusionPipeline"
    assert sum(record["state"] == OK for record in drawn(out).values()) == COUNT
    assert metabridge("eval", "generate", out, "--device", "cpu")[0] == 0


def test_an_endpoint(metabridge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that the server refuses in the middle goes on where it stopped."""
    key, out = "sk-test-0123456789abcdef", tmp_path / "out"
    monkeypatch.setenv("METABRIDGE_IMAGE_KEY", key)

    def script(seen: Seen) -> Reply:
        return fails(401, f"no such key: {key}") if seen.number >= 4 else paints(seen)

    with ImageServer(script) as server:
        words = ("eval", f"endpoint:{server.word}", *SMALL, "-o", out)
        code, text, err = metabridge(*words)
        assert code == 2 and sum(record["state"] == OK for record in drawn(out).values()) == 4  # what is paid for is kept
        assert "refuses the key in METABRIDGE_IMAGE_KEY (401: no such key: [key])" in " ".join(err.split())
        server.script, before = paints, len(server.seen)
        code, text, err = metabridge(*words)
        assert code == 0 and "not scored" not in text
        assert len(server.seen) == before + 18
        assert metabridge("eval", "generate", out)[0] == 0 and len(server.seen) == before + 18
    assert model(out)["name"] == server.word
    assert key not in text + err and not any(key.encode() in file.read_bytes() for file in out.rglob("*") if file.is_file())
