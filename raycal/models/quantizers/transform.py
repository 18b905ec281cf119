"""Transform coding: cosines over the code steps, one quantizer step for all, integers coded by a model of their sizes.

A codebook spends the same bits on every code; here the variance of a latent and a frequency decides its bits, which is
reverse water-filling (Goyal 2001, doi 10.1109/79.952802). The network trains through it as in learned image coding
(Balle et al. 2017, arXiv 1611.01704): straight through the rounding, by slope through the code length.

Shapes: B windows of L code steps, D latents; L also counts the frequencies of a window.
"""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from raycal.models.quantizers import laplace
from raycal.models.quantizers.base import Quantized, Quantizer, straight_through
from raycal.models.quantizers.codebook import joint_rows, world_size
from raycal.models.quantizers.context import FEATURES, features, fit_weights

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings

_FOLLOW = 0.1  # power of the ratio of rates that one training batch moves the step by
_TRIES = 40  # steps that steering tries at most; four or five are enough from a good guess
_CLOSE = 0.002  # how far below the wanted rate is near enough
_LEAST = 1e-6  # of the largest mean size, the least that any coefficient is taken to have


class TransformCode(Quantizer):
    """settings.bits a code step, whatever the recording: the step of the quantizer is steered to spend them.

    Two steps are kept: training follows its batches, and `steered` sets the one that evaluation and export use.
    loss = rate * slope * bits a code step / D: at rate 1 a bit costs what it saves in squared error at high rates,
    slope = ln 2 / 6 * step ^ 2, so training neither spends nor saves bits that steering must take back.
    """

    per_session = ("sizes", "correction")  # mean size of each coefficient in training, and what held-out adds

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.bits, self.rate, self.decay, self.context = settings.bits, settings.rate, settings.decay, settings.context
        self.register_buffer("step", torch.ones(()))
        self.register_buffer("training_step", torch.ones(()))
        self.register_buffer("weights", torch.zeros(FEATURES + 1))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._started = False  # spares a host synchronisation a step
        self._dim = settings.code_dim
        self.sized(1, 1)

    def sized(self, steps: int, sessions: int) -> TransformCode:
        for name in self.per_session:
            self.register_buffer(name, torch.ones(sessions, steps, self._dim))
        return self

    def quantize(self, z: Tensor, session: Tensor) -> Quantized:
        coefficients = cosines(z)
        if self.training:
            self._follow(coefficients.detach(), session)
        step = self.training_step if self.training else self.step
        integers, decoded, scales = self._coded(coefficients.detach(), session, step)
        bits = laplace.bits(integers, scales, step).flatten(1).sum(1)
        loss = z.new_zeros(())
        if self.training:
            self._steer(bits.mean() / z.shape[1])
            slope = self.rate * math.log(2) / 6 * step**2  # of D / bits at D = step ^ 2 / 12
            loss = slope * laplace.soft_bits(coefficients, scales * _followed(coefficients), step).mean()
        return Quantized(straight_through(z, cosines_back(decoded)), integers, loss, bits)

    def lookup(self, indices: Tensor, session: Tensor | None = None) -> Tensor:
        session = torch.zeros(len(indices), dtype=torch.int64, device=indices.device) if session is None else session
        scales = self._scales(indices, session, self.step)
        return cosines_back(laplace.decode(indices, scales, self.step))

    @torch.no_grad()
    def begin(self, z: Tensor, session: Tensor, held_out: Callable[[], tuple[Tensor, Tensor, float]]) -> None:
        """Fit sizes to train latents and correct them by held-out ones; fit the context and both steps to these."""
        self.sizes.copy_(self._means(cosines(z), session, self.sizes))
        z, session, windows = held_out()
        coefficients = cosines(z)
        self.correction.copy_(self._means(coefficients, session, self.sizes) / self.sizes)
        for _ in range(2 if self.context else 1):  # the context is fitted at a step, and changes it
            self.step.copy_(self._step_at([(coefficients, session, None)], self.bits * z.shape[1] * len(z)))
            if self.context:
                scales = self._plain(session, z.shape[1])
                integers = laplace.integers(coefficients, self.step)
                self.weights.copy_(fit_weights(integers, scales, self.step, windows))
        self.training_step.copy_(self.step)
        self.started.fill_(True)

    @contextlib.contextmanager
    def steered(self, latents: Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]],
                keep: bool = False) -> Iterator[None]:
        before = self.step.clone()
        with torch.no_grad():
            parts = [(cosines(z.float()), session, weight) for z, session, weight in latents()]
            self.step.copy_(self._step_at(parts, self.bits * sum(float(w.sum()) * c.shape[1] for c, _, w in parts)))
        try:
            yield
        finally:
            if not keep:
                self.step.copy_(before)

    def _coded(self, coefficients: Tensor, session: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return integers, what they decode to, and the scales they are coded under, all (B, L, D)."""
        integers = laplace.integers(coefficients, step)
        scales = self._scales(integers, session, step)
        return integers, laplace.decode(integers, scales, step), scales

    def _plain(self, session: Tensor, steps: int) -> Tensor:
        """Return the fitted scales (B, L, D) of windows of `steps` code steps."""
        return _resized(self.sizes * self.correction, steps)[session]

    def _scales(self, integers: Tensor, session: Tensor, step: Tensor) -> Tensor:
        plain = self._plain(session, integers.shape[1])
        if not self.context:
            return plain
        return plain * torch.exp(features(integers, plain, step) @ self.weights[:-1] + self.weights[-1])

    def _step_at(self, parts: list[tuple[Tensor, Tensor, Tensor | None]], bits: float) -> Tensor:
        """Return the step at which all parts together take `bits` or up to a 500th less."""
        coarse = 2.0 * max(float(c.abs().max()) for c, _, _ in parts) or 1.0  # all integers are zero
        return self.step.new_tensor(rate_control(bits, lambda step: self._cost(parts, step), float(self.step), coarse))

    def _cost(self, parts: list[tuple[Tensor, Tensor, Tensor | None]], step: float) -> float:
        total = 0.0
        for coefficients, session, weight in parts:
            integers = laplace.integers(coefficients, step)
            bits = laplace.bits(integers, self._scales(integers, session, step), step).flatten(1).sum(1)
            total += float(bits.double().sum() if weight is None else bits.double() @ weight.double())
        return total

    @torch.no_grad()
    def _follow(self, coefficients: Tensor, session: Tensor) -> None:
        if not self._started:
            if not self.started:
                z, every = _of_all_ranks(cosines_back(coefficients)), _of_all_ranks(session)
                self.begin(z, every, lambda: (z, every, float(len(z))))
            self._started = True
        means = self._means(coefficients, session, self.sizes)
        self.sizes.mul_(self.decay).add_(means, alpha=1 - self.decay)

    def _means(self, coefficients: Tensor, session: Tensor, otherwise: Tensor) -> Tensor:
        """Return the mean size (sessions, L, D) over the windows of each session, of all ranks, smoothed."""
        sums = coefficients.new_zeros(len(self.sizes), *coefficients.shape[1:])
        sums.index_add_(0, session, coefficients.abs())
        count = sums.new_zeros(len(sums)).index_add_(0, session, torch.ones_like(session, dtype=sums.dtype))
        if world_size() > 1:
            dist.all_reduce(sums)
            dist.all_reduce(count)
        count = count[:, None, None]
        means = _smooth(_resized(sums / count.clamp_min(1), self.sizes.shape[1]))
        return torch.where(count > 0, means, otherwise)

    @torch.no_grad()
    def _steer(self, bits: Tensor) -> None:
        if world_size() > 1:
            dist.all_reduce(bits := bits.clone())
            bits = bits / world_size()
        self.training_step.mul_((bits / self.bits).clamp(0.1, 10) ** _FOLLOW)


def _followed(coefficients: Tensor) -> Tensor:
    """Return 1, with the gradient of what the scales will follow: a latent gains nothing by being small altogether."""
    sizes = coefficients.abs().mean(0).clamp_min(torch.finfo(coefficients.dtype).tiny)
    return sizes / sizes.detach()


def _resized(sizes: Tensor, steps: int) -> Tensor:
    """Return sizes (n, L, D) at `steps` frequencies, those in between by lines: windows may be shorter."""
    if sizes.shape[1] == steps:
        return sizes
    return F.interpolate(sizes.mT, steps, mode="linear", align_corners=True).mT


def _of_all_ranks(x: Tensor) -> Tensor:
    return joint_rows(x.reshape(1, len(x), -1)).reshape(-1, *x.shape[1:])


def _smooth(sizes: Tensor) -> Tensor:
    """Return sizes (n, L, D) averaged over neighbouring frequencies: a few windows leave each of them noisy."""
    kernel = torch.exp(-0.5 * torch.arange(-3.0, 4.0, device=sizes.device) ** 2)
    log = F.pad(sizes.clamp_min(_LEAST * sizes.max()).log().mT, (3, 3), mode="replicate")
    weight = (kernel / kernel.sum())[None, None].expand(log.shape[1], 1, -1)
    return F.conv1d(log, weight, groups=log.shape[1]).mT.exp()


def rate_control(bits: float, cost: Callable[[float], float], step: float, coarse: float) -> float:
    """Return a step whose cost is `bits` or up to a 500th less, from a first guess; coarse: one that costs less.

    Regula falsi between logarithms, where the cost is nearly a line, halving the weight of an end that stays (the
    Illinois rule). Where even the finest step costs less than `bits`, it is the answer.
    """
    fine, step = None, min(step, coarse)
    low, high, moved = math.log(max(cost(coarse), 1e-9) / bits), 0.0, 0
    for _ in range(_TRIES):
        off = math.log(max(cost(step), 1e-9) / bits)
        if -_CLOSE <= off <= 0:
            return step
        if off < 0:
            coarse, low, high, moved = step, off, high / 2 if moved < 0 else high, -1
        else:
            fine, high, low, moved = step, off, low / 2 if moved > 0 else low, 1
        share = 0.5 if fine is None else min(max(high / (high - low), 0.02), 0.98)
        step = coarse / 4 if fine is None else fine * (coarse / fine) ** share
    return coarse


def cosines(z: Tensor) -> Tensor:
    """Return the orthonormal cosine transform (DCT-II) of z (B, L, D) over L."""
    return _basis(z.shape[1], z) @ z


def cosines_back(coefficients: Tensor) -> Tensor:
    """Return the inverse of `cosines`."""
    return _basis(coefficients.shape[1], coefficients).T @ coefficients


def _basis(length: int, like: Tensor) -> Tensor:
    """Return (L, L): a row a frequency."""
    n = torch.arange(length, device=like.device, dtype=like.dtype)
    basis = torch.cos(math.pi / length * (n + 0.5) * n[:, None]) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis


def build(settings: Settings) -> TransformCode:
    return TransformCode(settings)
