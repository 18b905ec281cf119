"""The real windows of a recording that generated ones are compared with, and what classical generators reach there.

    [real] = real_windows(dataset, 32)
    real.figures(windows)["generation"]        # windows (real.n, N, 32)

Everything is in train-sd units about the train mean, 0 where not measured, whatever a model was trained on.
Shapes: w windows, N neurons, K behaviours, T frames.
"""
from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycal.errors import UserError
from raycal.metrics.blocks import cut, evenly, offsets, standardised
from raycal.metrics.conditional import decoded_behavior
from raycal.metrics.generation import Yardstick
from raycal.metrics.generators import Autoregression, Gaussian
from raycal.metrics.memorisation import memorisation
from raycal.metrics.two_sample import c2st

HELD_OUT = 128  # windows, evenly spaced over every offset
DRAWS = 4  # sets of windows of a generator: of one the score is 0.02 to 0.04 off, more than configurations differ by
TRAIN_VALUES = 1 << 22  # train windows lie at every offset where they are so few, for a copy may begin anywhere
REGRESSED = 600  # train windows of an autoregression
FOLDS = 5  # of the classifier


@dataclass(frozen=True, eq=False)
class RealWindows:
    """Of one recording; windows of a set are in time order."""

    train: np.ndarray  # (w', N, T) float32
    held_out: np.ndarray  # (n, N, T)
    train_behavior: np.ndarray  # (w', K, T), train-sd units, NaN = unknown
    behavior: np.ndarray  # (n, K, T)
    measured: np.ndarray | None  # (n, N, T) bool of the held-out windows; None: all
    overlap: int  # neighbours of a held-out window that share frames with it
    yardstick: Yardstick

    @classmethod
    def of(cls, recording: Any, part: str, length: int) -> RealWindows:
        """Cut windows of `length` frames; raise UserError where a part holds fewer than 2."""
        most = max(HELD_OUT, TRAIN_VALUES // (length * recording.traces.shape[1]))
        train, train_behavior, _, _ = _windows(recording, "train", length, most)
        held_out, behavior, measured, overlap = _windows(recording, part, length, HELD_OUT)
        if min(len(train), len(held_out)) < 2:
            raise UserError(f"session {recording.id}: {part} holds {len(held_out)} windows of {length} frames, too few "
                            "to compare generated ones with; use a shorter windows.length")
        return cls(train, held_out, train_behavior, behavior, measured, overlap,
                   Yardstick.of(train, held_out, recording.rate))

    @property
    def n(self) -> int:
        """How many windows a generator has to give."""
        return self.yardstick.n_windows

    def figures(self, generated: np.ndarray) -> dict[str, float]:
        """Return the figures of windows (n, N, T), with the gaps that the held-out windows have.

        "generation", the score, and "generation/GROUP" of its parts; "c2st", the AUC of a classifier against the
        held-out windows; "copied", the share of copies of train windows, and "memorisation", the ratio of distances.
        """
        generated = generated if self.measured is None else np.where(self.measured[:len(generated)], generated, 0.0)
        scores = self.yardstick.score(generated)
        found = {"generation": scores.score, **{f"generation/{group}": v for group, v in scores.groups.items()}}
        if not np.isfinite(generated).all():
            return found
        copies = memorisation(generated, self.train, self.held_out)
        folds = min(FOLDS, self.n)
        return {**found, "c2st": c2st(generated, self.held_out[evenly(len(self.held_out), self.n)], folds,
                                      self.overlap),
                "copied": copies.copied, "memorisation": copies.ratio}

    def of_draws(self, draws: Iterable[np.ndarray]) -> dict[str, float]:
        """Return the figures of sets of windows (n, N, T), pooled as those of recordings are."""
        return pooled([self.figures(windows) for windows in draws])

    def decoded(self, generated: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return R2 (K,) of behaviour decoded from windows drawn for behavior[rows], and from the real ones."""
        return decoded_behavior((self.train, self.train_behavior), generated, self.held_out[rows], self.behavior[rows])


@functools.lru_cache(maxsize=1)  # every epoch of a training asks for the same ones
def real_windows(dataset: Any, length: int, part: str = "validation") -> tuple[RealWindows, ...]:
    """Return the windows of every recording of a prepared dataset."""
    return tuple(RealWindows.of(recording, part, length) for recording in dataset.recordings)


def baselines(dataset: Any, length: int, part: str = "validation") -> dict[str, dict[str, float]]:
    """Return {name: figures} of classical generators fitted on train, means over recordings; `copied` the most.

    "Gaussian": with the covariance, over neurons and frames, of the train windows. "autoregression": of the two frames
    before, left out where train windows are too few to choose its penalty by.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for real in real_windows(dataset, length, part):
        gaussian = Gaussian.fit(real.train)
        found.setdefault("Gaussian", []).append(real.of_draws(gaussian.sample(real.n, s) for s in range(DRAWS)))
        with contextlib.suppress(ValueError):
            few = real.train[evenly(len(real.train), REGRESSED)]
            gap = math.ceil(length * len(few) / len(real.train))
            fitted = Autoregression.fit(few, gap=gap)
            found.setdefault("autoregression", []).append(
                real.of_draws(fitted.sample(real.n, length, s) for s in range(DRAWS)))
    return {name: pooled(each) for name, each in found.items() if len(each) == len(dataset.recordings)}


def pooled(each: list[dict[str, float]]) -> dict[str, float]:
    """Return the means over recordings, or draws, of what is not NaN; of "copied" the most."""
    out = {}
    for name in dict.fromkeys(key for figures in each for key in figures):
        known = [f[name] for f in each if name in f and not math.isnan(f[name])]
        if known:
            out[name] = max(known) if name == "copied" else sum(known) / len(known)
    return out


def _windows(recording: Any, part: str, length: int,
             most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, int]:
    """Return traces (w, N, T), behaviour (w, K, T), what was measured (w, N, T), and how many windows overlap one."""
    x, pieces = standardised(recording, part)
    starts = offsets(pieces, length, most)
    rows = np.concatenate([np.arange(a, b) for a, b in recording.pieces[part]])
    behavior = (recording.behavior[rows] - recording.behavior_center) / recording.behavior_spread
    measured = None if recording.valid is None else np.swapaxes(cut(recording.valid[rows], starts, length), 1, 2)
    spacing = sum(b - a - length + 1 for a, b in pieces) / len(starts)
    return (np.swapaxes(cut(x, starts, length), 1, 2), np.swapaxes(cut(behavior, starts, length), 1, 2), measured,
            math.ceil(length / spacing))
