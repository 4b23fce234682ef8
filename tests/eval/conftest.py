from __future__ import annotations

import pytest

from metabridge.eval import benchmarks, plan
from tests.eval.oracle import BRIDGE, CODE, GENERATION


@pytest.fixture
def small_plan() -> plan.Plan:
    return plan.make(benchmarks.load("flatland"), BRIDGE, GENERATION, CODE, limit={"all": 4}, images=2)
