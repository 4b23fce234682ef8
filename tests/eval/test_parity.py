"""Our scores beside official ones: kappa against its closed form, rows that stay true to what was put in."""

from __future__ import annotations

import numpy as np
import pytest

from metabridge.bridge.errors import UserError
from metabridge.eval import parity
from metabridge.eval.benchmarks import Metric
from metabridge.eval.items import Item
from metabridge.eval.parity import Key
from metabridge.eval.plan import Sample
from metabridge.eval.score import Scored


def table(both: int, ours: int, official: int, neither: int) -> tuple[dict[Key, float], dict[Key, float]]:
    """So many pictures that both, ours alone, the official scorer alone and neither find right, two of a prompt."""
    pairs = [(1.0, 1.0)] * both + [(1.0, 0.0)] * ours + [(0.0, 1.0)] * official + [(0.0, 0.0)] * neither
    keys = [("g", str(i // 2), i % 2) for i in range(len(pairs))]
    first, second = ({key: pair[side] for key, pair in zip(keys, pairs, strict=True)} for side in (0, 1))
    return first, second


@pytest.mark.parametrize("cells", [(20, 5, 10, 15), (1, 7, 3, 41), (10, 0, 0, 10), (0, 10, 10, 0), (6, 6, 6, 6)])
def test_kappa_of_a_two_by_two_table(cells: tuple[int, int, int, int]) -> None:
    """2 (ad - bc) / ((a + b)(b + d) + (a + c)(c + d))."""
    a, b, c, d = cells
    found = parity.parity(*table(*cells))
    assert found.overall.kappa == pytest.approx(2 * (a * d - b * c) / ((a + b) * (b + d) + (a + c) * (c + d)))
    assert found.overall.agree == pytest.approx((a + d) / sum(cells))
    assert found.overall.difference == pytest.approx((b + c) / sum(cells))
    assert (found.overall.ours.value, found.overall.official.value) == pytest.approx(((a + b) / sum(cells), (a + c) / sum(cells)))
    assert found.overall.gap.value == pytest.approx((b - c) / sum(cells))
    given = {(1.0, 1.0): a, (1.0, 0.0): b, (0.0, 1.0): c, (0.0, 0.0): d}
    assert found.confusion == {pair: count for pair, count in given.items() if count}
    assert len(found.disagreements) == b + c


def test_kappa_textbook() -> None:
    """Cohen's example as it stands in textbooks: 20, 5, 10, 15 of 50 gives 0.4."""
    assert parity.parity(*table(20, 5, 10, 15)).overall.kappa == pytest.approx(0.4)


def test_kappa_of_independent_judges_is_zero() -> None:
    rng = np.random.default_rng(0)
    assert abs(parity.kappa(rng.random(200_000) < 0.8, rng.random(200_000) < 0.3)) < 0.01


def test_two_that_always_say_yes_have_no_kappa() -> None:
    found = parity.parity(*table(10, 0, 0, 0))
    assert found.overall.kappa is None and found.overall.agree == 1.0


def test_scales() -> None:
    ours = {("g", str(i), 0): float(v) for i, v in enumerate([1, 2, 3, 4, 5])}
    official = {key: 2 * value for key, value in ours.items()}
    found = parity.parity(ours, official)
    assert found.overall.correlation == pytest.approx(1.0) and found.overall.kappa is None
    assert found.overall.difference == 3.0 and found.overall.agree == 0.0
    assert found.disagreements == tuple(("g", str(i), 0) for i in (4, 3, 2, 1, 0))
    assert found.confusion[2.0, 4.0] == 1
    flat = dict.fromkeys(ours, 7.0)
    assert parity.parity(ours, flat).overall.correlation is None


def test_a_fine_scale_has_no_confusion() -> None:
    values = np.random.default_rng(1).random(50)
    ours = {("g", str(i), 0): float(v) for i, v in enumerate(values)}
    found = parity.parity(ours, {key: value + 1e-9 for key, value in ours.items()})
    assert found.confusion == {} and found.disagreements == () and found.overall.agree == 1.0


def test_groups_stand_apart_and_are_weighted_as_in_the_benchmark() -> None:
    ours = {("a", "0", 0): 1.0, ("a", "1", 0): 1.0, ("b", "0", 0): 0.0}
    official = {**ours, ("a", "1", 0): 0.0}
    found = parity.parity(ours, official)
    assert {group: (one.pictures, one.agree) for group, one in found.groups.items()} == {"a": (2, 0.5), "b": (1, 1.0)}
    assert (found.overall.ours.value, found.overall.official.value) == (0.5, 0.25)
    assert parity.parity(ours, official, {"a": 0.2, "b": 0.8}).overall.official.value == pytest.approx(0.1)


def test_what_only_one_side_has_is_counted() -> None:
    ours, official = table(5, 1, 1, 5)
    del ours["g", "0", 0]
    found = parity.parity(ours, {key: value for key, value in official.items() if key[1] not in ("4", "5")})
    assert (found.overall.pictures, found.ours_only, found.official_only) == (7, 4, 1)


def test_nothing_shared() -> None:
    with pytest.raises(UserError) as error:
        parity.parity({("a", "0", 0): 1.0}, {("a", "1", 0): 1.0})
    assert str(error.value) == (
        "no picture is scored on both sides: ours has ('a', '0', 0), the official results ('a', '1', 0); give results of the same pictures"
    )


def test_rows_and_lines() -> None:
    ours, official = table(20, 5, 10, 15)
    found = parity.parity(ours, official)
    overall, group = parity.rows(found)
    assert overall[:6] == ("overall", "50", "70.0%", "0.400", "", "0.300")
    assert overall[6:8] == ("0.500", "0.600") and overall[8].startswith("-0.100 [")
    assert group == ("g", *overall[1:])
    assert len(overall) == len(parity.COLUMNS)
    said = parity.lines(
        found,
        {key: (value, "" if value else "expected 2 dogs, found 1") for key, value in ours.items()},
        {key: (value, "") for key, value in official.items()},
        most=6,
    )
    assert said[0].split() == " ".join(parity.COLUMNS).split()
    assert "1 / 0: 5" in said and "15 disagreements, the first 6:" in said
    assert said[-6] == "g/10-0: ours 1 (no reason given), official 0 (no reason given)"
    assert said[-1] == "g/12-1: ours 0 (expected 2 dogs, found 1), official 1 (no reason given)"
    assert len({len(line) for line in said[:3]}) <= 2  # aligned


def test_shares_are_held_against_each_other_not_counts() -> None:
    """Of a ratio: 3 of 4 words here are as many as 6 of 8 there; what has nothing to count is left out."""
    metric = Metric("words", within="ratio")
    values = [{"words": 3.0, "words.of": 4.0}, {"words": 0.0, "words.of": 0.0}, {}]
    scored = [Scored(Sample("bridge", Item(n, str(n), "g", "x", {}), 0, 0), "ok", v, "a word", None) for n, v in enumerate(values)]
    ours = parity.ours_of([*scored, Scored(Sample("think", scored[0].sample.item, 0, 0), "ok", values[0], "", None)], metric)
    official = parity.official_of([(("g", "0", 0), {"words": 6.0, "words.of": 8.0}, "")], metric, "results.jsonl")
    assert ours == {("g", "0", 0): (0.75, "a word")} and official == {("g", "0", 0): (0.75, "")}


@pytest.mark.parametrize(
    ("values", "metric", "line"),
    [
        ({"score": 1.0}, Metric("wiscore"), "no wiscore in it, by which pictures are held against each other; it has score"),
        ({"words": 1.0}, Metric("words", within="ratio"), "no words.of in it, by which pictures are held against each other; it has words"),
    ],
)
def test_official_results_without_the_headline(values: dict[str, float], metric: Metric, line: str) -> None:
    with pytest.raises(UserError) as error:
        parity.official_of([(("g", "0", 0), values, "")], metric, "results.jsonl")
    assert str(error.value) == f"results.jsonl: {line}"


def test_a_number_of_the_whole_set_has_no_parity() -> None:
    with pytest.raises(UserError, match=r"^parity: FID is of all pictures together; there is nothing to hold against each other$"):
        parity.refuse_of_set(Metric("fid", "FID", within="set"))
