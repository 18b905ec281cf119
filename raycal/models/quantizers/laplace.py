"""Integers of a dead-zone quantizer under Laplace distributions: rounding, centroids and code length.

As raycal.metrics.transform_code has it for arrays, here for tensors that a network is trained through: values within
two thirds of a step of zero become zero (Sullivan 1996, doi 10.1109/18.532878). Everything is elementwise.
"""
from __future__ import annotations

import torch
from torch import Tensor

DEAD = 2 / 3  # of a step, on either side of zero
ESCAPE = 2.0**-16  # probability kept for integers that the model holds impossible: 16 bits, then 1 / (2n(n + 1))
LARGEST = 1 << 24  # beyond, float32 does not count in ones
_DEEPEST = 80.0  # steps in scales; beyond, float32 overflows and nothing changes any more
_SHALLOWEST = 1e-4


def integers(x: Tensor, step: Tensor) -> Tensor:
    """Return x in steps, rounded towards zero by the dead zone, int64; 0 for what is no number."""
    size = ((x.abs() / step - DEAD).floor() + 1).clamp(0, LARGEST)
    return size.copysign(x).nan_to_num().long()


def decode(n: Tensor, scales: Tensor, step: Tensor) -> Tensor:
    """Return the mean of what rounds to n."""
    depth = _depth(scales, step)
    size = n.abs()
    return torch.where(size > 0, ((size - 1 + DEAD) + 1 / depth - 1 / torch.expm1(depth)) * step * n.sign(), 0.0)


def expected(n: Tensor, scales: Tensor, step: Tensor) -> Tensor:
    """Return the mean size of what rounds to n, in scales: 1 on average where the scales are right."""
    depth = _depth(scales, step)
    size, edge = n.abs(), DEAD * depth
    beyond = (size - 1 + DEAD) * depth + 1 - depth / torch.expm1(depth)
    return torch.where(size > 0, beyond, 1 - edge / torch.expm1(edge))


def bits(n: Tensor, scales: Tensor, step: Tensor) -> Tensor:
    """Return the code length of every integer, in bits; 2 ** -bits sums to 1 over all integers."""
    depth = _depth(scales, step)
    size = n.abs()
    zero = -torch.expm1(-DEAD * depth)
    beyond = 0.5 * torch.exp(-(size - 1 + DEAD) * depth) * -torch.expm1(-depth)
    escape = ESCAPE * 0.5 / (size * (size + 1)).clamp_min(1)
    return -torch.log2((1 - ESCAPE) * torch.where(size > 0, beyond, zero) + torch.where(size > 0, escape, 0.0))


def soft_bits(x: Tensor, scales: Tensor, step: Tensor) -> Tensor:
    """Return what a step around x would cost: differentiable in x, where `bits` is flat (arXiv 1611.01704, eq. 12)."""
    depth = _depth(scales, step)
    u = x.abs() / step
    near, far = torch.exp(-(u - 0.5).abs() * depth), torch.exp(-(u + 0.5) * depth)
    p = torch.where(u < 0.5, 1 - 0.5 * (near + far), 0.5 * (near - far))
    return -torch.log2(p + ESCAPE / (1 + u * u))


def _depth(scales: Tensor, step: Tensor) -> Tensor:
    return (step / scales).clamp(_SHALLOWEST, _DEEPEST)
