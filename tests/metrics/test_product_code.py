import numpy as np
import pytest

from raycal.metrics import product_code
from raycal.metrics.product_code import Shape, fit


def clusters(n, k=8, d=6, seed=0, noise=0.01):
    rng = np.random.default_rng(seed)
    centers = 10 * np.random.default_rng(99).normal(size=(k, d))
    label = rng.integers(k, size=n)
    return (centers[label] + noise * rng.normal(size=(n, d))).astype(np.float32), label


def test_shapes_spend_the_bits_asked_for():
    assert Shape.of(56) == (1, 8, 128) and Shape.of(56, groups=4) == (4, 2, 128)  # 14 bits a frame, 4 frames
    assert Shape.of(9) == (1, 2, 22) and Shape.of(0.4) == (1, 1, 1)
    for bits in (1, 5.5, 20, 224, 5000):
        for groups in (1, 4):
            g, levels, codes = Shape.of(bits, groups)
            assert g * levels * np.log2(codes) <= bits + 1e-9 and codes <= 128 and levels <= product_code.MAX_LEVELS


def test_separable_clusters_are_found():
    x, label = clusters(2000)
    code = fit(x, Shape(1, 1, 40))  # one start, so more codes than clusters
    y, other = clusters(500, seed=1)
    indices = code.encode(y)
    assert indices.shape == (500, 1)
    assert ((y - code.decode(indices)) ** 2).mean() < 2 * 0.01**2
    for k in np.unique(indices):
        assert len(np.unique(other[indices[:, 0] == k])) == 1


def test_residual_levels_and_groups_add_up():
    x = np.random.default_rng(2).normal(size=(4000, 8)).astype(np.float32)
    y = np.random.default_rng(3).normal(size=(1000, 8)).astype(np.float32)
    error = {}
    for shape in (Shape(1, 1, 16), Shape(1, 2, 16), Shape(2, 2, 16)):
        code = fit(x, shape)
        indices = code.encode(y)
        assert indices.shape == (1000, shape.groups * shape.levels) == (1000, len(code.sizes))
        assert code.nominal_bits == pytest.approx(4 * shape.groups * shape.levels)
        error[shape] = ((y - code.decode(indices)) ** 2).mean()
    first, second, grouped = error.values()
    assert first > second > grouped > 2.0 ** (-2 * 16 / 8)  # a Gaussian at 16 bits for 8 numbers: 2 ** (-2 R)


def test_the_decoder_needs_indices_alone_and_held_out_vectors_change_no_codebook():
    x, y = (np.random.default_rng(s).normal(size=(600, 5)).astype(np.float32) for s in (4, 5))
    code, again = fit(x, Shape(2, 2, 8)), fit(x, Shape(2, 2, 8))
    first = code.decode(code.encode(y))
    code.encode(1000 * y)
    assert np.array_equal(first, again.decode(again.encode(y)))
    for a, b in zip(code.codebooks, again.codebooks):
        assert all(np.array_equal(u, v) for u, v in zip(a, b))


def test_fewer_vectors_than_codes_give_as_many_codes_as_vectors():
    x = np.repeat(np.eye(3, 4, dtype=np.float32), 4, axis=0)
    code = fit(x, Shape(1, 2, 512))
    assert code.sizes == (12, 12)
    np.testing.assert_allclose(code.decode(code.encode(x)), x, atol=1e-6)
