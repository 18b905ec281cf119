"""Lookup-free quantization: the signs of d numbers are the code, K = 2^d (MAGVIT-v2, arXiv 2310.05737, 3.1)."""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from raycal.models.quantizers import signs
from raycal.models.quantizers.base import Quantized, Quantizer, straight_through
from raycal.models.quantizers.codebook import world_size
from raycal.models.quantizers.fsq import projections

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings

_TEMPERATURE = 0.01  # of the soft codes that the entropies are taken of: as in vector-quantize-pytorch
_LEAST = 1e-5  # probabilities below count as this in a logarithm


class LFQ(Quantizer):
    """A linear map to d numbers, their signs, a linear map back; no map where d = D.

    loss = commitment * |x - sg(c)|^2 + entropy * (E[H(p(c|x))] - H(E[p(c|x)])), p(c|x) the softmax over all codes of
    2 x.c / temperature. The first entropy makes choices clear, the second keeps all codes in use.
    """

    def __init__(self, settings: Settings):
        super().__init__(settings)
        count = signs(settings.codebook_size)
        self.entropy = settings.entropy
        self.project_in, self.project_out = projections(settings.code_dim, count)
        self.register_buffer("basis", 2 ** torch.arange(count - 1, -1, -1), persistent=False)  # the first counts most

    def quantize(self, z: Tensor, session: Tensor) -> Quantized:
        x = self.project_in(z)
        positive = x.detach() > 0
        codes = torch.where(positive, 1.0, -1.0)
        loss = self.commitment * F.mse_loss(x, codes)
        if self.training and self.entropy > 0:
            loss = loss + self.entropy * entropy_terms(x.flatten(0, 1))
        indices = (positive * self.basis).sum(-1, keepdim=True)
        return Quantized(self.project_out(straight_through(x, codes)), indices, loss)

    def lookup(self, indices: Tensor) -> Tensor:
        return self.project_out(torch.where(indices // self.basis % 2 > 0, 1.0, -1.0))


def entropy_terms(x: Tensor) -> Tensor:
    """Return E[H(p(c|x))] - H(E[p(c|x)]) in nats of x (M, d), the second over the batches of all ranks.

    The signs are independent given x: p(c|x) = prod_i sigmoid(4 c_i x_i / temperature). So the first is a sum of d
    entropies of one bit, and the mean over M of K = 2^d products is one matrix product of two halves of them.
    """
    logits = x * (4 / _TEMPERATURE)
    single = F.softplus(logits) - logits * torch.sigmoid(logits)  # H of one bit
    middle = x.shape[1] // 2
    mean = _joint(logits[:, :middle]).T @ _joint(logits[:, middle:]) / len(x)
    return single.sum(-1).mean() + _plogp(_over_ranks(mean)).sum()


def _joint(logits: Tensor) -> Tensor:
    """Return the probabilities (M, 2^n) of all patterns of n bits, the first bit counting most."""
    bits = torch.sigmoid(torch.stack([-logits, logits], -1))  # (M, n, 2)
    joint = bits.new_ones(len(bits), 1)
    for i in range(bits.shape[1]):
        joint = (joint[:, :, None] * bits[:, i, None]).flatten(1)
    return joint


def _plogp(p: Tensor) -> Tensor:
    return p * p.clamp_min(_LEAST).log()


def _over_ranks(mean: Tensor) -> Tensor:
    """Return the mean over all ranks with the gradient of this rank's part: DDP averages the parts again."""
    if world_size() == 1:
        return mean
    joint = mean.detach().clone()
    dist.all_reduce(joint)
    return straight_through(mean, joint / world_size())


def build(settings: Settings) -> LFQ:
    return LFQ(settings)
