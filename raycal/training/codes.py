"""A part of a dataset as its codes: one row a code step, in time, with what it was made of and what it costs.

Shapes: S code steps of the part that stand for some frame of it, C codebooks, D code dimension, K behaviours.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from raycal.config import Config
from raycal.metrics import codebook
from raycal.metrics.code_length import code_length, joint_code_length
from raycal.models import quantizers
from raycal.models.vqvae import session_of
from raycal.sessions.split import cover
from raycal.sessions.windows import Part, WindowSampler

BATCH = 256  # windows at a time


class Steps(NamedTuple):
    """The code steps of a part, the sessions one after the other."""

    indices: np.ndarray  # (S, C) int64; of a transform code (S, D), and a step then stands for a frequency
    latents: np.ndarray  # (S, D) float32, before quantization
    quantized: np.ndarray  # (S, D) float32
    behavior: np.ndarray  # (S, K) float32 at the step's middle frame, in the unit of the file, NaN = not observed
    seconds: np.ndarray  # (S,) from the part's first frame, pieces and sessions joined
    session: np.ndarray  # (S,) int64
    piece: np.ndarray  # (S,) int64, counted over all sessions: inside one, steps follow each other in time

    def runs(self) -> list[np.ndarray]:
        """Return the indices piece by piece."""
        return np.split(self.indices, np.flatnonzero(np.diff(self.piece)) + 1)


def steps(model: torch.nn.Module, dataset, config: Config, part: str = "validation") -> Steps:
    """Return the code steps of a part under a model in eval mode; every frame is covered by exactly one."""
    device, elapsed, pieces, rows = next(model.parameters()).device, 0.0, 0, []
    sampler = WindowSampler(dataset, config.windows, config.sessions.normalize, device)
    batches = sampler.cover(part, BATCH)
    for session, recording in enumerate(dataset.recordings):
        runs = np.array(recording.pieces[part])
        starts, fresh = cover(recording.pieces[part], config.windows.length)
        before = np.cumsum(runs[:, 1] - runs[:, 0]) - (runs[:, 1] - runs[:, 0])  # frames of the part before each piece
        for first in range(0, len(starts), BATCH):
            (windows,), _ = next(batches)
            at = _Place.of(starts[first:first + BATCH], fresh[first:first + BATCH], config)
            piece = np.searchsorted(runs[:, 0], at.first, side="right") - 1
            frames = at.first - runs[piece, 0] + before[piece]
            rows.append((*_coded(model, windows, at.kept), recording.behavior[at.middle],
                         elapsed + frames / recording.rate, np.full(len(piece), session), piece + pieces))
        elapsed += float((runs[:, 1] - runs[:, 0]).sum()) / recording.rate
        pieces += len(runs)
    return Steps(*map(np.concatenate, zip(*rows)))


class _Place(NamedTuple):
    """Where the code steps of windows lie: which are kept (b, steps), and of these the first and the middle row."""

    kept: np.ndarray
    first: np.ndarray
    middle: np.ndarray

    @classmethod
    def of(cls, starts: np.ndarray, fresh: np.ndarray, config: Config) -> _Place:
        length, step = config.windows.length, config.model.downsample
        first = np.arange(0, length, step)
        stop = np.minimum(first + step, length)
        kept = stop > fresh[:, None]  # as evaluate counts: a step counts where some frame of it does
        return cls(kept, (starts[:, None] + first)[kept], (starts[:, None] + (first + stop - 1) // 2)[kept])


def _coded(model: torch.nn.Module, windows: Part, kept: np.ndarray) -> Iterator[np.ndarray]:
    """Return indices, latents and quantized vectors of the kept steps."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        latents = model.encode(windows.traces, windows.session, windows.valid)
        found = model.quantizer(latents, session_of(windows))
    model.train(training)
    return (x.cpu().numpy()[kept] for x in (found.indices, latents.float(), found.quantized.float()))


def code_rates(train: Steps, held_out: Steps, dataset, config: Config, part: str = "validation") -> dict[str, Any]:
    """Return what the codes of a part cost in bits/s, under models of the codes that were counted on train.

    independent_bits_per_second: each index alone; conditional_: given the same codebook one step before; joint_: given
    the codebook before at the same step (raycal.metrics.code_length); entropy_: what `evaluate` reports, from the
    part's own counts; nominal_: log2 of the sizes. codebooks: the same in bits a code, a row a codebook.
    """
    sizes = quantizers.codebook_sizes(config.quantizer)
    alone = code_length(train.runs(), held_out.runs(), sizes)
    bits = {"independent": alone.independent.mean(0), "conditional": alone.conditional.mean(0),
            "joint": joint_code_length(train.runs(), held_out.runs(), sizes).mean(0),
            "entropy": np.array([codebook.entropy_bits(codebook.count(column, size))
                                 for column, size in zip(held_out.indices.T, sizes)]),
            "nominal": np.log2(sizes)}
    each = _codes_per_second(dataset, config, part)
    return {**{f"{name}_bits_per_second": float(b.sum() * each) for name, b in bits.items()},
            "codebooks": [{"size": size, **{name: float(b[c]) for name, b in bits.items()}}
                          for c, size in enumerate(sizes)]}


def _codes_per_second(dataset, config: Config, part: str) -> float:
    """Return code steps a second of recording, as `evaluate` reckons them: overlap of windows costs nothing."""
    frames = np.array([sum(b - a for a, b in r.pieces[part]) for r in dataset.recordings])
    seconds = sum(n / r.rate for n, r in zip(frames, dataset.recordings))
    return -(-config.windows.length // config.model.downsample) / config.windows.length * frames.sum() / seconds
