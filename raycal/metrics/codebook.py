"""How much of a codebook is used, from integer counts over a whole split.

Never the mean of batch perplexities: entropy is concave, so batch means read low and are capped by the tokens
of a batch (K = 512 read as 240 while every code was used, github.com/bshall/VectorQuantizedVAE/issues/3).
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def count(indices: np.ndarray, size: int) -> np.ndarray:
    """Return (size,) int64: how often each code occurs; add over batches and ranks, then measure."""
    return np.bincount(np.asarray(indices).reshape(-1), minlength=size).astype(np.int64)


def usage(counts: np.ndarray, robust: bool = False) -> float:
    """Return the share of codes that occur at all; robust: more than a tenth as often as if all were equal."""
    counts = _checked(counts)
    return float(np.mean(counts * 10 * len(counts) > counts.sum() if robust else counts > 0))


def entropy_bits(counts: np.ndarray) -> float:
    """Return -sum p log2 p in bits a token; NaN without tokens."""
    counts = _checked(counts)
    if not counts.any():
        return float("nan")
    p = counts[counts > 0] / counts.sum()
    return max(0.0, float(-(p * np.log2(p)).sum()))


def joint_entropy_bits(indices: np.ndarray) -> np.ndarray:
    """Return (C,): the entropy of the first codebook's index, of the first two together, ... of all, bits a position.

    indices (S, C). It reads at most log2 S, so a short split says more of itself than of the model. What codebooks
    share is the sum of their entropies less the last of these.
    """
    found, joint = [], np.zeros(len(indices), np.int64)
    for column in np.asarray(indices).T:
        _, joint = np.unique(np.stack((joint, column)), axis=1, return_inverse=True)
        joint = joint.reshape(-1)  # numpy 2.0 alone returns it as (1, S)
        found.append(entropy_bits(np.bincount(joint)) if len(joint) else float("nan"))
    return np.array(found)


def perplexity(counts: np.ndarray) -> float:
    """Return 2 ** entropy, from 1 (one code) to K (all equally often)."""
    return float(2.0 ** entropy_bits(counts))


def normalised_perplexity(counts: np.ndarray) -> float:
    """Return perplexity / K."""
    return perplexity(counts) / len(counts)


def summary(counts: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the figures of several codebooks: means over codebooks, bits summed.

    "usage" cannot pass "usage_cap", min(1, tokens / K): on a short split it says more of the split than of the
    model. "bits" is what one position costs: the sum of the codebooks' entropies, never a K ** levels histogram.
    """
    def mean(values: list[float]) -> float:
        return float(np.mean(values))

    return {
        "usage": mean([usage(c) for c in counts]),
        "usage_robust": mean([usage(c, robust=True) for c in counts]),
        "usage_cap": mean([min(1.0, float(np.sum(c)) / len(c)) for c in counts]),
        "perplexity": mean([perplexity(c) for c in counts]),
        "normalised_perplexity": mean([normalised_perplexity(c) for c in counts]),
        "bits": float(sum(entropy_bits(c) for c in counts)),
        "tokens": mean([float(np.sum(c)) for c in counts]),
    }


def _checked(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts)
    if counts.ndim != 1 or not len(counts) or not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0:
        raise ValueError("counts must be whole numbers, one a code, over the whole split (a moving average of training "
                         f"is none); got {counts.dtype} of shape {counts.shape}")
    return counts.astype(np.int64)
