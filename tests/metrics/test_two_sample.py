import numpy as np
import pytest

from raycal.metrics.generators import Gaussian
from raycal.metrics.two_sample import auc, c2st, features


@pytest.fixture(scope="module")
def real(draw):
    return draw(300, 1)


def test_the_same_process_is_not_told_apart(real, draw):
    values = [c2st(draw(300, seed), real) for seed in range(2, 10)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.05) and max(values) < 0.65


@pytest.mark.parametrize(("name", "spoilt"), [
    ("noise", lambda x, rng: rng.standard_normal(x.shape)),
    ("neurons", lambda x, rng: x[:, rng.permutation(x.shape[1])]),
    ("variance", lambda x, rng: 1.5 * x),
    ("frames", lambda x, rng: np.stack([w[:, rng.permutation(x.shape[2])] for w in x])),
    ("each neuron's windows", lambda x, rng: np.stack([x[rng.permutation(len(x)), n] for n in range(x.shape[1])], 1))])
def test_what_is_wrong_is_told_apart(name, spoilt, real, draw):
    assert c2st(spoilt(draw(300, 2), np.random.default_rng(0)), real) > 0.9


def test_a_gaussian_of_the_same_covariance_is_told_by_its_higher_moments(real, draw):
    assert c2st(Gaussian.fit(draw(300, 0)).sample(300), real) > 0.7


def test_overlapping_neighbours_are_kept_out_of_the_fold_by_the_gap(recording, cut):
    """Windows at every second frame of one short recording: without a gap each fold has seen most of its frames."""
    real, other = cut(recording(400, 1), 24, 2), cut(recording(400, 2), 24, 2)
    assert c2st(other, real, gap=12) <= c2st(other, real, gap=0) + 0.02


def test_auc_is_the_share_of_pairs_with_ties_half():
    assert auc(np.array([1.0, 2.0, 2.0]), np.array([2.0, 0.0])) == pytest.approx((0 + 1 + 0.5 + 1 + 0.5 + 1) / 6)
    assert auc(np.ones(3), np.ones(4)) == 0.5


def test_features_are_finite_for_windows_that_do_not_change():
    assert np.isfinite(features(np.ones((8, 3, 6)))).all()


def test_too_few_windows_are_refused(real):
    with pytest.raises(ValueError, match="4 generated and 300 real windows do not make 5 folds"):
        c2st(real[:4], real)
