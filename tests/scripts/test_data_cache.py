"""`metabridge data cache`, and a run with what it kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command

from metabridge.training.log import read_metrics
from tests.rows import write_jsonl, write_pictures

Tree = dict[str, Any]


@pytest.fixture
def recipe(tree: Tree, tmp_path: Path) -> Path:
    names = write_pictures(tmp_path, 300)
    (tmp_path / names[4]).write_bytes(b"torn")
    rows = write_jsonl(tmp_path, [{"prompt": f"row {k}", "target": name} for k, name in enumerate(names)])
    tree["data"] = [{"source": "jsonl", "path": str(rows)}]
    tree["train"]["workers"] = 0
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**tree, "name": "own"}))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.slow
def test_the_command(metabridge: Command, recipe: Path) -> None:
    code, out, err = metabridge("data", "cache", recipe, "objective.distill=0.5", "-o", "kept")
    lines = out.splitlines()
    assert code == 0 and not err
    assert any(line.startswith("jsonl: 299 of 300 rows kept, ") and "kept/latents-jsonl-" in line for line in lines)
    assert lines[-1] == f"to train with it: metabridge train {recipe} objective.distill=0.5 train.cache=kept"
    first = contents(Path("kept"))
    assert len(first) == 5  # two shards of each, and the empty caption

    # one shard is lost; two processes make it again, and nothing else
    lost = next(Path("kept").glob("latents-*/00001.safetensors"))
    lost.unlink()
    code, _, err = metabridge("data", "cache", recipe, "objective.distill=0.5", "-o", "kept", "--processes", 2)
    assert code == 0 and not err and contents(Path("kept")) == first

    losses = []
    for out_folder, cache in (("with", "kept"), ("without", "off")):
        code, _, err = metabridge("train", recipe, "objective.distill=0.5", f"train.cache={cache}", "--out", out_folder)
        assert code == 0 and not err
        losses.append([row["loss"] for row in read_metrics(Path(out_folder) / "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 4


def test_what_cannot_be_kept(metabridge: Command, recipe_file: Path) -> None:
    code, _, err = metabridge("data", "cache", recipe_file)
    assert code == 2
    assert err == "metabridge: data cache: no source of tiny keeps its rows (they are made, or streamed); there is nothing to keep\n"
    code, _, err = metabridge("train", recipe_file, "train.cache=gone")
    assert code == 2 and err.startswith("metabridge: train.cache: no source of this recipe keeps its rows") and err.count("\n") == 1
