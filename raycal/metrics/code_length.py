"""What codes cost: the bits an arithmetic coder spends on held-out indices under a model counted on train indices.

Entropy measured on the held-out part itself reads low, as if its counts were known beforehand; the code length
does not. Three models: each index alone, each given the index of the same codebook one step before, and each given
the index of the codebook before it at the same step, so that what levels share is not paid twice. The last is the
joint cost of all codebooks by a chain of pairs: a histogram of all at once would have K ** C bins.

Shapes: S steps of a run (consecutive in time), C codebooks, K codes.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# where train cannot tell two apart, the first counts
ALONE = (1000.0, 10.0, 1.0, 0.5, 0.1, 0.01, 0.001)  # imagined counts of every code; the first is nearly uniform
PAIRS = (1e9, 1000.0, 100.0, 10.0, 1.0, 0.1)  # imagined counts after every code, shared out as if alone; first: alone
FOLDS = 5


class CodeLength(NamedTuple):
    """Bits of every held-out index, (S, C) with the runs joined; always finite."""

    independent: np.ndarray
    conditional: np.ndarray  # the first step of a run as if alone


def code_length(train: Sequence[np.ndarray], held_out: Sequence[np.ndarray], sizes: Sequence[int]) -> CodeLength:
    """Return the bits that held-out runs (S, C) cost under models counted on train runs (S, C).

    sizes: (C,) codes of each codebook. How much counts are smoothed is chosen for each codebook on train,
    on FOLDS contiguous shares in turn. Raise ValueError for an index outside its codebook.
    """
    train_s, before_s = _joined(train, sizes)
    held_out_s, before = _joined(held_out, sizes)
    bits = np.empty((2, *held_out_s.shape))
    for c, size in enumerate(sizes):
        model = _Model.fit(train_s[:, c], before_s[:, c], size, size)
        bits[:, :, c] = model.bits(held_out_s[:, c], before[:, c])
    return CodeLength(*bits)


def joint_code_length(train: Sequence[np.ndarray], held_out: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Return the bits (S, C) of held-out indices when each codebook's is coded after the one before it at its step.

    Column 0 costs what it costs alone; the sum over columns is the joint code length. Arguments are those of
    `code_length`. Residual levels and groups alike: where the codebook before tells nothing, train says so, and the
    index costs what it costs alone.
    """
    train_s, _ = _joined(train, sizes)
    held_out_s, _ = _joined(held_out, sizes)
    bits = np.empty(held_out_s.shape)
    for c, size in enumerate(sizes):
        led = [np.full(len(s), -1) if c == 0 else s[:, c - 1] for s in (train_s, held_out_s)]
        model = _Model.fit(train_s[:, c], led[0], size, sizes[max(c - 1, 0)])
        bits[:, c] = model.bits(held_out_s[:, c], led[1])[1]
    return bits


def _joined(runs: Sequence[np.ndarray], sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of all runs (S, C), and those one step before, -1 at the start of a run."""
    runs = [np.asarray(run, np.int64) for run in runs]
    before = [np.concatenate([np.full_like(run[:1], -1), run[:-1]]) for run in runs]
    indices = np.concatenate(runs)
    if indices.ndim != 2 or indices.shape[1] != len(sizes) or (indices < 0).any() or (indices >= sizes).any():
        raise ValueError(f"runs must be (steps, {len(sizes)}) with indices below {tuple(sizes)}; "
                         f"got shape {indices.shape}, up to {indices.max(initial=0)}")
    return indices, np.concatenate(before)


class _Counts(NamedTuple):
    """How often codes, and pairs of codes, occur."""

    alone: np.ndarray  # (K,)
    after: np.ndarray  # (K',) pairs that begin with the code that leads
    keys: np.ndarray  # sorted keys of the pairs that occur: no K x K table
    pairs: np.ndarray  # their counts

    @classmethod
    def of(cls, now: np.ndarray, before: np.ndarray, size: int, leading: int) -> _Counts:
        led = before >= 0
        keys, pairs = np.unique(before[led] * size + now[led], return_counts=True)
        return cls(np.bincount(now, minlength=size), np.bincount(before[led], minlength=leading), keys, pairs)

    def p_alone(self, now: np.ndarray, smoothing: float) -> np.ndarray:
        return (self.alone[now] + smoothing) / (self.alone.sum() + smoothing * len(self.alone))

    def p_after(self, now: np.ndarray, before: np.ndarray, p_alone: np.ndarray, strength: float) -> np.ndarray:
        key = before * len(self.alone) + now
        place = np.searchsorted(self.keys, key)
        found = np.zeros(len(now))
        there = place < len(self.keys)
        there[there] = self.keys[place[there]] == key[there]
        found[there] = self.pairs[place[there]]
        p = (found + strength * p_alone) / (self.after[before] + strength)
        return np.where(before >= 0, p, p_alone)


class _Model(NamedTuple):
    """One codebook's counts, and how they are smoothed."""

    counts: _Counts
    smoothing: float
    strength: float

    @classmethod
    def fit(cls, now: np.ndarray, before: np.ndarray, size: int, leading: int) -> _Model:
        """size: codes of the codebook; leading: those of the one that `before` counts in, -1 = none leads."""
        fold = np.arange(len(now)) * FOLDS // max(len(now), 1)
        cuts = [(_Counts.of(now[fold != f], before[fold != f], size, leading), now[fold == f], before[fold == f])
                for f in range(FOLDS)]
        alone = [[counts.p_alone(mine, smoothing) for counts, mine, _ in cuts] for smoothing in ALONE]
        best = int(np.argmin([_bits(p) for p in alone]))
        after = [[counts.p_after(mine, led, p, strength) for (counts, mine, led), p in zip(cuts, alone[best])]
                 for strength in PAIRS]
        counts, strength = _Counts.of(now, before, size, leading), PAIRS[int(np.argmin([_bits(p) for p in after]))]
        return cls(counts, ALONE[best], strength)

    def bits(self, now: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return (2, S): bits of each index alone, and given the one before."""
        p = self.counts.p_alone(now, self.smoothing)
        return -np.log2(np.stack((p, self.counts.p_after(now, before, p, self.strength))))


def _bits(p: Sequence[np.ndarray]) -> float:
    return float(-np.log2(np.concatenate(p)).sum())
