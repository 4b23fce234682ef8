"""The Fréchet distance against closed forms and scipy's matrix root; moments that join and part; the jackknife against repetition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import scipy.linalg

from metabridge.bridge.errors import UserError
from metabridge.eval.fid import BLOCKS, Gaussian, Moments, distance, estimate


def sample(seed: int, n: int, d: int, shift: float = 0.0) -> np.ndarray:
    """[n, d] float32, correlated."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(d, d)) * np.geomspace(1, 1e-2, d)
    return np.asarray(rng.normal(size=(n, d)) @ mixing + shift, np.float32)


def of(features: np.ndarray) -> Gaussian:
    return Moments.of(features).gaussian


def cut(features: np.ndarray, blocks: int) -> list[Callable[[], np.ndarray]]:
    return [partial(np.asarray, part) for part in np.array_split(features, blocks)]


def by_matrix_root(a: Gaussian, b: Gaussian) -> float:
    """As it is written."""
    root = np.asarray(scipy.linalg.sqrtm(a.covariance @ b.covariance))
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root.real))


def by_features(a: np.ndarray, b: np.ndarray) -> float:
    """With no covariance at all: tr (S1 S2)^(1/2) is the nuclear norm of the product of the centred features."""
    (a, b), (m, n) = (np.asarray(a, np.float64), np.asarray(b, np.float64)), (len(a) - 1, len(b) - 1)
    x, y = a - a.mean(0), b - b.mean(0)
    shared = scipy.linalg.svdvals(x @ y.T).sum() / np.sqrt(m * n)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() / m + (y**2).sum() / n - 2 * shared)


@pytest.mark.parametrize("seed", range(5))
def test_scipys_matrix_root(seed: int) -> None:
    a, b = of(sample(seed, 300, 24)), of(sample(seed + 10, 200, 24, 0.3))
    assert distance(a, b) == pytest.approx(by_matrix_root(a, b), rel=1e-8)
    assert distance(b, a) == pytest.approx(distance(a, b), rel=1e-8)


@pytest.mark.parametrize(("n", "m", "d"), [(12, 9, 40), (5, 200, 30), (30, 30, 64), (2, 2, 16)])
def test_fewer_pictures_than_features(n: int, m: int, d: int) -> None:
    """Singular covariances, without a complex root and without something added to a diagonal."""
    a, b = sample(1, n, d), sample(2, m, d, 0.1)
    assert np.linalg.matrix_rank(of(a).covariance) < d
    assert distance(of(a), of(b)) == pytest.approx(by_features(a, b), rel=1e-6)


def test_one_of_no_spread() -> None:
    """Against a point: |shift|^2 and the whole variance."""
    point, cloud = Gaussian(np.zeros(3), np.zeros((3, 3))), Gaussian(np.array([1.0, 2.0, 2.0]), np.diag([1.0, 4.0, 0.0]))
    assert distance(point, cloud) == distance(cloud, point) == 9 + 5


def test_the_same_set_twice() -> None:
    for features in (sample(0, 400, 16), sample(0, 10, 48)):
        scale = np.trace(of(features).covariance)
        assert abs(distance(of(features), of(features[::-1]))) < 1e-6 * scale


def test_a_shift_alone() -> None:
    """|d|^2, whatever the covariance."""
    features, shift = sample(3, 500, 12).astype(np.float64), np.linspace(-1, 2, 12)
    assert distance(of(features), of(features + shift)) == pytest.approx((shift**2).sum(), rel=1e-9)


def test_diagonal_covariances() -> None:
    """sum (s1 - s2)^2"""
    first, second = np.array([1.0, 2.0, 0.0, 0.5]), np.array([3.0, 2.0, 1.0, 0.0])
    a, b = Gaussian(np.zeros(4), np.diag(first**2)), Gaussian(np.ones(4), np.diag(second**2))
    assert distance(a, b) == pytest.approx(4 + ((first - second) ** 2).sum(), rel=1e-12)


def test_another_network() -> None:
    with pytest.raises(UserError, match=r"^fid: features of 4 numbers, the reference is of 8; give one made by the same network$"):
        distance(of(sample(0, 20, 8)), of(sample(0, 20, 4)))


def test_streaming_is_two_passes() -> None:
    """Far from 0, where a sum of squares would lose every digit; in parts of any size, in any order."""
    features = sample(4, 331, 10).astype(np.float64) + 1e4
    whole = of(features)
    assert np.allclose(whole.covariance, np.cov(features, rowvar=False), rtol=1e-9)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        parts = np.split(features, [1, 40, 200])
        joined = sum((Moments.of(parts[place]) for place in order[1:]), start=Moments.of(parts[order[0]]))
        assert joined.n == 331
        assert np.allclose(joined.mean, whole.mean, rtol=1e-12)
        assert np.allclose(joined.gaussian.covariance, whole.covariance, rtol=1e-8, atol=1e-10)


def test_a_part_can_be_taken_away() -> None:
    features = sample(5, 200, 8).astype(np.float64) + 100
    left = Moments.of(features) - Moments.of(features[50:90])
    again = Moments.of(np.delete(features, range(50, 90), axis=0))
    assert left.n == again.n
    assert np.allclose(left.mean, again.mean) and np.allclose(left.scatter, again.scatter, rtol=1e-9, atol=1e-8)


def test_the_jackknife_is_what_it_is_called() -> None:
    features, reference = sample(6, 230, 6, 0.2), of(sample(7, 500, 6))
    found = estimate(cut(features, 7), reference)
    left = [
        distance(reference, of(np.concatenate([part for j, part in enumerate(np.array_split(features, 7)) if j != i]))) for i in range(7)
    ]
    assert found.value == pytest.approx(distance(reference, of(features)), rel=1e-9)
    stderr = np.sqrt(6 / 7 * ((np.array(left) - np.mean(left)) ** 2).sum())
    assert found.stderr == pytest.approx(stderr, rel=1e-6)
    assert found.high == pytest.approx(found.value + 2.4469118511449692 * stderr, rel=1e-6)  # Student's t with 6 degrees, 0.975
    assert found.n == 230


def test_its_interval_covers() -> None:
    """400 sets of one model: the standard error is their spread, and 95% of the intervals hold their mean, bias included."""
    rng, reference = np.random.default_rng(0), Gaussian(np.zeros(4), np.eye(4))
    values, errors, covers = [], [], []
    found = [estimate(cut(rng.normal(0.3, 1.2, (600, 4)), BLOCKS), reference) for _ in range(400)]
    mean = np.mean([one.value for one in found])
    for one in found:
        assert one.low is not None and one.high is not None and one.stderr is not None
        values.append(one.value)
        errors.append(one.stderr)
        covers.append(one.low <= mean <= one.high)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)
    assert 0.93 <= np.mean(covers) <= 0.97


def test_small_sets_are_biased_upwards() -> None:
    """Why the number of pictures is part of a variant: two samples of one distribution, at three sizes."""
    reference = Gaussian(np.zeros(16), np.eye(16))
    rng = np.random.default_rng(1)
    few, more, many = (distance(reference, of(rng.normal(size=(n, 16)))) for n in (50, 500, 5000))
    assert few > 5 * more > 25 * many > 0


@pytest.mark.parametrize("sizes", [(5,), (1, 2), (1, 1)])
def test_too_few_for_an_interval(sizes: Sequence[int]) -> None:
    features = sample(8, sum(sizes), 4)
    found = estimate([partial(np.asarray, part) for part in np.split(features, np.cumsum(sizes)[:-1])], of(sample(9, 50, 4)))
    assert found.value > 0 and found.low is found.high is found.stderr is None


def test_one_picture_has_no_covariance() -> None:
    with pytest.raises(UserError, match=r"^fid: 1 picture; a covariance needs 2 at least"):
        estimate([partial(np.asarray, sample(0, 1, 4))], of(sample(9, 50, 4)))
