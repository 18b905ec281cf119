"""VQ whose codebook the optimizer moves (van den Oord et al. 2017, arXiv 1711.00937, eq. 3)."""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from raycal.models.quantizers.base import Quantized, Quantizer, unit
from raycal.models.quantizers.codebook import Codebook

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings


class GradientVQ(Quantizer):
    """One codebook; loss = |sg(z) - e|^2 + commitment * |z - sg(e)|^2, averaged over elements.

    By the cosine, z and e are directions from the start: in the loss, and in what the decoder sees.
    """

    def __init__(self, settings: Settings, book: Codebook):
        super().__init__(settings)
        self.book = book

    def quantize(self, z: Tensor, session: Tensor) -> Quantized:
        x = unit(z) if self.cosine else z
        codes, indices = self.book(x.detach().flatten(0, 1)[None])
        codes = codes.view_as(x)
        loss = F.mse_loss(codes, x.detach()) + self.commitment * F.mse_loss(x, codes.detach())
        return Quantized(self.passed(x, codes), indices.view(*z.shape[:2], 1), loss)

    def lookup(self, indices: Tensor) -> Tensor:
        return self.book.lookup(indices.flatten()[None]).view(*indices.shape[:2], -1)


def build(settings: Settings) -> GradientVQ:
    return GradientVQ(settings, Codebook(1, settings.codebook_size, settings.code_dim, settings, learned=True))
