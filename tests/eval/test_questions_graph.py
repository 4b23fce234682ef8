"""Answers counted over a graph: by hand, by definition, and as the official scorer counts them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabridge.eval.scorers.questions_graph import GraphError, in_file_order, order, parents_first

CAR = {1: (), 2: (1,), 3: (2,)}  # is there a car; is the car red; is the red car parked


@pytest.mark.parametrize(
    ("answers", "counted"), [((1, 1, 1), (1, 1, 1)), ((0, 1, 1), (0, 0, 0)), ((1, 0, 1), (1, 0, 0)), ((1, 1, 0), (1, 1, 0))]
)
def test_three_questions_by_hand(answers: tuple[int, ...], counted: tuple[int, ...]) -> None:
    scores = dict(zip(CAR, map(float, answers), strict=True))
    assert tuple(parents_first(CAR, scores).values()) == counted
    assert tuple(in_file_order(CAR, scores).values()) == counted


def test_the_official_walk_depends_on_the_order_of_the_file() -> None:
    """Children first: the third question sees the second before the first has zeroed it."""
    answers = {3: 1.0, 2: 1.0, 1: 0.0}
    turned = {key: CAR[key] for key in answers}
    assert in_file_order(turned, answers) == {3: 1.0, 2: 0.0, 1: 0.0}
    assert parents_first(turned, answers) == {3: 0.0, 2: 0.0, 1: 0.0}
    assert list(parents_first(turned, answers)) == [3, 2, 1]  # told as the file has them


def test_all_parents_must_hold() -> None:
    graph = {1: (), 2: (), 3: (1, 2)}
    found = {pair: parents_first(graph, {1: pair[0], 2: pair[1], 3: 1.0})[3] for pair in itertools.product((0.0, 1.0), repeat=2)}
    assert found == {(0, 0): 0, (0, 1): 0, (1, 0): 0, (1, 1): 1}


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[int, tuple[int, ...]], dict[int, float]]:
    """Without circles, in any order."""
    size = draw(st.integers(1, 8))
    above = {key: tuple(draw(st.sets(st.integers(1, key - 1), max_size=3))) if key > 1 else () for key in range(1, size + 1)}
    keys = draw(st.permutations(list(above)))
    return {key: above[key] for key in keys}, {key: draw(st.sampled_from((0.0, 1.0))) for key in keys}


@given(graphs())
def test_a_question_counts_if_it_and_all_it_depends_on_are_yes(given: tuple[dict[int, tuple[int, ...]], dict[int, float]]) -> None:
    graph, scores = given

    def holds(key: int) -> bool:
        return scores[key] == 1 and all(map(holds, graph[key]))

    counted = parents_first(graph, scores)
    assert counted == {key: float(holds(key)) for key in graph}
    assert all(counted[key] <= value <= scores[key] for key, value in in_file_order(graph, scores).items())
    assert in_file_order({key: graph[key] for key in order(graph)}, scores) == counted  # alike where parents come first


def test_circles_and_missing_parents_are_named() -> None:
    ones = dict.fromkeys(range(1, 6), 1.0)
    with pytest.raises(GraphError, match=r"^questions 3 -> 5 -> 4 -> 3 depend on each other in a circle$"):
        parents_first({1: (3,), 2: (), 3: (2, 5), 4: (3,), 5: (4,)}, ones)
    with pytest.raises(GraphError, match=r"^questions 2 -> 2 depend on each other in a circle$"):
        parents_first({2: (2,)}, ones)
    for walk in (parents_first, in_file_order):
        with pytest.raises(GraphError, match=r"^question 2 depends on 7, which is not there$"):
            walk({2: (7,)}, ones)


def test_official_vectors(test_data: Path) -> None:
    """The walk in file order gives every official average. Ours gives the same but for parents that come late, and never more."""
    rows = [json.loads(line) for line in (test_data / "golden" / "dpg_dependency.jsonl").read_text().splitlines()]
    late = circles = 0
    for row in rows:
        graph = {int(key): [parent for parent in parents if parent] for key, parents in row["dependency"].items()}
        tiles = [{int(key): float(answer == "yes") for key, answer in tile.items()} for tile in row["answers"]]
        official = [sum(in_file_order(graph, tile).values()) / len(graph) for tile in tiles]
        assert sum(official) / len(tiles) == pytest.approx(row["official_average"], abs=1e-12)
        in_order = all(parent < key for key, parents in graph.items() for parent in parents)
        late += not in_order
        try:
            ours = [sum(parents_first(graph, tile).values()) / len(graph) for tile in tiles]
        except GraphError:
            assert not in_order
            circles += 1
            continue
        assert all(a <= b for a, b in zip(ours, official, strict=True))
        assert ours == official or not in_order
    assert late > circles > 0  # both are among them
