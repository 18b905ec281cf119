"""Many-dimensional vectors in the plane: principal axes, and t-SNE for what lies near each other.

t-SNE shows neighbourhoods; distances between clusters, and their sizes, mean nothing there.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_AXES = 50  # principal axes that t-SNE sees (van der Maaten and Hinton 2008)
PERPLEXITY = 30.0


class Plane(NamedTuple):
    """Vectors (n, D) in the plane."""

    pca: np.ndarray  # (n, 2), 0 on axes that D or n does not give
    explained: np.ndarray  # (2,) share of the variance on each
    others: np.ndarray  # (m, 2), other vectors on the same axes
    tsne: np.ndarray  # (n, 2)


def embed(vectors_nd: np.ndarray, others_md: np.ndarray, seed: int = 0) -> Plane:
    """Return vectors (n >= 1, D) in the plane; others (m, D) are projected on their principal axes."""
    from sklearn.decomposition import PCA

    centred = vectors_nd - vectors_nd.mean(0)
    fitted = PCA(min(MAX_AXES, *centred.shape), random_state=seed)
    with np.errstate(invalid="ignore", divide="ignore"):  # all vectors alike: no variance to share out
        axes = fitted.fit_transform(centred)
        explained = np.nan_to_num(fitted.explained_variance_ratio_)
    others = fitted.transform(others_md - vectors_nd.mean(0)) if len(others_md) else np.empty((0, 2))
    return Plane(_two(axes), _two(explained[None])[0], _two(others), _tsne(axes, seed))


def _tsne(axes: np.ndarray, seed: int) -> np.ndarray:
    """Return (n, 2); where there are no neighbourhoods to keep, the leading axes themselves."""
    from sklearn.manifold import TSNE

    if len(axes) < 5 or axes[:, 0].std() < 1e-9 * max(1.0, np.abs(axes).max()):
        return _two(axes)
    init = _two(axes) / axes[:, 0].std() * 1e-4  # as sklearn's "pca", which D = 1 has too few axes for
    return TSNE(perplexity=min(PERPLEXITY, (len(axes) - 1) / 3), init=init.astype(np.float32),
                random_state=seed).fit_transform(axes)


def _two(x: np.ndarray) -> np.ndarray:
    return np.pad(x[:, :2], ((0, 0), (0, max(0, 2 - x.shape[1]))))
