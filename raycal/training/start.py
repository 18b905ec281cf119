"""Where training starts from with model.linear: the classical code of the train part, as the linear path's weights.

Read-in and read-out hold the principal axes over neurons, the convolutions between resolutions a Haar wavelet packet
over time (Haar 1910), ordered by variance, and the networks beside them add nothing yet. Started at random, a
convolutional VQ-VAE loses to this on recordings of a few hundred frames; from here, what it learns is what a network
adds.

Shapes: F train frames, N neurons, P axes, b windows of L frames, S code steps, D latents.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from raycal.metrics.blocks import cut, fit_axes, offsets, shares, standardised
from raycal.metrics.ridge import fit_ridge

if TYPE_CHECKING:
    from raycal.config import Config
    from raycal.sessions.split import Run

WINDOWS = 512  # train windows of a session, at every offset, that codes are fitted to
SHARES = 3  # of the train frames, each coded once on axes that were fitted to the others
HELD_OUT = 48  # windows of a share
_HALF = math.sqrt(0.5)
_MEAN, _CHANGE = (0.0, _HALF, _HALF, 0.0), (0.0, _HALF, -_HALF, 0.0)  # of two frames, as kernels of 4 with padding 1


class _Session(NamedTuple):
    index: int
    x: np.ndarray  # (F, N) train frames, normalised
    pieces: tuple[Run, ...]


@torch.no_grad()
def start(model: nn.Module, dataset, config: Config) -> None:
    """Set the weights of a VQ-VAE and begin its quantizer, from train frames alone; draws nothing at random.

    Without model.linear there is no classical code among its weights, and nothing is set.
    """
    if not config.model.linear:
        return
    training, length = model.training, config.windows.length
    model.eval()
    sessions = [_Session(i, *standardised(r, "train", config.sessions.normalize))
                for i, r in enumerate(dataset.recordings)]
    for part in (model.encoder, model.decoder):
        for parameter in (*part.linear.parameters(), *part.network[-1].parameters()):
            nn.init.zeros_(parameter)
    _set_axes(model, sessions)
    _set_time(model, sessions, config)
    z, index = _joined([_latents(model, s, s.pieces, length) for s in sessions])
    model.quantizer.begin(z, index, lambda: _held_out(model, sessions, length))
    if model.behavior_linear is not None:
        for parameter in model.behavior_head.body[-1].parameters():
            nn.init.zeros_(parameter)
        _set_behavior(model, sessions, dataset, length)
    model.train(training)


def _set_axes(model: nn.Module, sessions: Sequence[_Session], left_out: Run = (0, 0)) -> None:
    """Make read-in and read-out the principal axes of each session, or of all where they share one."""
    read_in, read_out = model.read_in, model.read_out
    if read_in.shared:
        x = [np.pad(s.x, ((0, 0), (0, read_in.sizes[0] - s.x.shape[1]))) for s in sessions]
        sessions = [_Session(0, np.concatenate(x), ())]
    for s in sessions:
        _place(read_in.maps[s.index], read_out.maps[s.index], fit_axes(s.x, left_out))


def _place(read_in: nn.Conv1d, read_out: nn.Conv1d, axes: Any) -> None:
    components = torch.tensor(axes.components_[:read_in.out_channels], dtype=torch.float32)
    for parameter in (*read_in.parameters(), *read_out.parameters()):
        nn.init.zeros_(parameter)
    read_in.weight[:len(components), :, 0] = components
    read_out.weight[:, :len(components), 0] = components.T
    read_out.bias.copy_(torch.tensor(axes.mean_))
    read_in.bias[:len(components)] = -components @ read_out.bias


def _set_time(model: nn.Module, sessions: Sequence[_Session], config: Config) -> None:
    """Halve time by means and changes of neighbouring frames, of which the D with the most variance go on."""
    x = torch.cat([model.read_in(_windows(s, s.pieces, config.windows.length), s.index) for s in sessions])
    x = x[..., :x.shape[-1] // config.model.downsample * config.model.downsample]
    for halving, doubling in zip(model.encoder.linear, reversed(model.decoder.linear)):
        mean, change = x[..., ::2] + x[..., 1::2], x[..., ::2] - x[..., 1::2]
        variance = torch.cat([mean, change], 1).square().mean((0, 2))
        for to, pick in enumerate(variance.argsort(descending=True, stable=True)[:x.shape[1]].tolist()):
            kernel = torch.tensor(_CHANGE if pick >= x.shape[1] else _MEAN)
            halving.weight[to, pick % x.shape[1]] = kernel
            doubling.weight[to, pick % x.shape[1]] = kernel
        x = halving(x)
    if config.quantizer.type == "grvq" and len(model.encoder.linear):  # each group gets a share of each size
        order = torch.arange(x.shape[1]).view(-1, config.quantizer.groups).T.flatten()
        for conv in (model.encoder.linear[-1], model.decoder.linear[0]):
            conv.weight.copy_(conv.weight[order])


def _set_behavior(model: nn.Module, sessions: Sequence[_Session], dataset, length: int) -> None:
    """Make the linear head ridge regression of behaviour on the quantized latents of train windows."""
    head, step = model.behavior_linear, model.downsample
    coded: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for s, recording in zip(sessions, dataset.recordings):
        starts = offsets(s.pieces, length, len(s.x) // length)
        y = (recording.behavior - recording.behavior_center) / recording.behavior_spread
        rows = np.concatenate([np.arange(a, b) for a, b in recording.pieces["train"]])
        y_blk = np.pad(cut(y[rows], starts, length), ((0, 0), (0, -length % step), (0, 0)), constant_values=np.nan)
        z = model.encode(torch.from_numpy(cut(s.x, starts, length)).mT, s.index)
        q = model.quantizer(z, torch.full((len(z),), s.index)).quantized.numpy()
        y_bso = y_blk.reshape(len(y_blk), -1, step, y_blk.shape[2]).swapaxes(2, 3).reshape(*q.shape[:2], -1)
        coded.setdefault(0 if head.shared else s.index, []).append((q, y_bso))
    for index, parts in coded.items():
        q, y = (np.concatenate(some) for some in zip(*parts))
        pieces = [(i * q.shape[1], (i + 1) * q.shape[1]) for i in range(len(q))]
        ridge = fit_ridge(q.reshape(-1, q.shape[2]), y.reshape(-1, y.shape[2]), pieces, head.lags)
        weight, bias = ridge.raw()
        head.maps[index].weight.copy_(torch.from_numpy(weight).permute(2, 1, 0))  # (O, D, lags) of (lags, D, O)
        head.maps[index].bias.copy_(torch.from_numpy(bias))


def _held_out(model: nn.Module, sessions: Sequence[_Session], length: int) -> tuple[Tensor, Tensor, float]:
    """Return latents of windows coded on axes that never saw them, and how many independent windows there are."""
    found, frames = [], 0
    for s in sessions:
        for share, inside in shares(len(s.x), s.pieces, length, SHARES):
            _set_axes(model, [s], share)
            found.append(_latents(model, s, inside, length, HELD_OUT))
            frames += sum(b - a for a, b in inside)
    _set_axes(model, sessions)
    if not found:  # no share holds a window
        found, frames = [_latents(model, s, s.pieces, length) for s in sessions], sum(len(s.x) for s in sessions)
    return *_joined(found), frames / length


def _latents(model: nn.Module, session: _Session, pieces: Sequence[Run], length: int,
             limit: int = WINDOWS) -> tuple[Tensor, Tensor]:
    """Return (b, S, D) of at most `limit` windows of the pieces, and their session (b,)."""
    z = model.encode(_windows(session, pieces, length, limit), session.index).float()
    return z, z.new_full((len(z),), session.index, dtype=torch.int64)


def _windows(session: _Session, pieces: Sequence[Run], length: int, limit: int = WINDOWS) -> Tensor:
    return torch.from_numpy(cut(session.x, offsets(pieces, length, limit), length)).mT


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    z, index = zip(*parts)
    return torch.cat(z), torch.cat(index)
