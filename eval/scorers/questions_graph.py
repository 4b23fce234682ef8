"""Questions that depend on one another: where the answer to a parent is no, the answer to its child counts as no.

A graph is question -> parents, in the order of the file. Scores are 1 for yes and 0 for no. Parents first, on "is there a car" (1),
"is the car red" (2, of 1) and "is the red car parked" (3, of 2): answers 0, 1, 1 count as 0, 0, 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Graph = Mapping[int, Sequence[int]]
Scores = Mapping[int, float]


class GraphError(ValueError):
    """A graph that cannot be walked."""


def parents_first(graph: Graph, scores: Scores) -> dict[int, float]:
    """Every question after all it depends on, however the file orders them."""
    return _walk(graph, order(graph), scores)


def in_file_order(graph: Graph, scores: Scores) -> dict[int, float]:
    """The official walk: a parent that comes later in the file is looked at before it is zeroed itself, and a cycle goes unnoticed."""
    return _walk(graph, list(graph), scores)


def order(graph: Graph) -> list[int]:
    """Parents before children, else as in the file."""
    done: dict[int, None] = {}
    for question in graph:
        path = [question]  # each waits for the next
        while path:
            waits = next((parent for parent in graph[path[-1]] if _there(graph, path[-1], parent) not in done), None)
            if waits is None:
                done[path.pop()] = None
            elif waits in path:
                cycle = " -> ".join(map(str, [*path[path.index(waits) :], waits]))
                raise GraphError(f"questions {cycle} depend on each other in a circle")
            else:
                path.append(waits)
    return list(done)


def _walk(graph: Graph, questions: Sequence[int], scores: Scores) -> dict[int, float]:
    kept = {question: scores[question] for question in graph}
    for question in questions:
        if any(kept[_there(graph, question, parent)] == 0 for parent in graph[question]):
            kept[question] = 0.0
    return kept


def _there(graph: Graph, question: int, parent: int) -> int:
    if parent not in graph:
        raise GraphError(f"question {question} depends on {parent}, which is not there")
    return parent
