"""What a searched model has to beat in reconstruction: PCA, k-means and a transform code, on the same frames.

Shapes: F frames of the part, P axes, b windows or patches of L frames.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from raycal.metrics import codebook, product_code, transform_code
from raycal.metrics.blocks import Windows, cut, offsets, score, standardised
from raycal.metrics.code_length import code_length
from raycal.metrics.product_code import MAX_CODES, ProductCode, Shape
from raycal.metrics.reconstruction import nmse
from raycal.metrics.transform_code import TransformCode
from raycal.sessions.split import Run

PATCH_AXES = 64  # leading axes that vector quantization sees: what lies beyond, no codebook of this size resolves
PATCH = 4  # frames of a patch with several codebooks, as a VQ-VAE that halves time twice
GROUPS = 4
RATES = ("bits_per_second", "conditional_bits_per_second", "entropy_bits_per_second", "nominal_bits_per_second")


class _Session(NamedTuple):
    """One session: its code, fitted on train, and the part's coefficients under it."""

    recording: Any
    code: TransformCode
    train: np.ndarray  # (F', P) train frames on at most PATCH_AXES axes
    train_pieces: tuple[Run, ...]
    latents: np.ndarray  # (F, P) frames of the part on as many
    pieces: tuple[Run, ...]
    windows: Windows
    coefficients: np.ndarray  # (b, L, P) on all axes

    @classmethod
    def of(cls, recording, part: str, length: int, folds: int) -> _Session:
        x, train_pieces = standardised(recording, "train")
        code = transform_code.fit(x, train_pieces, length, folds)
        train = code.axes.transform(x)[:, :PATCH_AXES].copy()
        x, pieces = standardised(recording, part)
        latents, windows = code.axes.transform(x), Windows.of(pieces, length)
        return cls(recording, code, train, train_pieces, latents[:, :PATCH_AXES].copy(), pieces, windows,
                   code.coefficients(windows.cut(latents)))


class Classical:
    """Classical codes of all sessions, fitted once on their train parts and then asked for several rates."""

    def __init__(self, dataset, part: str, length: int, folds: int = 3) -> None:
        """length: frames of the transform code's window; folds: as `transform_code.fit` takes it."""
        self._part = part
        self._sessions = [_Session.of(recording, part, length, folds) for recording in dataset.recordings]
        self._frames = sum(len(s.latents) for s in self._sessions)
        self._seconds = sum(len(s.latents) / float(s.recording.rate) for s in self._sessions)
        self._shortest = min(b - a for s in self._sessions for a, b in (*s.train_pieces, *s.pieces))

    def pca(self, axes: int) -> dict[str, float]:
        """Return the NMSE of projecting frames on the leading axes, at most PATCH_AXES; unquantized, so no rate."""
        return {"nmse": self._nmse([s.latents[:, :axes] for s in self._sessions])}

    def transform(self, rate: float) -> dict[str, float]:
        """Return the figures of the transform code at `rate` bits/s, one step for all sessions.

        Its rate is the code length of the part's own integers under the models fitted on train. The step is the one
        number that is chosen on the part: the one that spends `rate`.
        """
        largest = max(float(np.abs(s.coefficients).max()) for s in self._sessions)
        step = transform_code.step_at(rate * self._seconds, self._cost, largest) if largest else 1.0
        decoded = [s.windows.join(s.code.decode(s.code.encode(s.coefficients, step), step)) for s in self._sessions]
        return {"nmse": self._nmse(decoded), "bits_per_second": self._cost(step) / self._seconds}

    def kmeans_frames(self, rate: float) -> int:
        """Return the frames of a patch that one index of MAX_CODES pays for at `rate` bits/s; 0: less than one."""
        return min(int(np.log2(MAX_CODES) / self._bits_per_frame(rate) + 0.1), self._shortest)  # 3.97 are 4

    def kmeans(self, rate: float) -> dict[str, float]:
        """Return the figures of one codebook for patches of `kmeans_frames` frames."""
        length = max(1, self.kmeans_frames(rate))
        bits = min(np.log2(MAX_CODES), self._bits_per_frame(rate) * length)
        return self._product(Shape(1, 1, int(2.0**bits + 1e-6)), length)

    def residual_kmeans(self, rate: float, groups: int = 1) -> dict[str, float]:
        """Return the figures of residual codebooks for patches of PATCH frames, in `groups` groups of axes."""
        length = min(PATCH, self._shortest)
        return self._product(Shape.of(self._bits_per_frame(rate) * length, groups), length)

    def _bits_per_frame(self, rate: float) -> float:
        return rate * self._seconds / self._frames

    def _cost(self, step: float) -> float:
        """Return the bits that the part of all sessions takes."""
        return sum(float(s.code.bits(s.code.encode(s.coefficients, step), step) @ s.windows.weight)
                   for s in self._sessions)

    def _product(self, shape: Shape, length: int) -> dict[str, float]:
        bits, decoded = np.zeros(len(RATES)), []
        for s in self._sessions:
            starts = offsets(s.train_pieces, length, product_code.FIT_VECTORS)
            code = product_code.fit(_flat(cut(s.train, starts, length)), shape)
            seen, windows = Windows.of(s.train_pieces, length), Windows.of(s.pieces, length)
            indices = code.encode(_flat(windows.cut(s.latents)))
            decoded.append(windows.join(code.decode(indices).reshape(len(indices), length, -1)))
            bits += _bits(code, seen.runs(code.encode(_flat(seen.cut(s.train)))), windows, indices)
        return {"nmse": self._nmse(decoded), **dict(zip(RATES, (bits / self._seconds).tolist()))}

    def _nmse(self, decoded: Sequence[np.ndarray]) -> float:
        return nmse([score(s.recording, self._part, s.code.axes, latents)
                     for s, latents in zip(self._sessions, decoded)])


def _bits(code: ProductCode, train: Sequence[np.ndarray], windows: Windows, indices: np.ndarray) -> np.ndarray:
    """Return what one session's part takes, in the order of RATES."""
    weight, length = windows.weight, code_length(train, windows.runs(indices), code.sizes)
    entropy = sum(codebook.entropy_bits(codebook.count(i, size)) for i, size in zip(indices.T, code.sizes))
    return np.array([length.independent.sum(1) @ weight, length.conditional.sum(1) @ weight,
                     entropy * weight.sum(), code.nominal_bits * weight.sum()])


def _flat(x_blp: np.ndarray) -> np.ndarray:
    return x_blp.reshape(len(x_blp), -1)
