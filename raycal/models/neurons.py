"""Neurons as a set: who they are, what all of them together say, and what is said of each.

Nothing here holds a value for every frame, neuron and channel at once. A token of a neuron is a sum of few functions of
its activity, each times a vector that the neuron's identity alone decides, so pooled tokens and readings are matrix
products, and memory grows with frames x neurons.

Shapes: b windows, N neurons, L frames, C channels, E numbers of an identity, H heads, D factors.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycal.errors import UserError

FUNCTIONS = 2  # of activity, besides a constant: as it is, and its size
SPREAD = 8.0  # a mean over N neurons of independent numbers shrinks by sqrt(N); N is some 60


class Identities(nn.Module):
    """Learned vectors: one for each label, which all sessions share, one for every neuron without."""

    def __init__(self, neurons: Sequence[Sequence[str]], size: int):
        super().__init__()
        rows, index = rows_of(neurons)
        self.rows = nn.Parameter(torch.randn(rows, size))
        for session, one in enumerate(index):
            self.register_buffer(f"of_{session}", torch.tensor(one), persistent=False)

    def forward(self, session: int) -> Tensor:
        """Return (N, E) of the neurons of a session."""
        return self.rows[self.of(session)]

    def of(self, session: int) -> Tensor:
        """Return the row (N,) of each neuron of a session."""
        return getattr(self, f"of_{session}")


def rows_of(neurons: Sequence[Sequence[str]]) -> tuple[int, list[list[int]]]:
    """Return how many identities there are, and the identity of every neuron of every session.

    "" is unknown; a label that a session has twice means its first neuron.
    """
    known: dict[str, int] = {}
    rows, count = [], 0
    for labels in neurons:
        taken: set[str] = set()
        rows.append([])
        for label in labels:
            shared = known.get(label) if label and label not in taken else None
            if shared is None:
                shared, count = count, count + 1
                if label:
                    known.setdefault(label, shared)
            taken.add(label)
            rows[-1].append(shared)
    return count, rows


class Pooling(nn.Module):
    """What the neurons that are seen say together: (b, N, L) -> (b, L, C), C a multiple of the heads.

    mean: every seen neuron weighs the same; attention: by its activity, weighed by the same rule for all (set
    transformers, arXiv 1810.00825); identity: by activity under a rule of its own.
    """

    def __init__(self, kind: str, size: int, width: int, heads: int):
        super().__init__()
        self.kind, self.heads = kind, heads if kind != "mean" else 1
        self.values = nn.ModuleList(nn.Linear(size, width) for _ in range(FUNCTIONS + 1))
        if kind == "attention":
            self.scores = nn.Parameter(torch.zeros(FUNCTIONS, heads))
        elif kind == "identity":
            self.scores = nn.ModuleList(nn.Linear(size, heads) for _ in range(FUNCTIONS + 1))
        # at first a token is linear in activity, as in factor analysis, and all neurons weigh the same
        for part in (*self.values[1:], *(self.scores if kind == "identity" else ())):
            nn.init.zeros_(part.weight)

    def forward(self, traces: Tensor, identity: Tensor, seen: Tensor | None) -> Tensor:
        """seen (b, N, L) bool, None = all; a frame where none is seen gives 0."""
        _check(traces, identity)
        x = traces if seen is None else torch.where(seen, traces, 0.0)  # before any product: 0 * NaN is NaN
        share = self._shares(x, identity, seen)  # (b, H or 1, N, L)
        if self.heads == 1:
            pooled = sum(_product(f, share, v(identity)) for f, v in zip(_functions(x), self.values))
        else:
            cut = [v(identity).unflatten(1, (self.heads, -1)).unbind(1) for v in self.values]
            pooled = torch.cat([sum(_product(f, share[:, h:h + 1], v[h]) for f, v in zip(_functions(x), cut))
                                for h in range(self.heads)], -1)
        return SPREAD * pooled

    def _shares(self, x: Tensor, identity: Tensor, seen: Tensor | None) -> Tensor:
        """Return the weight of each neuron in each frame; those of the seen sum to 1."""
        observed = torch.ones_like(x, dtype=torch.bool) if seen is None else seen
        if self.kind == "mean":
            return (observed / observed.sum(1, keepdim=True).clamp_min(1)).unsqueeze(1)
        if self.kind == "attention":
            score = sum(f.unsqueeze(1) * w[:, None, None] for f, w in zip(_functions(x), self.scores))
        else:
            score = sum(f.unsqueeze(1) * w(identity).mT[..., None] for f, w in zip(_functions(x), self.scores))
        score = score.masked_fill(~observed.unsqueeze(1), -torch.inf)
        nobody = ~observed.any(1)[:, None, None]
        return score.masked_fill(nobody, 0.0).softmax(2).masked_fill(~observed.unsqueeze(1), 0.0)


class Factors(nn.Module):
    """The same by a linear factor model, whose loadings and noise are of a neuron's identity: (b, N, L) -> (b, L, C).

    What the seen neurons say of D factors, exactly: the mean (1 + sum a a')^-1 sum a x of the posterior, over the seen
    alone, a the loading over the noise's sd (Bishop 2006, 12.42); so who is hidden is accounted for, not averaged over.
    """

    def __init__(self, size: int, width: int, factors: int):
        super().__init__()
        self.loading, self.log_precision = nn.Linear(size, factors, bias=False), nn.Linear(size, 1)
        self.out = nn.Linear(factors, width, bias=False)

    def forward(self, traces: Tensor, identity: Tensor, seen: Tensor | None) -> Tensor:
        """seen (b, N, L) bool, None = all; a frame where none is seen gives 0."""
        _check(traces, identity)
        sharp = (0.5 * self.log_precision(identity).clamp(-6.0, 6.0)).exp()
        a = self.loading(identity) * sharp  # (N, D)
        x = (traces if seen is None else torch.where(seen, traces, 0.0)) * sharp
        squares = (a[:, :, None] * a[:, None, :]).flatten(1)  # (N, D D)
        if seen is None:
            total = squares.sum(0)
        else:  # hidden for whole windows: one matrix a window, not one a frame
            steady = bool((seen == seen[..., :1]).all())
            total = (seen[..., :1] if steady else seen).mT.to(x) @ squares  # (b, 1 or L, D D)
        precision = total.unflatten(-1, (a.shape[1], -1)) + torch.eye(a.shape[1], device=a.device)
        with torch.autocast(x.device.type, enabled=False):
            z = torch.cholesky_solve((x.mT @ a).float().unsqueeze(-1), torch.linalg.cholesky(precision.float()))
        return self.out(z.squeeze(-1))


class Readings(nn.Module):
    """What is said of each neuron: (b, L, C) -> (b, N, L), by a loading, a gain and a bias of its identity."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.loading, self.gain_bias = nn.Linear(size, width), nn.Linear(size, 2)
        nn.init.zeros_(self.gain_bias.weight)
        nn.init.zeros_(self.gain_bias.bias)

    def forward(self, hidden: Tensor, identity: Tensor) -> Tensor:
        gain, bias = self.gain_bias(identity).unbind(1)
        return (self.loading(identity) * (1.0 + gain)[:, None]) @ hidden.mT + bias[:, None]


def pooling(kind: str, size: int, width: int, heads: int, factors: int) -> nn.Module:
    return Factors(size, width, factors) if kind == "factors" else Pooling(kind, size, width, heads)


def _functions(x: Tensor) -> tuple[Tensor, ...]:
    return x, x.abs(), torch.ones_like(x)


def _product(function: Tensor, share: Tensor, value: Tensor) -> Tensor:
    """Return (b, L, C): values (N, C) of all neurons, each times its function and its share of the frame."""
    return (function * share[:, 0]).mT @ value


def _check(traces: Tensor, identity: Tensor) -> None:
    if traces.shape[1] != len(identity):
        raise UserError(f"{len(identity)} identities for traces of {traces.shape[1]} neurons; give one a neuron")
