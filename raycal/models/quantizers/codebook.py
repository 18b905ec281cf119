"""Codebooks that follow the latents by moving averages, G groups at once (arXiv 1711.00937, appendix A.1).

Shapes: G groups, K codes, d their dimension, M latents of a batch: codes (G, K, d), latents (G, M, d).
No random generator: rows for a start or a revival are drawn by counting, so that a resumed run, every
rank and a CUDA graph draw the same ones. Joint rows are interleaved: row i of rank r is i * world + r.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from raycal.models.quantizers.base import unit

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings

# Scores held at a time: long recordings are encoded in bounded memory.
_TILE = 1 << 20  # on a CPU: 4 MiB of float32, for more leave the cache
_CUDA_TILE = 1 << 24  # on a GPU, where every further tile costs launches
_BLOCK = 32  # codes a row of scores is searched by on a CPU
_GOLDEN = 2654435769  # 2**32 / golden ratio: its multiples spread evenly (Knuth, TAOCP 3, 6.4)


class Codebook(nn.Module):
    """Nearest codes, their start from the first training batch, their moving averages and their revival.

    The sums of the averages are not stored: m = N e, so m' / N' = e + (1 - decay) (sum x - n e) / N',
    and a revived code cannot be pulled back by the sums of the dead one. `learned` codes are a parameter
    that the optimizer moves; only their counts are averaged here. By the cosine, the latents given are
    directions, their mean is averaged, and its direction is the code.
    """

    def __init__(self, groups: int, size: int, dim: int, settings: Settings, learned: bool = False):
        super().__init__()
        codes = torch.randn(groups, size, dim)
        if learned:
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.ones(groups, size))  # moving average of hits a step, all ranks
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # 0: not started
        self.learned, self.decay, self.revive, self.init = learned, settings.decay, settings.revive, settings.init
        self.cosine = settings.distance == "cosine"
        self._started = False  # spares a host synchronisation a step

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest codes (G, M, d) and their indices (G, M); in training, follow x afterwards."""
        if self.training and not self._started:
            self._start(x)
        vectors = self.vectors()
        indices = nearest(x, vectors)
        codes = _picked(vectors, indices)
        if self.training:
            self._follow(x, indices)
        return codes, indices

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes (G, M, d) at indices (G, M)."""
        return _picked(self.vectors(), indices)

    def vectors(self) -> Tensor:
        """Return the codes (G, K, d) as latents are compared with them."""
        return self._compared(self.codes)

    def _compared(self, codes: Tensor) -> Tensor:
        return unit(codes.clone()) if self.cosine else codes  # autograd holds the copy: revival writes the codes

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        if self.steps == 0:
            rows = joint_rows(x)
            self.codes.copy_(_STARTS[self.init](rows, self.codes))
            self.counts.fill_(rows.shape[1] / self.counts.shape[1])
            if world_size() > 1:  # ranks of different hardware may round k-means differently
                dist.broadcast(self.codes.data, 0)
        self._started = True

    @torch.no_grad()
    def _follow(self, x: Tensor, indices: Tensor) -> None:
        joint = self._joint_statistics(x, indices)
        hits = joint["hits"]
        self.counts.lerp_(hits, 1 - self.decay)
        if not self.learned:
            gap = torch.addcmul(joint["sums"], hits[..., None], self.codes, value=-1)
            share = (1 - self.decay) / self.counts.clamp_min(1e-30)  # a code never hit has gap 0
            self.codes.addcmul_(gap, share[..., None])
        if self.revive > 0:
            self._revive(joint["spare"], hits.sum(-1, keepdim=True) / hits.shape[-1])
        self.steps += 1

    def _revive(self, spare: Tensor, fair: Tensor) -> None:
        """Reseed codes whose moving count is low; fair (G, 1) is the count of a code used as often as any.

        The threshold never exceeds half of it: with more codes than latents, a fixed one would reseed
        the whole codebook at every step. A revived code starts at the fair count, which gives it time.
        """
        dead = self.counts < (fair / 2).clamp_max(self.revive)
        self.codes.copy_(torch.where(dead[..., None], spare, self.codes))
        self.counts.copy_(torch.where(dead, fair, self.counts))

    def _joint_statistics(self, x: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """Return, over all ranks and as far as read, hits (G, K), sums of latents and spare latents (G, K, d)."""
        size = self.counts.shape[1]
        parts = {"hits": count(indices, size)}
        if not self.learned:
            parts["sums"] = total(x, indices, size)
        if self.revive > 0:
            parts["spare"] = self._spare(x)
        if world_size() == 1:
            return parts
        joint = torch.cat([p.flatten() for p in parts.values()])  # one collective a step
        dist.all_reduce(joint)
        pieces = joint.split([p.numel() for p in parts.values()])
        return {name: piece.view_as(p) for piece, (name, p) in zip(pieces, parts.items())}

    def _spare(self, x: Tensor) -> Tensor:
        """Return this rank's part of the latents (G, K, d) for codes to be revived; zeros where another rank's."""
        draw = _draw(self.counts.numel(), x.device, self.steps).view_as(self.counts)
        world = world_size()
        if world == 1:
            return _rows(x, draw % x.shape[1])
        return _rows(x, draw // world % x.shape[1]) * (draw % world == dist.get_rank())[..., None]

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._started = False  # the loaded state says so itself


@torch.no_grad()
def nearest(x: Tensor, codes: Tensor) -> Tensor:
    """Return the index (G, M) of the code nearest to each latent, the least |e|^2 / 2 - x.e, the first of equals."""
    size = codes.shape[1]
    half = codes.square().sum(-1)[:, None] / 2
    if surplus := -size % _BLOCK:  # the padding is never nearest
        codes, half = F.pad(codes, (0, 0, 0, surplus)), F.pad(half, (0, surplus), value=torch.inf)
    rows = max(1, (_CUDA_TILE if x.is_cuda else _TILE) // codes.shape[:2].numel())
    found = [_least(torch.baddbmm(half, part, codes.mT, alpha=-1)) for part in x.split(rows, 1)]
    return torch.cat(found, 1).clamp_max(size - 1)  # unless a latent is not finite


def _least(scores: Tensor) -> Tensor:
    """Return the index (G, M) of the least score (G, M, K), K a multiple of the block, the first of equals.

    A CPU finds the least value of a row 10 times as fast as its place, so the place is sought in the block that
    has it: 2.5 times as fast as min over 512 codes, which in turn is faster than argmin.
    """
    *shape, size = scores.shape
    blocks = size // _BLOCK
    if scores.device.type != "cpu" or blocks < 8:
        return scores.min(-1).indices
    tiles = scores.view(-1, _BLOCK)
    block = tiles.amin(-1).view(-1, blocks).min(-1).indices
    first = torch.arange(0, len(tiles), blocks)
    place = tiles.index_select(0, first + block).min(-1).indices
    return place.add(block, alpha=_BLOCK).view(shape)


def count(indices: Tensor, size: int) -> Tensor:
    """Return how often each code was hit (G, K); no bincount, which would wait for a GPU."""
    flat = _flat(indices, size).flatten()
    hits = torch.zeros(len(indices) * size, device=indices.device)
    return hits.index_add_(0, flat, hits.new_ones(()).expand(flat.numel())).view(-1, size)


def total(x: Tensor, indices: Tensor, size: int) -> Tensor:
    """Return the sum (G, K, d) of the latents (G, M, d) of each code."""
    groups, _, dim = x.shape
    sums = x.new_zeros(groups * size, dim)
    return sums.index_add_(0, _flat(indices, size).flatten(), x.reshape(-1, dim)).view(groups, size, dim)


def kmeans(rows: Tensor, codes: Tensor, iterations: int = 10) -> Tensor:
    """Return centres (G, K, d) of the rows by Lloyd's iterations from k-means++ seeds."""
    size = codes.shape[1]
    rows = rows[:, ::max(1, rows.shape[1] // max(4096, 4 * size))]  # a start needs no more
    centres = _seeds(rows, size)
    for _ in range(iterations):
        indices = nearest(rows, centres)
        hits = count(indices, size)[..., None]
        centres = torch.where(hits > 0, total(rows, indices, size) / hits.clamp_min(1), centres)
    return centres


def _seeds(rows: Tensor, size: int) -> Tensor:
    """Draw K rows with probability proportional to the squared distance to those drawn (k-means++, SODA 2007)."""
    groups, count, _ = rows.shape
    distance = rows.new_full((groups, count), torch.inf)
    picks = [torch.zeros(groups, 1, dtype=torch.int64, device=rows.device)]
    draws = _draw(size, rows.device) / 2**32
    for n in range(1, min(size, count)):
        distance = torch.minimum(distance, (rows - _rows(rows, picks[-1])).square().sum(-1))
        mass = distance.cumsum(-1)
        picks.append(torch.searchsorted(mass, draws[n] * mass[:, -1:], right=True).clamp_max(count - 1))
    picked = torch.cat(picks, 1)
    return _rows(rows, picked[:, torch.arange(size, device=rows.device) % picked.shape[1]])


def _batch_start(rows: Tensor, codes: Tensor) -> Tensor:
    return _rows(rows, _draw(codes.shape[:2].numel(), rows.device).view(codes.shape[:2]) % rows.shape[1])


def _normal_start(rows: Tensor, codes: Tensor) -> Tensor:
    """Scale the normal codes of construction to the latents; unscaled, a residual level would add noise."""
    return rows.mean(1, keepdim=True) + rows.std(1, unbiased=False, keepdim=True) * codes


_STARTS = {"kmeans": kmeans, "batch": _batch_start, "normal": _normal_start}


def _draw(count: int, device: torch.device, step: Tensor | int = 0) -> Tensor:
    """Return `count` scattered integers in [0, 2**32), others at every step."""
    n = torch.arange(1, count + 1, device=device) + step * count
    scattered = (n & 0x7FFFFFFF) * _GOLDEN & 0xFFFFFFFF
    return scattered ^ scattered >> 15  # the multiples alone are periodic modulo small numbers


def _flat(indices: Tensor, size: int) -> Tensor:
    """Return indices (G, M) into the groups laid end to end."""
    return indices if len(indices) == 1 else indices + size * torch.arange(len(indices), device=indices.device)[:, None]


def _picked(codes: Tensor, indices: Tensor) -> Tensor:
    """Return the codes (G, M, d) at indices (G, M)."""
    return F.embedding(_flat(indices, codes.shape[1]), codes.flatten(0, 1))


def _rows(x: Tensor, indices: Tensor) -> Tensor:
    """Return the rows (G, n, d) of x (G, M, d) at indices (G, n)."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))


def world_size() -> int:
    """Return how many ranks hold this codebook."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def joint_rows(x: Tensor) -> Tensor:
    """Return the latents of all ranks, interleaved; ranks with more than the least give up the surplus."""
    if world_size() == 1:
        return x
    count = torch.tensor(x.shape[1], device=x.device)
    dist.all_reduce(count, dist.ReduceOp.MIN)
    mine = x[:, :int(count)].contiguous()
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(parts, mine)
    return torch.stack(parts, 2).flatten(1, 2)
