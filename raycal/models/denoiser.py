"""A network that says what is noise in windows of traces: neurons in, a core over time, neurons out.

Shapes: b windows, N neurons, K behaviours, L frames, C channels of the core.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycal.models.blocks import zeroed
from raycal.models.embeddings import BehaviorEmbedding, TimeEmbedding
from raycal.models.layers import PerSession, ReadIn, ReadOut


class Gain(PerSession):
    """An embedding (b, E) -> what every neuron of the session is multiplied by, (b, N, 1); it begins at 0."""

    def __init__(self, n_neurons: Sequence[int], embedding: int, shared: bool):
        super().__init__(n_neurons, shared)
        self.maps = nn.ModuleList(zeroed(nn.Linear(embedding, n)) for n in self.sizes)

    def forward(self, embedding: Tensor, session: int) -> Tensor:
        return self._map(session)(embedding)[:, :self.n_neurons[session], None]


class Denoiser(nn.Module):
    """answer(x_t, t, behaviour) = g (read-out of the core + gain(t) x_t) + base(x_t, t), for sessions of n_neurons.

    The best answer for Gaussian data of a few factors and private noise is a map of low rank plus a diagonal: the
    core is the one, which may thus have far fewer channels than there are neurons, the gain the other. A base has both;
    what data has besides enters the best answer, as noise drowns it, with the square of the share a of data in x_t,
    for a Gaussian part is all that the first order has. Without that square a network unlearns at the start of a draw,
    where it is hardly ever trained, what neurons have in common: g = a^2. Yet g = 1 for windows of which behaviour is
    known, which says something of the data when noise is all there is, and without a base.
    The core is a `DiT` or `UNet` of `width` channels. A new network answers what its base does, or 0 without one.
    """

    def __init__(self, core: nn.Module, n_neurons: Sequence[int], n_behaviors: int = 0, width: int = 64,
                 embedding: int = 128, shared: bool = False, base: nn.Module | None = None):
        super().__init__()
        self.core, self.downsample, self.n_behaviors, self.base = core, core.downsample, n_behaviors, base
        self.time = TimeEmbedding(embedding)
        self.behavior = BehaviorEmbedding(n_behaviors, width) if n_behaviors else None
        self.read_in = ReadIn(n_neurons, width, shared)
        self.read_out = zeroed(ReadOut(n_neurons, width, shared))
        self.gain = Gain(n_neurons, embedding, shared)

    def forward(self, x_t: Tensor, t: Tensor, behavior: Tensor | None = None, session: int = 0,
                valid: Tensor | None = None) -> Tensor:
        """Return the answer (b, N, L) to windows (b, N, L) at times (b,).

        behavior: (b, K, L), NaN = unknown; None: all of it. valid: (b, N, L) bool, None: all measured.
        """
        return self.joint([x_t], [t], [behavior], [session], [valid])[0]

    def joint(self, x_t: Sequence[Tensor], t: Sequence[Tensor], behavior: Sequence[Tensor | None],
              session: Sequence[int], valid: Sequence[Tensor | None]) -> list[Tensor]:
        """Return the answers to windows of several sessions, which the core sees at once."""
        embedding, sizes = self.time(torch.cat(list(t))), [len(x) for x in x_t]
        h = torch.cat([self._into(*part) for part in zip(x_t, behavior, session, valid, strict=True)])
        h = self.core(h, embedding)
        answers = [self.read_out(out, s) + self.gain(e, s) * x
                   for out, e, s, x in zip(h.split(sizes), embedding.split(sizes), session, x_t)]
        if self.base is None:
            return answers
        known = [x if v is None else torch.where(v, x, 0.0) for x, v in zip(x_t, valid)]
        return [self._share(at, b) * answer + self.base(x, at, s)
                for answer, x, at, b, s in zip(answers, known, t, behavior, session)]

    def _share(self, t: Tensor, behavior: Tensor | None) -> Tensor:
        """Return what the answer beside a base is multiplied by, (b, 1, 1)."""
        square = self.base.process.path.at(t).data.square()
        if behavior is None or not self.n_behaviors:
            return square
        return torch.where(torch.isfinite(behavior).any(dim=(1, 2), keepdim=True), 1.0, square)

    def _into(self, x_t: Tensor, behavior: Tensor | None, session: int, valid: Tensor | None) -> Tensor:
        h = self.read_in(x_t, session, valid)
        if self.behavior is None:
            return h
        if behavior is None:
            behavior = x_t.new_full((len(x_t), self.n_behaviors, x_t.shape[-1]), torch.nan)
        return h + self.behavior(behavior)
