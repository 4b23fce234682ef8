"""Intervals against closed forms, and their coverage by simulation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from metabridge.bridge.errors import UserError
from metabridge.eval import stats, sums


def clustered(rng: np.random.Generator, prompts: int, images: int, p: float) -> list[list[float]]:
    """Pictures of a prompt share its own chance of being right: a beta-binomial with mean p."""
    own = rng.beta(2 * p, 2 * (1 - p), size=prompts)
    return (rng.random((prompts, images)) < own[:, None]).astype(float).tolist()


def of(*groups: Sequence[Sequence[float]]) -> stats.Clusters:
    """Groups of prompts, each a list of one number per picture."""
    return {
        f"group {g}": {f"prompt {i}": [(float(v), 1.0) for v in prompt] for i, prompt in enumerate(own)} for g, own in enumerate(groups)
    }


def test_value_is_the_mean_of_the_groups() -> None:
    estimate = stats.estimate(of([[1, 1], [1, 0]], [[0, 0], [0, 0], [0, 0]]))
    assert estimate.value == pytest.approx((0.75 + 0.0) / 2)
    assert (estimate.n, estimate.prompts) == (10, 5)


def test_bootstrap_agrees_with_the_closed_form() -> None:
    rng = np.random.default_rng(1)
    estimate = stats.estimate(of(*(clustered(rng, 100, 2, 0.6) for _ in range(6))))
    assert estimate.stderr is not None
    assert (estimate.high - estimate.low) / 2 == pytest.approx(stats.Z * estimate.stderr, rel=0.05)


def test_pictures_of_a_prompt_are_not_counted_as_independent() -> None:
    """Twice the pictures, each pair alike: the interval stays as wide."""
    rng = np.random.default_rng(2)
    single = clustered(rng, 80, 1, 0.5)
    one, two = stats.estimate(of(single)), stats.estimate(of([prompt * 2 for prompt in single]))
    assert (one.low, one.high, one.stderr) == (two.low, two.high, two.stderr)


def test_paired_difference() -> None:
    estimate = stats.paired_estimate(of([[1, 1], [1, 0]]), of([[1, 0], [0, 0]]))
    assert estimate.value == pytest.approx(0.5)
    assert estimate.low == estimate.high == 0.5  # both prompts differ by one half


def test_where_all_prompts_score_alike_wilson_stands_in() -> None:
    """Textbook value: 20 of 20 has the Wilson interval [0.839, 1]."""
    estimate = stats.estimate(of([[1.0, 1.0]] * 20))
    assert estimate.low == pytest.approx(0.8389, abs=1e-4)
    assert estimate.high == pytest.approx(1.0)


def test_wilson_against_scipy() -> None:
    from scipy.stats import binomtest

    interval = binomtest(13, 50).proportion_ci(method="wilson")
    assert stats.wilson(13 / 50, 50) == pytest.approx((interval.low, interval.high))


def test_one_prompt_has_no_closed_form() -> None:
    assert stats.estimate(of([[1.0, 0.0]])).stderr is None


# -- aggregates of groups -------------------------------------------------------------------------------------------------------------


def groups_of(rng: np.random.Generator, sizes: Mapping[str, int], images: int, chances: Mapping[str, float]) -> stats.Clusters:
    return {
        name: {str(i): [(value, 1.0) for value in prompt] for i, prompt in enumerate(clustered(rng, size, images, chances[name]))}
        for name, size in sizes.items()
    }


def read_texts(rng: np.random.Generator, prompts: int, images: int = 2, rate: float = 0.8) -> dict[str, list[stats.Picture]]:
    """Texts of 5 to 60 words, of which each prompt has its own share read; long texts are read worse."""
    of = rng.integers(5, 61, size=prompts)
    own = rng.beta(8 * rate, 8 * (1 - rate), size=prompts) * (1 - of / 300)
    read = rng.binomial(of[:, None], own[:, None], size=(prompts, images))
    return {str(i): [(float(r), float(n)) for r in row] for i, (n, row) in enumerate(zip(of, read, strict=True))}


SIZES = {"a": 50, "b": 30, "c": 20}
CHANCES = {"a": 0.3, "b": 0.6, "c": 0.8}
WISE = {"culture": 0.4, "time": 0.12, "space": 0.12, "biology": 0.12, "physics": 0.12, "chemistry": 0.12}


def test_weights() -> None:
    """Group means 1, 0.5 and 0 over 1, 2 and 5 prompts."""
    one, half, none = [(1.0, 1.0)], [(1.0, 1.0), (0.0, 1.0)], [(0.0, 1.0)]
    clusters = {"a": {"0": one}, "b": {"0": half, "1": half}, "c": {str(i): none for i in range(5)}}
    assert stats.estimate(clusters).value == pytest.approx(0.5)
    assert stats.estimate(clusters, "prompts").value == pytest.approx((1 + 0.5 + 0.5) / 8)
    assert stats.estimate(clusters, {"a": 0.1, "b": 0.7, "c": 0.2}).value == pytest.approx(0.1 + 0.35)


@pytest.mark.parametrize("weights", ["equal", "prompts", WISE])
def test_shares_sum_to_one(weights: stats.Weights) -> None:
    shares = stats.shares({"culture": 400, **dict.fromkeys(list(WISE)[1:], 120)}, weights)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["culture"] == pytest.approx(1 / 6 if weights == "equal" else 0.4)


def test_groups_that_are_left_out_leave_their_share_to_the_others() -> None:
    assert stats.shares({"culture": 1, "time": 1}, WISE) == pytest.approx({"culture": 0.4 / 0.52, "time": 0.12 / 0.52})


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"a": 0.5, "b": 0.5}, "weights: none for c; give one for each group"),
        ({"a": 0.5, "b": 0.5, "c": 0.5}, "weights: a 0.5, b 0.5, c 0.5; give none below 0, and 1 in sum"),
        ({"a": 1.5, "b": -0.5, "c": 0}, "weights: a 1.5, b -0.5, c 0; give none below 0, and 1 in sum"),
        ("evenly", "weights: 'evenly' given; they are equal, prompts, or one for each group"),
    ],
)
def test_bad_weights(weights: stats.Weights, says: str) -> None:
    with pytest.raises(UserError) as error:
        stats.shares(SIZES, weights)
    assert str(error.value) == says


def test_any_takes_the_best_picture_of_a_prompt() -> None:
    prompts = {"a": {"0": [(0.0, 1.0), (1.0, 1.0)], "1": [(0.0, 1.0), (0.0, 1.0)]}}
    assert stats.estimate(prompts, within="any").value == 0.5
    assert stats.estimate(prompts, within="any", better="lower").value == 0.0
    assert stats.estimate(prompts).value == 0.25


def test_ratio_of_sums() -> None:
    clusters = {"a": {"0": [(1.0, 2.0), (2.0, 2.0)], "1": [(3.0, 10.0)]}, "b": {"0": [(4.0, 4.0)]}}
    assert stats.estimate(clusters, within="ratio").value == pytest.approx((6 / 14 + 1) / 2)
    assert stats.estimate(clusters, "prompts", "ratio").value == pytest.approx(10 / 18)


def test_ratio_with_equal_denominators_is_the_mean() -> None:
    rng = np.random.default_rng(7)
    clusters = groups_of(rng, SIZES, 2, CHANCES)
    tens = {g: {p: [(10 * v, 10.0) for v, _ in pictures] for p, pictures in prompts.items()} for g, prompts in clusters.items()}
    for weights in ("equal", "prompts"):
        ratio, mean = stats.estimate(tens, weights, "ratio"), stats.estimate(clusters, weights)
        assert (ratio.value, ratio.low, ratio.high, ratio.stderr) == pytest.approx(
            (mean.value, mean.low, mean.high, mean.stderr), rel=1e-12
        )


@pytest.mark.parametrize("within", ["mean", "any", "ratio"])
@pytest.mark.parametrize("weights", ["equal", "prompts", {"a": 0.6, "b": 0.3, "c": 0.1}])
def test_closed_form_of_every_aggregate(weights: stats.Weights, within: str) -> None:
    rng = np.random.default_rng(8)
    sizes = {"a": 150, "b": 100, "c": 80}
    clusters = {g: read_texts(rng, n) for g, n in sizes.items()} if within == "ratio" else groups_of(rng, sizes, 3, CHANCES)
    estimate = stats.estimate(clusters, weights, within)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(stats.Z * estimate.stderr, rel=0.06)


def test_closed_form_by_hand() -> None:
    """Two prompts, 1 of 1 and 1 of 3: R = 1/2, z = (1 - 1/2) / 4 and (1 - 3/2) / 4, so the standard error is sqrt(2 * 2 / 64)."""
    estimate = stats.estimate({"a": {"0": [(1.0, 1.0)], "1": [(1.0, 3.0)]}}, within="ratio")
    assert estimate.stderr == pytest.approx(math.sqrt(2 * 2 * (1 / 8) ** 2))


@pytest.mark.parametrize("within", ["mean", "ratio"])
def test_coverage_of_weighted_aggregates(within: str) -> None:
    """600 experiments of three groups of unlike sizes: the truth lies inside in 93 to 97% of them."""
    rng = np.random.default_rng(9)
    sizes, weights = {"a": 60, "b": 40, "c": 30}, {"a": 0.5, "b": 0.2, "c": 0.3}
    of = np.arange(5, 61)
    truths = {g: p * (of * (1 - of / 300)).sum() / of.sum() if within == "ratio" else p for g, p in CHANCES.items()}
    truth = sum(weights[g] * truths[g] for g in sizes)

    def experiment() -> stats.Clusters:
        if within == "ratio":
            return {g: read_texts(rng, n, rate=CHANCES[g]) for g, n in sizes.items()}
        return groups_of(rng, sizes, 2, CHANCES)

    found = [stats.estimate(experiment(), weights, within, resamples=1000) for _ in range(600)]
    assert 0.93 <= np.mean([e.low <= truth <= e.high for e in found]) <= 0.97


@pytest.mark.parametrize("within", ["mean", "any", "ratio"])
def test_p_of_equal_runs_is_below_5_percent_in_5_percent(within: str) -> None:
    rng = np.random.default_rng(10)
    found = []
    for _ in range(600):
        if within == "ratio":
            of, own = rng.integers(5, 61, size=80), rng.beta(4, 1, size=80)
            sides = [
                {"a": {str(i): [(float(rng.binomial(n, p)), float(n))] for i, (n, p) in enumerate(zip(of, own, strict=True))}} for _ in "ab"
            ]
        else:
            own = rng.beta(1.2, 0.8, size=(80, 1))
            draws = [(rng.random((80, 2)) < own).astype(float) for _ in "ab"]
            sides = [{"a": {str(i): [(v, 1.0) for v in row] for i, row in enumerate(side)}} for side in draws]
        found.append(stats.paired_estimate(*sides, within=within, resamples=1000))
    assert 0.03 <= np.mean([e.p < 0.05 for e in found]) <= 0.075
    agree = [(e.p < 0.05) == (not e.low <= 0 <= e.high) for e in found]  # but where an end of the interval touches 0
    assert np.mean(agree) > 0.98


def test_p_is_never_zero_and_never_surer_than_the_prompts() -> None:
    right, wrong = [(1.0, 1.0)], [(0.0, 1.0)]

    def p(prompts: int, same: int = 0) -> float:
        first = {str(i): right for i in range(prompts + same)}
        return stats.paired_estimate({"a": first}, {"a": {i: wrong if int(i) < prompts else right for i in first}}).p

    assert p(50) == pytest.approx(2 / (1 + stats.RESAMPLES))
    assert p(1) == 1.0
    assert p(4) == p(4, same=30) == 2**-3
    assert p(0, same=10) == 1.0


def test_p_is_that_of_both_sides() -> None:
    rng = np.random.default_rng(11)
    first, second = (groups_of(rng, {"a": 40}, 1, {"a": p}) for p in (0.7, 0.4))
    there, back = stats.paired_estimate(first, second), stats.paired_estimate(second, first)
    assert there.value == -back.value
    assert there.p == back.p < 0.05


def test_paired_over_the_prompts_that_both_have_scored() -> None:
    first = {"a": {"0": [(1.0, 1.0)], "1": [(1.0, 1.0)], "2": [None], "3": [(0.0, 1.0)]}}
    second = {"a": {"3": [(0.0, 1.0)], "0": [(0.0, 1.0)], "2": [(1.0, 1.0)], "9": [(1.0, 1.0)]}}
    estimate = stats.paired_estimate(first, second)
    assert (estimate.value, estimate.prompts, estimate.n) == (0.5, 2, 2)


def test_paired_ratios_with_unlike_denominators() -> None:
    """Readings of the same prompts out of unlike numbers: the difference of the two ratios, not the ratio of differences."""
    first = {"a": {"0": [(2.0, 4.0)], "1": [(3.0, 4.0)], "2": [(1.0, 2.0)]}}
    second = {"a": {"0": [(1.0, 5.0)], "1": [(2.0, 5.0)], "2": [(1.0, 2.0)]}}
    assert stats.paired_estimate(first, second, within="ratio").value == pytest.approx(6 / 10 - 4 / 12)


def test_no_shared_prompt() -> None:
    with pytest.raises(UserError) as error:
        stats.paired_estimate({"a": {"0": [(1.0, 1.0)]}, "b": {"0": [(1.0, 1.0)]}}, {"a": {"0": [(1.0, 1.0)]}, "b": {"1": [(1.0, 1.0)]}})
    assert str(error.value) == "b: no prompt of it is scored on both sides; compare results on the same prompts"


def test_a_group_without_a_scored_picture_has_no_number() -> None:
    with pytest.raises(UserError) as error:
        stats.estimate({"a": {"0": [(1.0, 1.0)]}, "b": {"0": [None, None]}})
    assert str(error.value) == "b: none of its pictures is scored, so there is no overall number; score them first"


@pytest.mark.parametrize("within", ["mean", "any", "ratio"])
def test_one_prompt(within: str) -> None:
    estimate = stats.estimate({"a": {"0": [(1.0, 2.0), (2.0, 2.0)]}}, within=within)
    assert estimate.value == (1.0 if within == "any" else 0.75)
    assert estimate.stderr is None
    assert (estimate.low, estimate.high) == pytest.approx(stats.wilson(estimate.value, 1))


def test_one_group_is_the_same_under_all_weights() -> None:
    clusters = groups_of(np.random.default_rng(12), {"a": 40}, 2, {"a": 0.4})
    for weights in ("prompts", {"a": 1.0}):
        assert dataclasses.astuple(stats.estimate(clusters, weights)) == pytest.approx(dataclasses.astuple(stats.estimate(clusters)))


def test_wilson_stands_in_on_the_scale_and_with_the_weights() -> None:
    """10 prompts of weight 1/2 and 40 of 1/2 are worth 1 / (0.25 / 10 + 0.25 / 40) = 32; every one has 5 of 10."""
    clusters = {"a": {str(i): [(5.0, 1.0)] for i in range(10)}, "b": {str(i): [(5.0, 1.0)] for i in range(40)}}
    estimate = stats.estimate(clusters, low=0.0, high=10.0)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(10 * end for end in stats.wilson(0.5, 32)))
    unbounded = stats.estimate(clusters, low=0.0, high=None)
    assert unbounded.low == unbounded.high == 5.0


def test_all_words_of_all_texts() -> None:
    """Ratios that are all the same differ by rounding between draws, which is no spread."""
    clusters = {"a": {str(i): [(n / 3, float(n))] for i, n in enumerate(range(5, 60))}}
    estimate = stats.estimate(clusters, within="ratio")
    assert estimate.low < 0.3 and estimate.high > 0.37


def test_bounds_hold_whatever_the_unscored_pictures_score() -> None:
    rng = np.random.default_rng(13)
    whole = groups_of(rng, SIZES, 2, CHANCES)
    for within, weights in (("mean", "equal"), ("any", "prompts"), ("mean", {"a": 0.2, "b": 0.2, "c": 0.6})):
        holes = {g: {p: [None if rng.random() < 0.2 else v for v in row] for p, row in prompts.items()} for g, prompts in whole.items()}
        least, most = stats.bounds(holes, weights, within)
        assert least < stats.estimate(whole, weights, within, resamples=1).value < most
    assert stats.bounds(whole) == (stats.estimate(whole).value,) * 2


def test_bounds_by_hand() -> None:
    clusters = {"a": {"0": [(1.0, 1.0), None], "1": [None, None]}}
    assert stats.bounds(clusters) == (0.25, 1.0)
    assert stats.bounds(clusters, within="any") == (0.5, 1.0)
    assert stats.bounds(clusters, within="any", better="lower") == (0.0, 1.0)
    assert stats.bounds(clusters, low=0.0, high=None) == (0.25, None)
    read = {"a": {"0": [(6.0, 8.0), None], "1": [None]}}  # 8 words each, as far as is known
    assert stats.bounds(read, within="ratio") == (6 / 24, 22 / 24)


def test_holm() -> None:
    """By hand: 4 x 0.005, 3 x 0.01, then 2 x 0.03 and 1 x 0.04, which may not fall below it."""
    adjusted = stats.holm({"b": 0.04, "a": 0.01, "d": 0.005, "c": 0.03})
    assert adjusted == pytest.approx({"b": 0.06, "a": 0.03, "d": 0.02, "c": 0.06})
    assert list(adjusted) == ["b", "a", "d", "c"]
    assert stats.holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    assert stats.holm({}) == {}


def test_holm_holds_the_family() -> None:
    """Of families of 5 true nulls, about 5% have any p below 5% after it."""
    p_values = np.random.default_rng(14).random((4000, 5))
    found = [min(stats.holm(dict(enumerate(row))).values()) < 0.05 for row in p_values]
    assert 0.04 <= np.mean(found) <= 0.06


GENEVAL = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}


def test_expected_half_widths() -> None:
    """GenEval at 0.83: 1.6 points if a prompt's four pictures are independent, 3.1 if they are all alike. WISE_Verified at 0.6: 3.0."""
    spread = math.sqrt(0.83 * 0.17)
    apart, alike = (stats.expected(GENEVAL, 4, spread=spread, alike=alike).half_width for alike in (0.0, 1.0))
    assert (round(100 * apart, 1), round(100 * alike, 1)) == (1.6, 3.1)
    wise = stats.expected({"culture": 400, **dict.fromkeys(list(WISE)[1:], 120)}, 1, WISE, spread=math.sqrt(0.6 * 0.4))
    assert round(100 * wise.half_width, 1) == 3.0


def test_expected_half_width_is_that_of_an_estimate() -> None:
    """A beta-binomial with a + b = 2 has correlation 1 / (a + b + 1) = 1/3 between the pictures of a prompt."""
    rng = np.random.default_rng(15)
    sizes, weights = {"a": 400, "b": 200}, {"a": 0.7, "b": 0.3}
    estimate = stats.estimate(groups_of(rng, sizes, 4, {"a": 0.5, "b": 0.5}), weights)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(stats.expected(sizes, 4, weights, alike=1 / 3).half_width, rel=0.07)


def test_detectable_difference_is_found_in_80_percent() -> None:
    """Two runs on 200 prompts whose prompts share their own chances: correlation 1/3 of their single pictures."""
    rng = np.random.default_rng(16)
    gap, found = stats.expected({"a": 200}, 1, shared=1 / 3).detectable, 0
    for _ in range(400):
        own = rng.beta(1, 1, size=200)
        first, second = (rng.random(200) < own).astype(float), (rng.random(200) < own).astype(float)
        sides = [{"a": {str(i): [(v, 1.0)] for i, v in enumerate(side)}} for side in (first + gap, second)]
        found += stats.paired_estimate(*sides, resamples=1000).p < 0.05
    assert 0.74 <= found / 400 <= 0.86


def test_many_prompts_are_drawn_in_parts_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters = groups_of(np.random.default_rng(17), {"a": 33, "b": 7}, 2, CHANCES)
    whole = stats.estimate(clusters, resamples=501)
    monkeypatch.setattr(sums, "CELLS", 100)
    assert stats.estimate(clusters, resamples=501) == whole
