"""The scale of a coefficient as those coded before it tell: recordings are not as loud as their train part was.

Coefficients are coded frequency by frequency, from the slowest, and within one latent by latent. What a decoder has
already seen moves the scale of the next one (context modelling; Minnen et al. 2018, arXiv 1809.02736).

Shapes: B windows, L frequencies, D latents.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

from raycal.models.quantizers import laplace

FEATURES = 3
LEADING = 16  # latents whose slower frequencies tell how loud a window is
FADE = 0.8  # of what lies one frequency, or one latent, further away
PRIOR = 2.0  # imagined coefficients of the expected size before the first
FITTED = 1 << 17  # coefficients that the weights are fitted to, evenly spread
SPREAD = 0.3  # sd of the prior of the weights: a worm has seven independent windows to fit them to


def features(n: Tensor, scales: Tensor, step: Tensor) -> Tensor:
    """Return (B, L, D, FEATURES): logarithms of how much larger than expected the integers before each were.

    Slower frequencies of the same latent; slower frequencies of all leading latents; the latents before it at
    the same frequency.
    """
    size = laplace.expected(n, scales, step)
    loud = size[..., :LEADING].mean(-1, keepdim=True)
    slower, before = _earlier(size.shape[1], size), _earlier(size.shape[2], size)
    return torch.stack([_relative(slower @ size, slower.sum(1)[:, None]),
                        _relative(slower @ loud, slower.sum(1)[:, None]).expand_as(size),
                        _relative(size @ before.T, before.sum(1))], -1)


def fit_weights(n: Tensor, scales: Tensor, step: Tensor, windows: float) -> Tensor:
    """Return (FEATURES + 1,) weights, the last a constant: the most probable ones under a normal prior.

    windows: how many independent windows the B amount to.
    """
    share = math.log(2) * windows * n[0].numel()
    some = slice(0, None, -(-n.numel() // FITTED) | 1)  # odd, so that no latent or frequency is passed over
    x, n, scales = (t.flatten(0, 2)[some] for t in (features(n, scales, step), n, scales))
    weights = x.new_zeros(FEATURES + 1, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=30, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        search.zero_grad()
        bits = laplace.bits(n, scales * torch.exp(x @ weights[:-1] + weights[-1]), step)
        total = bits.mean() * share + 0.5 * (weights / SPREAD).square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        search.step(cost)
    return weights.detach()


def _earlier(size: int, like: Tensor) -> Tensor:
    """Return (size, size): row i weighs all before i, FADE for each further away."""
    i = torch.arange(size, device=like.device, dtype=like.dtype)
    away = i[:, None] - i
    return torch.where(away > 0, FADE ** (away - 1), 0.0)


def _relative(total: Tensor, count: Tensor) -> Tensor:
    return torch.log((PRIOR + total) / (PRIOR + count))
