"""Vector quantization by k-means: one codebook, residual levels, and groups of axes with levels of their own.

What a VQ-VAE's quantizers do (single, residual, grouped residual), with k-means in place of a network.

Shapes: b vectors of D numbers, C codebooks, group by group and within a group level by level.
"""
from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from raycal.metrics.blocks import evenly

MAX_CODES = 512  # of one codebook that stands alone
RESIDUAL_BITS = 7  # of a codebook among several: 128 codes
MAX_LEVELS = 32  # at rates beyond, k-means is no rival
FIT_VECTORS = 8192  # train vectors, evenly spaced, that a codebook is fitted on: 16 for each of 512 codes
ITERATIONS = 30


class Shape(NamedTuple):
    """How many codebooks, and of what size."""

    groups: int
    levels: int  # a group
    codes: int  # a codebook

    @classmethod
    def of(cls, bits: float, groups: int = 1) -> Shape:
        """Return the shape with the fewest levels of at most RESIDUAL_BITS each that spends at most `bits` a vector."""
        levels = min(max(1, math.ceil(bits / groups / RESIDUAL_BITS - 1e-9)), MAX_LEVELS)
        return cls(groups, levels, int(2.0 ** min(bits / groups / levels, RESIDUAL_BITS) + 1e-6))


class ProductCode(NamedTuple):
    """Fitted codebooks; all of them come from train vectors."""

    axes: Any  # scikit-learn's PCA of the vectors; group g holds axes g, g + groups, ...: each a share of each size
    codebooks: tuple[tuple[np.ndarray, ...], ...]  # group -> level -> (K, axes of the group)

    @property
    def sizes(self) -> tuple[int, ...]:
        """(C,) codes of each codebook; fewer than asked for where train has fewer vectors."""
        return tuple(len(c) for levels in self.codebooks for c in levels)

    @property
    def nominal_bits(self) -> float:
        """Bits a vector, every code costing the same."""
        return float(np.log2(self.sizes).sum())

    def encode(self, x_bd: np.ndarray) -> np.ndarray:
        """Return indices (b, C): level by level the code nearest to what the levels before left."""
        latents = self.axes.transform(x_bd)
        columns = []
        for group, levels in enumerate(self.codebooks):
            rest = latents[:, group::len(self.codebooks)]
            for codes in levels:
                columns.append(_nearest(rest, codes))
                rest = rest - codes[columns[-1]]
        return np.stack(columns, axis=1)

    def decode(self, indices_bc: np.ndarray) -> np.ndarray:
        """Return (b, D) from the indices alone."""
        latents = np.zeros((len(indices_bc), self.axes.n_components_), np.float32)
        columns = iter(indices_bc.T)
        for group, levels in enumerate(self.codebooks):
            latents[:, group::len(self.codebooks)] = sum(codes[next(columns)] for codes in levels)
        return self.axes.inverse_transform(latents)


def fit(x_bd: np.ndarray, shape: Shape) -> ProductCode:
    """Fit codebooks to at most FIT_VECTORS of the train vectors x (b, D), the residual levels one after the other."""
    from sklearn.decomposition import PCA

    x_bd = x_bd[evenly(len(x_bd), FIT_VECTORS)]
    groups = min(shape.groups, *x_bd.shape)
    axes = PCA(random_state=0).fit(x_bd)
    latents = axes.transform(x_bd)
    codebooks = []
    for group in range(groups):
        rest, levels = latents[:, group::groups], []
        for _ in range(shape.levels):
            levels.append(_kmeans(rest, shape.codes))
            rest = rest - levels[-1][_nearest(rest, levels[-1])]
        codebooks.append(tuple(levels))
    return ProductCode(axes, tuple(codebooks))


def _kmeans(x_bd: np.ndarray, codes: int) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than codes: some codes coincide
        found = KMeans(min(codes, len(x_bd)), init="random", n_init=1, max_iter=ITERATIONS, random_state=0).fit(x_bd)
    return found.cluster_centers_


def _nearest(x_bd: np.ndarray, codes_kd: np.ndarray) -> np.ndarray:
    """Return (b,) the index of the nearest code."""
    from sklearn.metrics import pairwise_distances_argmin

    return pairwise_distances_argmin(x_bd, codes_kd)
