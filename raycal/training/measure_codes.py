"""How a model that codes is measured: its reconstruction, what its codes cost, the behaviour decoded from them."""
from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from raycal.config import Config
from raycal.metrics import codebook
from raycal.metrics.decoding import DecodingSums, decoded
from raycal.metrics.reconstruction import ReconstructionSums, mean_r, nmse
from raycal.models import quantizers
from raycal.sessions.windows import WindowSampler
from raycal.training.examples import chosen

BATCH_VALUES = 1 << 22  # trace values at a time: 16 MiB of float32 in, some times that inside the model


def measure(model: torch.nn.Module, dataset, config: Config, part: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Return metrics by name, and arrays: "counts", one (K,) array a codebook, and "examples", windows to draw.

    nmse: squared error over squared deviation from the train mean; r: mean correlation of a neuron;
    usage, perplexity: of the codebooks, which read at most tokens / codebook_size (usage_cap); without codebooks
    usage is the share of latents that are ever coded as anything but zero;
    bits_per_second: measured, sum of the codebooks' entropies times codes a second of recording, or the code length
    under a model that was fitted on train, steered to the nominal rate on this part as classical codes are;
    behavior_r2: mean over behaviours of R2 about the train mean, absent where none varies here.
    """
    sampler = WindowSampler(dataset, config.windows, config.sessions.normalize, next(model.parameters()).device)
    batch = max(1, min(256, BATCH_VALUES // (config.windows.length * max(*dataset.n_neurons, config.model.width))))
    sums = _Sums(dataset, config)
    cover = functools.partial(sampler.cover, part, batch)
    with _steered(model, cover, part):
        for (windows,), keep in cover():
            sums.add(windows, model([windows])[0][0], keep)
    return sums.metrics(), sums.arrays()


def _steered(model: torch.nn.Module, cover: Callable, part: str) -> contextlib.AbstractContextManager:
    """Let a model that codes spend its nominal rate on the part; the validation part sets what it is exported with."""
    steered = getattr(model, "steered", None)
    return steered(cover, keep=part == "validation") if steered else contextlib.nullcontext()


class _Sums:
    """What a split adds up to."""

    def __init__(self, dataset, config: Config):
        self._dataset, self._config = dataset, config
        self._sizes = quantizers.codebook_sizes(config.quantizer)
        self._first = torch.tensor(np.cumsum((0, *self._sizes[:-1])))  # of a codebook among all codes laid end to end
        self._counts = torch.zeros(sum(self._sizes), dtype=torch.int64)
        self._bits, self._coded = 0.0, torch.zeros(config.quantizer.code_dim, dtype=torch.bool)
        self._traces = [ReconstructionSums.of(r, config.sessions.normalize) for r in dataset.recordings]
        self._behavior = [DecodingSums(len(dataset.behavior_names)) for _ in dataset.recordings]  # already in train sd
        self._frames = np.zeros(len(dataset.recordings))
        self._examples: dict[str, Any] = {}

    def add(self, part, output, keep: torch.Tensor) -> None:
        kept, behavior = keep.cpu().numpy(), output.behavior.float().cpu().numpy()
        target, prediction = part.traces.cpu().numpy(), output.reconstruction.float().cpu().numpy()
        valid = None if part.valid is None else part.valid.cpu().numpy()
        self._traces[part.session].add(target, prediction, kept, valid)
        self._behavior[part.session].add(part.behavior.cpu().numpy(), behavior, kept)
        self._frames[part.session] += kept.sum()
        if output.bits is None:
            self._count(output.indices, keep)
        else:
            self._bits += float(output.bits.double() @ keep.double().mean(1))
            self._coded |= (output.indices != 0).flatten(0, 1).any(0).cpu()
        if not self._examples:
            self._examples = chosen(self._dataset.recordings[part.session], target, prediction)

    def metrics(self) -> dict[str, float]:
        return {"nmse": nmse(self._traces), "r": mean_r(self._traces), **self._codes(),
                **decoded(self._behavior, self._dataset.behavior_names)}

    def arrays(self) -> dict[str, Any]:
        return {"counts": self._by_codebook(), "examples": self._examples}

    def _count(self, indices: torch.Tensor, keep: torch.Tensor) -> None:
        """Count the codes (b, S, C) that stand for some kept frame."""
        step = self._config.model.downsample
        kept = F.pad(keep, (0, -keep.shape[1] % step)).unflatten(1, (-1, step)).any(-1)
        flat = (indices + self._first.to(indices.device))[kept].flatten()
        self._counts += torch.bincount(flat, minlength=len(self._counts)).cpu()

    def _by_codebook(self) -> list[np.ndarray]:
        return [c.numpy() for c in self._counts.split(self._sizes)] if self._sizes else []

    def _codes(self) -> dict[str, float]:
        counts, windows, step = self._by_codebook(), self._config.windows.length, self._config.model.downsample
        seconds = sum(f / r.rate for f, r in zip(self._frames, self._dataset.recordings))
        if not counts:
            return {"bits_per_second": self._bits / seconds, "usage": float(self._coded.double().mean())}
        codes_per_second = -(-windows // step) / windows * self._frames.sum() / seconds
        found = codebook.summary(counts)
        found["bits_per_second"] = found.pop("bits") * codes_per_second
        found["codebook_size"] = float(np.mean(self._sizes))
        for c, n in enumerate(counts):
            found[f"usage/{c}"], found[f"perplexity/{c}"] = codebook.usage(n), codebook.perplexity(n)
            found[f"entropy/{c}"] = codebook.entropy_bits(n)
        return found
