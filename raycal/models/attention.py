"""Attention over time with normalised queries and keys and rotary positions. Shapes: b windows, S steps, C channels."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from raycal.errors import UserError
from raycal.models.embeddings import rotary


class Attention(nn.Module):
    """(b, S, C) -> (b, S, C), every step seeing all.

    Queries and keys are normalised head by head, without which their products grow until the softmax is one-hot
    (Henry et al. 2020, arXiv 2010.04245; Dehghani et al. 2023, arXiv 2302.05442).
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads or width // heads % 2:
            raise UserError(f"attention of width={width} in heads={heads}: each head needs an even number of channels; "
                            f"make the width a multiple of {2 * heads}")
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.query_norm, self.key_norm = nn.RMSNorm(width // heads), nn.RMSNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = rotary(self.query_norm(query)), rotary(self.key_norm(key))
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
