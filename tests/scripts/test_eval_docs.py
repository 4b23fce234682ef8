"""The benchmark of docs/evaluation.md, run as anybody's."""

from __future__ import annotations

import json
import re
from pathlib import Path

from metabridge.eval.detect import flatland as checker
from tests.eval import families
from tests.eval.judge_server import JudgeServer, Reply, Seen, says
from tests.scripts.conftest import Command

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_benchmark_of_the_page(written: Path, metabridge: Command) -> None:
    known = families.judge()

    def count(seen: Seen) -> Reply:
        thing = re.search(r"How many (\w+)s are", seen.text)
        if thing is None:
            return known(seen)
        found = sum(one.shape == thing[1] for one in checker.detect(seen.images[-1]))
        return says(f"{found}.")

    with JudgeServer(count) as server:
        words = ("eval", "flatland", "--suite", written / "counting.yaml", "--judge", server.word, "--images", 1, "-o", "out")
        code, _, err = metabridge(*words)
    assert code == 0, err
    result = json.loads(Path("out/result.json").read_text())
    assert result["variant"] == "counting/scripted-judge" and result["scores"]["score"].keys() == {"overall", "star", "heart"}
    assert result["judged"]["questions"] == 4
