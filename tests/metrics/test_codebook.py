import numpy as np
import pytest

from raycal.metrics import codebook


@pytest.mark.parametrize("k", [1, 2, 7, 512])
def test_uniform_use_of_k_codes_has_perplexity_k(k):
    counts = np.zeros(1024, np.int64)
    counts[:k] = 3
    assert codebook.perplexity(counts) == pytest.approx(k)
    assert codebook.entropy_bits(counts) == pytest.approx(np.log2(k))
    assert codebook.normalised_perplexity(counts) == pytest.approx(k / 1024)
    assert codebook.usage(counts) == k / 1024


def test_known_unequal_counts():
    assert codebook.entropy_bits(np.array([2, 1, 1, 0])) == pytest.approx(1.5)
    assert codebook.perplexity(np.array([2, 1, 1, 0])) == pytest.approx(2**1.5)


def test_robust_usage_wants_a_tenth_of_an_equal_share():
    counts = np.array([1000, 1000, 53, 49])  # an equal share is 525.5
    assert codebook.usage(counts) == 1.0 and codebook.usage(counts, robust=True) == 0.75


def test_the_split_as_a_whole_counts_and_not_the_mean_of_its_batches():
    batches = np.arange(512).reshape(32, 16)  # each batch of 16 tokens shows 16 of the 512 codes
    counts = sum(codebook.count(b, 512) for b in batches)
    assert counts.dtype == np.int64 and codebook.perplexity(counts) == pytest.approx(512)
    assert np.mean([codebook.perplexity(codebook.count(b, 512)) for b in batches]) == pytest.approx(16)


def test_summary_adds_bits_and_averages_the_rest():
    figures = codebook.summary([np.array([1, 1, 0, 0]), np.array([5, 0]), np.array([1, 1])])
    assert figures["bits"] == pytest.approx(1 + 0 + 1)
    assert figures["usage"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert figures["perplexity"] == pytest.approx((2 + 1 + 2) / 3)
    assert figures["usage_cap"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert figures["tokens"] == 3


def test_no_tokens_is_nan_and_moving_averages_are_refused():
    assert np.isnan(codebook.perplexity(np.zeros(4, int))) and codebook.usage(np.zeros(4, int)) == 0
    for wrong in (np.array([0.5, 2.0]), np.array([-1, 2]), np.ones((2, 2), int), np.array([], int)):
        with pytest.raises(ValueError, match="whole numbers"):
            codebook.perplexity(wrong)


def test_joint_entropy_counts_what_codebooks_share():
    rng = np.random.default_rng(0)
    first, free = rng.permutation(np.repeat(np.arange(8), 4)), np.tile(np.arange(4), 8)
    order = np.argsort(first, kind="stable")
    indices = np.stack([first[order], first[order] % 2, free], axis=1)  # known from the first; free
    np.testing.assert_allclose(codebook.joint_entropy_bits(indices), [3, 3, 5])
    assert np.isnan(codebook.joint_entropy_bits(np.zeros((0, 2), int))).all()
