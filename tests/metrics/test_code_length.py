import numpy as np
import pytest

from raycal.metrics.code_length import code_length, joint_code_length


def chain(n, stay, k, seed):
    """A Markov chain that stays with this probability and else jumps to any code."""
    rng = np.random.default_rng(seed)
    moves, x = rng.random(n) >= stay, rng.integers(k, size=n)
    return x[np.maximum.accumulate(np.where(moves | (np.arange(n) == 0), np.arange(n), 0))]


def entropy(p):
    return float(-(p * np.log2(p)).sum())


@pytest.mark.parametrize("k", [2, 37, 512])
def test_uniform_codes_cost_log2_k(k):
    rng = np.random.default_rng(0)
    train, other = rng.integers(k, size=(20_000, 2)), rng.integers(k, size=(20_000, 2))
    found = code_length([train], [other], [k, k])
    assert found.independent.shape == (20_000, 2)
    assert found.independent.mean() == pytest.approx(np.log2(k), rel=0.01)
    assert found.conditional.mean() == pytest.approx(np.log2(k), rel=0.01)


def test_a_markov_chain_costs_its_entropy_rate_given_the_step_before():
    k, stay = 16, 0.9
    row = np.full(k, (1 - stay) / k)
    row[0] += stay
    found = code_length([chain(40_000, stay, k, 1)[:, None]], [chain(40_000, stay, k, 2)[:, None]], [k])
    assert found.independent.mean() == pytest.approx(np.log2(k), rel=0.01)
    assert found.conditional.mean() == pytest.approx(entropy(row), rel=0.04)  # 4000 jumps, +-1.6 %


def test_known_unequal_counts_cost_their_entropy():
    p = np.array([0.5, 0.25, 0.125, 0.125])
    train, other = (np.random.default_rng(s).choice(4, size=(30_000, 1), p=p) for s in (3, 4))
    assert code_length([train], [other], [4]).independent.mean() == pytest.approx(1.75, rel=0.01)


def test_codes_that_train_never_used_cost_finite_bits():
    train = np.zeros((500, 1), int)
    found = code_length([train], [np.array([[0], [7], [7], [0]])], [8])
    assert np.isfinite(found.independent).all() and np.isfinite(found.conditional).all()
    assert found.independent[1, 0] > 8 and found.independent[0, 0] < 0.1
    assert np.isfinite(code_length([train[:0]], [np.array([[3]])], [8]).independent).all()


def test_lengths_are_those_of_a_code():
    rng = np.random.default_rng(5)
    train = chain(300, 0.6, 12, 6)[:, None]
    every = np.arange(12)[:, None]
    assert (2.0 ** -code_length([train], [every], [12]).independent).sum() == pytest.approx(1.0)
    for before in rng.integers(12, size=4):
        runs = [np.array([[before], [k]]) for k in range(12)]
        assert (2.0 ** -code_length([train], runs, [12]).conditional[1::2]).sum() == pytest.approx(1.0)


def test_a_run_begins_without_a_past_and_codebooks_are_apart():
    train = np.tile([0, 1], 2000)[:, None]  # the step before says everything
    found = code_length([train], [train[:10], train[:10]], [2])
    first = np.array([0, 10])
    np.testing.assert_allclose(found.conditional[first], found.independent[first])
    assert np.delete(found.conditional, first, 0).max() < 0.01 and found.independent.min() > 0.9
    wide = np.concatenate([train, np.random.default_rng(7).integers(5, size=(4000, 1))], axis=1)
    np.testing.assert_array_equal(code_length([wide], [wide], [2, 5]).conditional[:, 0],
                                  code_length([train], [train], [2]).conditional[:, 0])


def test_a_past_that_says_nothing_costs_next_to_nothing():
    k = 256
    train, other = (np.random.default_rng(s).integers(k, size=(600, 1)) for s in (8, 9))
    found = code_length([train], [other], [k])
    assert found.conditional.mean() < found.independent.mean() + 0.05 < 8.2


def test_indices_outside_their_codebook_are_refused():
    good = np.zeros((5, 2), int)
    for wrong in (good + [0, 4], good - 1, good[:, :1]):
        with pytest.raises(ValueError, match="indices below"):
            code_length([good], [wrong], [4, 4])


def test_levels_of_one_step_are_paid_once():
    """The second codebook copies the first three times in four, the third is free."""
    def draw(seed, n=30_000):
        rng = np.random.default_rng(seed)
        first = rng.integers(4, size=n)
        noise = rng.random(n) < 0.25
        return np.stack([first, np.where(noise, rng.integers(4, size=n), first) + 4, rng.integers(2, size=n)], axis=1)

    sizes, p = [4, 8, 2], np.array([13, 1, 1, 1]) / 16
    found = joint_code_length([draw(1)], [draw(2)], sizes)
    np.testing.assert_allclose(found.mean(0), [2, entropy(p), 1], rtol=0.02)
    alone = code_length([draw(1)], [draw(2)], sizes).independent
    np.testing.assert_array_equal(found[:, 0], alone[:, 0])
    np.testing.assert_allclose(alone.mean(0), [2, 2, 1], rtol=0.02)


def test_joint_lengths_are_those_of_a_code():
    train = np.stack([chain(400, 0.5, 5, 3), chain(400, 0.5, 7, 4)], axis=1)
    every = np.stack(np.meshgrid(np.arange(5), np.arange(7), indexing="ij"), axis=-1).reshape(-1, 2)
    assert (2.0 ** -joint_code_length([train], [every], [5, 7]).sum(1)).sum() == pytest.approx(1.0)


def test_a_small_codebook_may_follow_a_large_one():
    train = np.random.default_rng(0).integers(0, [300, 2], size=(900, 2))
    assert np.isfinite(joint_code_length([train], [np.array([[299, 1], [0, 0]])], [300, 2])).all()
    with pytest.raises(ValueError, match="indices below"):
        joint_code_length([train], [train], [300, 1])
