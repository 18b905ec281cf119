"""Networks over time: (b, L, C) -> (b, L, C). Frames that were not observed reach no other frame.

Shapes: b windows, L frames, C channels.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HORIZON = 10_000.0  # longest wavelength of the positions, over 2 pi frames (arXiv 1706.03762, section 3.5)


class Transformer(nn.Module):
    """Attention over the observed frames of a window, in both directions; norms come first (arXiv 2002.04745)."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor, observed: Tensor | None) -> Tensor:
        """observed (b, L) bool, None = all; a window without an observed frame attends to its zeros."""
        hidden = None if observed is None else ~observed & observed.any(1, keepdim=True)
        return self.body(_silent(x, observed) + positions(x.shape[1], x.shape[2]).to(x), src_key_padding_mask=hidden)


class Convolution(nn.Module):
    """Residual convolutions whose kernels reach 1, 2, 4, ... frames further (arXiv 1609.03499)."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        # norms are of a frame: those over a window would mix what was not observed into every frame
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.wide = nn.ModuleList(nn.Conv1d(width, width, 3, padding=2**i, dilation=2**i) for i in range(layers))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, observed: Tensor | None) -> Tensor:
        for norm, wide, out in zip(self.norms, self.wide, self.out):
            seen = wide(_silent(norm(x), observed).mT).mT
            x = x + out(self.dropout(F.gelu(seen)))
        return x


class Gru(nn.Module):
    """A gated recurrent network that reads in both directions (arXiv 1406.1078)."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        self.body = nn.GRU(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0,
                           bidirectional=True)
        self.out = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, observed: Tensor | None) -> Tensor:
        return self.out(self.body(_silent(x, observed))[0])


BACKBONES: dict[str, Callable[..., nn.Module]] = {"transformer": Transformer, "convolution": Convolution, "gru": Gru}


def positions(length: int, width: int) -> Tensor:
    """Return (L, C): sines and cosines of the frame number (arXiv 1706.03762, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(HORIZON) / width))
    angle = torch.arange(length)[:, None] * rates
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)[:, :width]


def _silent(x: Tensor, observed: Tensor | None) -> Tensor:
    return x if observed is None else torch.where(observed[..., None], x, 0.0)
