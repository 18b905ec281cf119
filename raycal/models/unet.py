"""A one-dimensional U-Net over time, steered by an embedding (Dhariwal and Nichol 2021, arXiv 2105.05233)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycal.models.attention import Attention
from raycal.models.blocks import padded, run, zeroed
from raycal.models.layers import doubling, halving, norm


class Block(nn.Module):
    """A residual block of (b, C, L); the embedding scales and shifts what its second convolution sees.

    The second convolution begins at 0, so that a new block is its own shortcut.
    """

    def __init__(self, channels: int, out: int, embedding: int, dropout: float):
        super().__init__()
        self.first = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv1d(channels, out, 3, padding=1))
        self.norm, self.modulation = norm(out), nn.Linear(embedding, 2 * out)
        self.second = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), zeroed(nn.Conv1d(out, out, 3, padding=1)))
        self.shortcut = nn.Conv1d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[..., None].chunk(2, dim=1)
        return self.shortcut(x) + self.second(self.norm(self.first(x)) * (1.0 + scale) + shift)


class AttentionBlock(nn.Module):
    """Attention over time beside (b, C, L); it begins as the identity."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.norm, self.attention = norm(channels), Attention(channels, heads)
        zeroed(self.attention.out)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return x + self.attention(self.norm(x).mT).mT


class UNet(nn.Module):
    """(b, C, L) and an embedding (b, E) -> (b, C, L).

    multipliers: channels of each level over `width`; every level but the first has half the frames of the one before,
    the last also attention, unless heads is 0. checkpointing: keep no activations inside a block but compute them
    again in the backward pass. Raise UserError for a window that would not leave the last level a frame.
    """

    def __init__(self, width: int, multipliers: Sequence[int] = (1, 2, 2), blocks: int = 2, heads: int = 4,
                 embedding: int = 128, dropout: float = 0.0, checkpointing: bool = False):
        super().__init__()
        def block(before: int, after: int) -> Block:
            return Block(before, after, embedding, dropout)

        channels = [width * m for m in multipliers]
        above, last = [width, *channels[:-1]], len(channels) - 1
        self.downsample, self.checkpointing = 2 ** last, checkpointing
        self.down = nn.ModuleList(nn.ModuleList([block(b, c), *(block(c, c) for _ in range(blocks - 1))])
                                  for b, c in zip(above, channels))
        self.halve = nn.ModuleList(nn.Sequential(*halving(c, 2)) for c in channels[:-1])
        self.middle = nn.ModuleList([block(channels[-1], channels[-1])])
        if heads:
            self.middle.extend([AttentionBlock(channels[-1], heads), block(channels[-1], channels[-1])])
        self.grow = nn.ModuleList(nn.Sequential(*doubling(c, 2)) for c in channels[1:])
        self.up = nn.ModuleList(nn.ModuleList([block(b + c, c), *(block(2 * c, c) for _ in range(blocks - 1))])
                                for b, c in zip([*channels[1:], channels[-1]], channels))
        self.out = nn.Sequential(norm(channels[0]), nn.SiLU(), nn.Conv1d(channels[0], width, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        length, kept = x.shape[-1], []
        x = padded(x, self.downsample)
        for level, blocks in enumerate(self.down):
            x = self.halve[level - 1](x) if level else x
            for block in blocks:
                x = self._run(block, x, embedding)
                kept.append(x)
        for block in self.middle:
            x = self._run(block, x, embedding)
        for level, blocks in reversed(list(enumerate(self.up))):
            for block in blocks:
                x = self._run(block, torch.cat([x, kept.pop()], dim=1), embedding)
            x = self.grow[level - 1](x) if level else x
        return self.out(x)[..., :length]

    def _run(self, block: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        return run(block, self.checkpointing and self.training, x, embedding)
