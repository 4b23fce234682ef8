"""Verdicts that no scorer should give, records and results that somebody has edited: one line that names the file or the scorer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks, compare, plan, result, score, store
from metabridge.eval.generate import DRAWN
from metabridge.eval.items import Item, Verdict
from tests.eval import small_benchmark
from tests.eval.oracle import BRIDGE, CODE, GENERATION, Oracle
from tests.eval.test_flow import evaluate

RATIO = {"metrics": [{"name": "correct", "within": "ratio"}]}


@dataclass
class Says:
    """A scorer that gives what it is told to; the last thing for ever."""

    verdicts: Sequence[Any]
    batch: int = 1
    workers: int = 1
    identity: Mapping[str, Any] = field(default_factory=lambda: {"variant": "says", "parser": 1})

    def check(self) -> None:
        """Nothing to check."""

    def score(self, rows: Sequence[tuple[Item, Image.Image]]) -> Any:
        return self.verdicts


def drawn(folder: Path, **changes: Any) -> plan.Plan:
    """Four prompts of a picture each, drawn."""
    own = benchmarks.parse("small", {**small_benchmark.tree(images=1), **changes}, "small")
    made = plan.save(plan.make(own, BRIDGE, GENERATION, CODE, rows=["bridge"]), folder)
    for sample in made.samples():
        (folder / sample.file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / sample.file)
        digest = hashlib.sha256((folder / sample.file).read_bytes()).hexdigest()
        record = {"key": sample.key, "seed": sample.seed, "prompt": "", "thought": None, "state": "ok", "reason": "", "sha256": digest}
        store.append(folder / DRAWN, [record])
    return made


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (None, "gave nothing for 1 pictures, bridge/animals/cat-0 first; it gives one for each"),
        ([], "gave 0 verdicts for 1 pictures, bridge/animals/cat-0 first; it gives one for each"),
        ([None], "gave nothing in place of a Verdict or Unscored, for bridge/animals/cat-0; mend it"),
        ([0.5], "gave a number in place of a Verdict or Unscored, for bridge/animals/cat-0; mend it"),
        ([Verdict({"correct": "1"})], "its value correct is text, not a number, for bridge/animals/cat-0; mend it"),
        (
            [Verdict(None)],  # type: ignore[arg-type]
            "gave values and features as nothing and nothing; they are a mapping and an array, for bridge/animals/cat-0; mend it",
        ),
        (
            [Verdict({"correct": 1.0, "correct.of": 1.0}, detail={"box": np.zeros(2)})],
            "its detail, facets or reason is no plain JSON (Object of type ndarray is not JSON serializable), for bridge/animals/cat-0; "
            "mend it",
        ),
        (
            [Verdict({"correct": 1.0})],
            "gave correct without correct.of, which a ratio is divided by, for bridge/animals/cat-0; mend it",
        ),
    ],
)  # fmt: skip
def test_a_scorers_slips_are_named(verdicts: Any, says: str, tmp_path: Path) -> None:
    made = drawn(tmp_path, **RATIO)
    with pytest.raises(UserError) as error:
        score.score(made, tmp_path, Says(verdicts))
    assert str(error.value) == f"scorer flatland: {says}"
    assert not (tmp_path / score.SCORED).exists()


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    made = drawn(tmp_path)
    scorer = Says([Verdict({"correct": np.float32(0.5)})])
    score.score(made, tmp_path, scorer)
    found = score.read(made, tmp_path, score.tag(score.identity_of(made, scorer)))
    assert [s.values for s in found] == [{"correct": 0.5}] * 4


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[]", "line 5 is no record: it is a list; remove the line, then run the same command again"),
        ('"x"', "line 5 is no record: it is text; remove the line, then run the same command again"),
        ("{}", "line 5 is no record: it has no key; remove the line, then run the same command again"),
        ('{"key": 3}', "line 5 is no record: it has no by; remove the line, then run the same command again"),
        ({"values": []}, "line 5 is no record: its values is a list; remove the line, then run the same command again"),
        ({"state": None}, "line 5 is no record: its state is nothing; remove the line, then run the same command again"),
        ({"sha256": 3}, "line 5 is no record: its sha256 is a number; remove the line, then run the same command again"),
    ],
)
def test_odd_records(line: str | dict[str, Any], says: str, tmp_path: Path) -> None:
    made, scorer = drawn(tmp_path), Says([Verdict({"correct": 1.0})])
    score.score(made, tmp_path, scorer)
    path = tmp_path / score.SCORED
    text = path.read_text()
    path.write_text(text + (line if isinstance(line, str) else json.dumps({**json.loads(text.splitlines()[0]), **line})) + "\n")
    with pytest.raises(UserError) as error:
        score.score(made, tmp_path, scorer)
    assert str(error.value) == f"{path}: {says}"


@pytest.mark.parametrize("change", [{"values": {"correct": "x"}}, {"facets": {"a": 3}}, {"facets": []}, {"detail": 3}, {"features": 3}])
def test_odd_values_in_a_record(change: dict[str, Any], tmp_path: Path) -> None:
    made, scorer = drawn(tmp_path), Says([Verdict({"correct": 1.0})])
    score.score(made, tmp_path, scorer)
    first = json.loads((tmp_path / score.SCORED).read_text().splitlines()[0])
    store.append(tmp_path / score.SCORED, [{**first, **change}])
    line = f"{tmp_path / score.SCORED}: the record of bridge/animals/cat-0 cannot be read ("
    with pytest.raises(UserError, match=f"^{re.escape(line)}.*; remove its line, then run the same command again$"):
        score.read(made, tmp_path, first["by"])


def test_a_ratio_without_its_denominator_in_a_record() -> None:
    own = small_benchmark.small()
    sample = plan.Sample("bridge", Item(0, "cat", "animals", "x", {}), 0, 0)
    with pytest.raises(
        UserError, match=r"^bridge/animals/cat-0: scored with correct and without correct\.of, which a ratio is divided by; "
    ):
        result.group([score.Scored(sample, "ok", {"correct": 1.0}, "", None)], benchmarks.Metric("correct", within="ratio"), own, {})


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({}, "it has no schema"),
        ([], "it is a list"),
        (3, "it is a number"),
        ({"schema": result.SCHEMA}, "it has no variant"),
        ({"schema": "2", "variant": "v", "scores": {}, "pictures": {}, "identity": {}}, "its schema is text"),
        (
            {"schema": 1, "variant": "v", "scores": {}, "pictures": {}, "identity": {}},
            f"its schema is 1, this version's is {result.SCHEMA}",
        ),
        ({"schema": 2, "variant": "v", "scores": {}, "pictures": {}, "identity": {}}, "its identity: it has no scoring"),
        (
            {
                "schema": 2,
                "variant": "v",
                "scores": {},
                "pictures": {},
                "identity": {"scoring": [], "benchmark": {}, "model": {}, "generation": {}},
            },
            "its identity: its scoring is a list",
        ),
    ],
)
def test_odd_results(tree: Any, says: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(tree))
    with pytest.raises(UserError) as error:
        result.read(tmp_path / "result.json")
    assert str(error.value) == (
        f"{tmp_path / 'result.json'}: no result that can be read: {says}; remove it and score again with `metabridge eval score {tmp_path}`"
    )


def test_a_result_is_read_as_it_was_written(small_plan: plan.Plan, tmp_path: Path) -> None:
    summary = evaluate(small_plan, tmp_path, Oracle())
    assert result.read(tmp_path / "result.json") == json.loads(json.dumps(summary))
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"result\.json: no result that can be read: it has no schema; "):
        compare.load(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((), [], "it is a list"),
        ((), {}, "it has no identity"),
        (("scoring",), [], "its scoring is a list"),
        (("identity", "benchmark"), "flatland", "identity: its benchmark is text"),
        (("identity", "benchmark", "version"), "1", "identity: benchmark: its version is text"),
        (("identity", "generation"), {}, "identity: generation: it has no rows"),
        (("identity", "model", "fingerprint"), None, "identity: model: its fingerprint is nothing"),
        (("items", 1), "cat", "items.1: it is text"),
        (("items", 0, "want"), [], "items.0: its want is a list"),
    ],
)
def test_odd_plans(path: tuple[str | int, ...], value: Any, says: str, small_plan: plan.Plan, tmp_path: Path) -> None:
    plan.save(small_plan, tmp_path)
    tree = node = {"": json.loads((tmp_path / "plan.json").read_text())}
    for key in ("", *path)[:-1]:
        node = node[key]
    node[("", *path)[-1]] = value
    (tmp_path / "plan.json").write_text(json.dumps(tree[""]))
    with pytest.raises(UserError) as error:
        plan.load(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'plan.json'}: not a plan that this version can read ({says}); start anew in another folder with -o"
    )


def test_odd_drawn_records(tmp_path: Path) -> None:
    made = drawn(tmp_path)
    store.append(tmp_path / DRAWN, [{"key": made.samples()[0].key, "state": "ok"}])
    with pytest.raises(
        UserError, match=r"drawn\.jsonl: line 5 is no record: it has no seed; remove the line, then run the same command again$"
    ):
        score.score(made, tmp_path, Says([Verdict({"correct": 1.0})]))
