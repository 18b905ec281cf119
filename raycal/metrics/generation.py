"""How good a generator of traces is: its distance from held-out windows over that of real train windows.

    yardstick = Yardstick.of(train, held_out, rate)
    scores = yardstick.score(generator.sample(yardstick.n_windows, seed=0))
    scores.score, scores.ratios["marginals"]

A score of 1 is as near to the held-out windows as other real windows are; more is worse. A generator that copies its
train windows also scores 1: memorisation.py is what tells.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from raycal.metrics.blocks import evenly
from raycal.metrics.window_distances import Description, Frame

FLOORS = 8  # draws of train windows that the floor is a mean over
GROUPS = {"marginals": ("marginals",), "spectrum": ("power", "autocorrelation"),
          "correlation": ("correlations", "covariance_spectrum"), "population": ("population",),
          "sliced": ("sliced",), "events": ("event_rate", "event_amplitude", "event_decay")}


class Scores(NamedTuple):
    """Of one set of generated windows; NaN where real windows give no floor, inf for windows that are not finite."""

    score: float  # mean of `groups`: each of GROUPS counts the same, however many distances it has
    groups: dict[str, float]  # mean of its distances' ratios
    ratios: dict[str, float]  # distance / floor
    distances: dict[str, float]  # in their own units, as Description.distances has them


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Held-out windows and what is known of real ones, prepared once for all generators."""

    frame: Frame
    reference: Description
    floor: dict[str, float]  # distance of as many real train windows from the held-out ones
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, train: np.ndarray, held_out: np.ndarray, rate: float, seed: int = 0) -> Yardstick:
        """Return the yardstick of real windows train (w, N, T) and held_out (w', N, T), of frames at `rate` Hz.

        Windows may overlap, within each set. Compared are as many windows as the smaller set has. Raise ValueError
        for shapes that do not go together or windows that are not finite.
        """
        if train.ndim != 3 or held_out.ndim != 3 or train.shape[1:] != held_out.shape[1:]:
            raise ValueError(f"train windows {train.shape} and held-out windows {held_out.shape} do not go together")
        if min(len(train), len(held_out)) < 2 or not (np.isfinite(train).all() and np.isfinite(held_out).all()):
            raise ValueError("train and held-out windows must be finite, at least 2 of each")
        n, rng = min(len(train), len(held_out)), np.random.default_rng(seed)
        frame = Frame.of(np.asarray(train, np.float64), rate, seed)
        reference = frame.describe(held_out[evenly(len(held_out), n)])
        floors = [frame.describe(train[np.sort(rng.permutation(len(train))[:n])]).distances(reference)
                  for _ in range(FLOORS if len(train) > n else 1)]
        floor = {name: float(np.mean([f[name] for f in floors])) for name in floors[0]}
        return cls(frame, reference, floor, (n, *train.shape[1:]))

    @property
    def n_windows(self) -> int:
        """How many windows a generator has to give."""
        return self.shape[0]

    def score(self, generated: np.ndarray) -> Scores:
        """Return the scores of windows of the yardstick's shape; raise ValueError for another."""
        if generated.shape != self.shape:
            raise ValueError(f"generated windows are {generated.shape}; the yardstick compares {self.shape}")
        if not np.isfinite(generated).all():
            return Scores(math.inf, dict.fromkeys(GROUPS, math.inf), *({n: math.inf for n in self.floor},) * 2)
        distances = self.frame.describe(generated).distances(self.reference)
        ratios = {name: d / self.floor[name] if self.floor[name] > 0 else math.nan for name, d in distances.items()}
        groups = {group: _mean([ratios[name] for name in names]) for group, names in GROUPS.items()}
        return Scores(_mean(list(groups.values())), groups, ratios, distances)


def _mean(values: list[float]) -> float:
    """Return the mean of what is not NaN."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan
