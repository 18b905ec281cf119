import warnings

import numpy as np
import pytest

from raycal.metrics.embedding import embed


def clusters(n=40, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.zeros((3, dim))
    centres[[0, 1, 2], [0, 1, 2]] = 20.0
    return (centres[:, None] + rng.normal(size=(3, n, dim))).reshape(-1, dim).astype(np.float32)


def test_three_clusters_stay_apart_in_both_planes():
    x = clusters()
    found = embed(x, x[:5])
    assert found.pca.shape == found.tsne.shape == (120, 2) and found.explained.sum() > 0.9
    np.testing.assert_allclose(found.others, found.pca[:5], atol=1e-3)  # the same axes
    for plane in (found.pca, found.tsne):
        groups = plane.reshape(3, 40, 2)
        means = groups.mean(1)
        spread = np.linalg.norm(groups - means[:, None], axis=2).max()
        apart = min(np.linalg.norm(means[i] - means[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
        assert apart > 1.5 * spread


def test_the_same_vectors_give_the_same_picture():
    x = clusters(n=15)
    np.testing.assert_array_equal(embed(x, x).tsne, embed(x, x).tsne)


@pytest.mark.parametrize("x", [np.ones((50, 3)), np.ones((1, 4)), np.arange(30.0)[:, None], np.eye(4)],
                         ids=["all_alike", "one", "one_axis", "four"])
def test_what_spans_no_plane_is_still_drawn(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = embed(x.astype(np.float32), x[:1])
    assert all(np.isfinite(part).all() for part in found) and found.pca.shape == found.tsne.shape == (len(x), 2)
