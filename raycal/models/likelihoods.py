"""What a reconstruction costs, and what its latents cost, in nats.

Costs of a reconstruction are negative log-likelihoods less what no model can change, so that a KL divergence of weight
1 beside them makes an ELBO. Shapes: b windows, N neurons, L frames, D latents.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, HIGHEST = -12.0, 6.0  # of a log variance: beyond them float32 and the gradient are of no use


class Gaussian(NamedTuple):
    """Independent normal variables."""

    mean: Tensor  # (..., D)
    log_variance: Tensor

    @classmethod
    def of(cls, numbers: Tensor) -> Gaussian:
        """Return what a network's last 2 D numbers say."""
        mean, log_variance = numbers.chunk(2, -1)
        return cls(mean, log_variance.clamp(LOWEST, HIGHEST))

    def sample(self) -> Tensor:
        return self.mean + torch.randn_like(self.mean) * (0.5 * self.log_variance).exp()

    def log_ratio(self, value: Tensor) -> Tensor:
        """Return log N(value; 0, 1) - log N(value; this) of each variable."""
        scaled = (value - self.mean).square() * (-self.log_variance).exp()
        return 0.5 * (scaled + self.log_variance - value.square())

    def kl(self) -> Tensor:
        """Return KL(this || N(0, 1)) of each variable (arXiv 1312.6114, appendix B)."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance)


def mse(target: Tensor, prediction: Tensor, spread: Tensor | float) -> Tensor:
    """Return that of a Gaussian of variance 1; spread is what others take."""
    return 0.5 * (target - prediction).square()


def huber(target: Tensor, prediction: Tensor, spread: Tensor | float) -> Tensor:
    """Return that of a Gaussian of variance 1 whose tails beyond spread are those of a Laplace variable."""
    return F.huber_loss(prediction, target, reduction="none", delta=spread)


def gaussian(target: Tensor, prediction: Tensor, spread: Tensor | float) -> Tensor:
    """Return that of a Gaussian of log variance spread (N, 1)."""
    return 0.5 * ((target - prediction).square() * (-spread).exp() + spread)


def poisson(target: Tensor, prediction: Tensor, spread: Tensor | float) -> Tensor:
    """Return that of counts around a mean."""
    return prediction - target * prediction.clamp_min(1e-8).log()


RECONSTRUCTIONS: dict[str, Callable[..., Tensor]] = {"mse": mse, "huber": huber, "gaussian": gaussian,
                                                     "poisson": poisson}


def free(kl: Tensor, bits: float) -> Tensor:
    """Return KL (..., D) as the loss takes it, summed over D: that of a latent is at least `bits` on average.

    Means are over all but the last axis (arXiv 1606.04934, appendix C.8): a latent that says less is left alone.
    """
    return kl.flatten(0, -2).mean(0).clamp_min(bits).sum()
