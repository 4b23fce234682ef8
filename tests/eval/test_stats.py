"""Intervals against closed forms, and their coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from metabridge.eval import stats


def clustered(rng: np.random.Generator, prompts: int, images: int, p: float) -> list[list[float]]:
    """Pictures of a prompt share its own chance of being right: a beta-binomial with mean p."""
    own = rng.beta(2 * p, 2 * (1 - p), size=prompts)
    return (rng.random((prompts, images)) < own[:, None]).astype(float).tolist()


def test_value_is_the_mean_of_the_strata() -> None:
    estimate = stats.proportion([[[1, 1], [1, 0]], [[0, 0], [0, 0], [0, 0]]])
    assert estimate.value == pytest.approx((0.75 + 0.0) / 2)
    assert (estimate.n, estimate.prompts) == (10, 5)


def test_bootstrap_agrees_with_the_closed_form() -> None:
    rng = np.random.default_rng(1)
    estimate = stats.proportion([clustered(rng, 100, 2, 0.6) for _ in range(6)])
    assert estimate.stderr is not None
    assert (estimate.high - estimate.low) / 2 == pytest.approx(stats.Z * estimate.stderr, rel=0.05)


def test_pictures_of_a_prompt_are_not_counted_as_independent() -> None:
    """Twice the pictures, each pair alike: the interval stays as wide."""
    rng = np.random.default_rng(2)
    single = clustered(rng, 80, 1, 0.5)
    one, two = stats.proportion([single]), stats.proportion([[prompt * 2 for prompt in single]])
    assert (one.low, one.high, one.stderr) == (two.low, two.high, two.stderr)


def test_coverage_of_the_95_percent_interval() -> None:
    """600 experiments of three tags with 40 prompts x 2 pictures each; the truth lies inside in 93 to 97% of them."""
    rng = np.random.default_rng(3)
    truth, inside, experiments = (0.3 + 0.6 + 0.8) / 3, 0, 600
    for _ in range(experiments):
        means = [np.mean(clustered(rng, 40, 2, p), axis=1) for p in (0.3, 0.6, 0.8)]
        low, high = np.quantile(stats.resample(means, resamples=1000), (0.025, 0.975))
        inside += low <= truth <= high
    assert 0.93 <= inside / experiments <= 0.97


def test_paired_false_positives() -> None:
    """Two drawers that are equally good differ 'significantly' in about one of twenty experiments."""
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(400):
        own = rng.beta(1.2, 0.8, size=(60, 1))
        first, second = ((rng.random((60, 2)) < own).astype(float) for _ in range(2))
        low, high = np.quantile(stats.resample([(first - second).mean(axis=1)], resamples=1000), (0.025, 0.975))
        found += not low <= 0 <= high
    assert 0.025 <= found / 400 <= 0.085


def test_paired_difference() -> None:
    estimate = stats.paired([[[1, 1], [1, 0]]], [[[1, 0], [0, 0]]])
    assert estimate.value == pytest.approx(0.5)
    assert estimate.low == estimate.high == 0.5  # both prompts differ by one half


def test_where_all_prompts_score_alike_wilson_stands_in() -> None:
    """Textbook value: 20 of 20 has the Wilson interval [0.839, 1]."""
    estimate = stats.proportion([[[1.0, 1.0]] * 20])
    assert estimate.low == pytest.approx(0.8389, abs=1e-4)
    assert estimate.high == 1.0


def test_wilson_against_scipy() -> None:
    from scipy.stats import binomtest

    interval = binomtest(13, 50).proportion_ci(method="wilson")
    assert stats.wilson(13 / 50, 50) == pytest.approx((interval.low, interval.high))


def test_one_prompt_has_no_closed_form() -> None:
    assert stats.proportion([[[1.0, 0.0]]]).stderr is None
