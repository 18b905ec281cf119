"""The behaviour-conditioned VAE of calcium traces: neurons that know who they are, latents of every frame.

    x (b, N, L) -> pooled over neurons -> over time -> q(z | x, behaviour) -> z, behaviour -> each neuron

Behaviour that was not observed and behaviour that is left out are the same to the model, so `encode` without behaviour
is the neural-only path, and `decode` without is what the latents say alone. Decoding is frame by frame.

Shapes: b windows, N neurons, K behaviours, L frames, D latents of a frame and of its window.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycal.checks import check_conditions
from raycal.errors import UserError
from raycal.models.backbones import BACKBONES
from raycal.models.likelihoods import HIGHEST, LOWEST, RECONSTRUCTIONS, Gaussian, free
from raycal.models.neurons import Identities, Readings, pooling

if TYPE_CHECKING:
    from raycal.config import Config
    from raycal.sessions.windows import Part


class Posterior(NamedTuple):
    """What a window says of its latents."""

    frames: Gaussian  # (b, L, latents)
    window: Gaussian  # (b, 1, window_latents)

    @property
    def mean(self) -> Tensor:
        return self._joined(self.frames.mean, self.window.mean)

    @property
    def variance(self) -> Tensor:
        return self._joined(self.frames.log_variance.exp(), self.window.log_variance.exp())

    def sample(self) -> Tensor:
        return self._joined(self.frames.sample(), self.window.sample())

    def drawn(self) -> tuple[Tensor, Tensor]:
        """Return a draw (b, L, D) and log prior - log posterior of it (b, L), the window's shared among its frames."""
        frames, window = self.frames.sample(), self.window.sample()
        ratio = self.frames.log_ratio(frames).sum(-1) + self.window.log_ratio(window).sum(-1) / frames.shape[1]
        return self._joined(frames, window), ratio

    def _joined(self, frames: Tensor, window: Tensor) -> Tensor:
        """Return (b, L, D), the latents of the window beside those of each frame."""
        return torch.cat((frames, window.expand(-1, frames.shape[1], -1)), -1)

    def kl(self) -> Tensor:
        """Return (b, L, D) in nats; those of the window are shared among its frames."""
        return self._joined(self.frames.kl(), self.window.kl() / self.frames.mean.shape[1])


class Output(NamedTuple):
    """What the model makes of one Part, from the mean of the posterior."""

    reconstruction: Tensor  # (b, N, L)
    posterior: Posterior


class VAE(nn.Module):
    """A model for sessions of these neuron counts; Part.session counts into n_neurons."""

    def __init__(self, config: Config, n_neurons: Sequence[int], n_behaviors: int,
                 neurons: Sequence[Sequence[str]] | None = None):
        """neurons: the labels of every session's neurons, "" = unknown; None: all are."""
        super().__init__()
        vae, width = config.vae, config.model.width
        self.settings, self.kl, self.kl_weight = vae, config.kl, config.kl.weight
        self.n_behaviors = 0 if vae.condition == "never" else n_behaviors
        check_conditions(config, range(n_behaviors))
        self.identities = Identities(_labels(neurons, n_neurons), vae.identity)
        self.pooling = pooling(vae.pooling, vae.identity, width, vae.heads, vae.latents)
        self.behavior_in = nn.Linear(2 * self.n_behaviors, width, bias=False) if self.n_behaviors else None
        self.backbone = BACKBONES[vae.backbone](width, vae.layers, vae.heads, config.model.dropout)
        self.frames_linear, self.frames = (nn.Linear(width, 2 * vae.latents) for _ in range(2))
        self.window = nn.Linear(width, 2 * vae.window_latents) if vae.window_latents else None
        conditions = vae.latents + vae.window_latents + 2 * self.n_behaviors
        self.decoder_linear = nn.Linear(conditions, width)
        self.decoder = nn.Sequential(nn.Linear(conditions, width), nn.GELU(), nn.Dropout(config.model.dropout),
                                     nn.Linear(width, width))
        self.readings = Readings(vae.identity, width)
        self.log_variance = nn.Linear(vae.identity, 1) if vae.reconstruction == "gaussian" else None

    def forward(self, batch: Sequence[Part]) -> tuple[list[Output], Tensor]:
        """Return an Output a Part, made of its traces alone, and a loss of 0: the posterior's mean has no noise."""
        posteriors = [self.posterior(p.traces, p.session, p.valid) for p in batch]
        return [Output(self.decode(q.mean, p.session), q) for p, q in zip(batch, posteriors)], torch.zeros(())

    def loss(self, batch: Sequence[Part]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss and its terms, detached: "reconstruction" a value, "kl" in nats a frame.

        The loss is nats a value: the KL divergence of a frame is shared among the values observed in one, so that its
        weight means the same whatever the number of neurons, and 1 makes the ELBO. Neurons are hidden from the encoder
        at random and are to be reconstructed all the same; so is behaviour, window by window.
        """
        given = [self._behavior_dropped(p) for p in batch]
        posteriors = self.encode_parts([self._hidden(p) for p in given])
        cost, count, frames = 0.0, 0.0, 0
        for part, posterior in zip(given, posteriors):
            c, n = self._cost(part, self.decode(posterior.sample(), part.session, part.behavior))
            cost, count, frames = cost + c, count + n, frames + part.traces.shape[0] * part.traces.shape[2]
        kl = torch.cat([q.kl() for q in posteriors])
        reconstruction, per_frame = cost / max(count, 1), max(count, 1) / frames
        total = reconstruction + self.kl_weight * free(kl, self.kl.free_bits) / per_frame
        terms = {"reconstruction": reconstruction, "kl": kl.sum(-1).mean(), "kl_weight": kl.new_tensor(self.kl_weight)}
        return total, {name: term.detach() for name, term in terms.items()}

    def encode(self, traces: Tensor, session: int, valid: Tensor | None = None,
               behavior: Tensor | None = None) -> Tensor:
        """Return the mean of the posterior (b, L, D) of traces (b, N, L); behavior (b, K, L), None: of them alone."""
        return self.posterior(traces, session, valid, behavior).mean

    def posterior(self, traces: Tensor, session: int, valid: Tensor | None = None,
                  behavior: Tensor | None = None) -> Posterior:
        """Return the posterior of traces (b, N, L); what valid (b, N, L) leaves out reaches nothing."""
        return self._encoded([self._pooled(traces, session, valid, behavior)], [_observed(valid)])[0]

    def encode_parts(self, batch: Sequence[Part]) -> list[Posterior]:
        """Return the posteriors of Parts with their behaviour; the network over time sees all Parts at once."""
        return self._encoded([self._pooled(p.traces, p.session, p.valid, p.behavior) for p in batch],
                             [_observed(p.valid) for p in batch])

    def decode(self, latents: Tensor, session: int, behavior: Tensor | None = None) -> Tensor:
        """Return traces (b, N, L) of latents (b, L, D), given behavior (b, K, L), None: not given."""
        z = torch.cat((latents, self._conditions(behavior, latents)), -1)
        read = self.readings(self.decoder_linear(z) + self.decoder(z), self.identities(session))
        return F.softplus(read) if self.settings.reconstruction == "poisson" else read

    def _pooled(self, traces: Tensor, session: int, valid: Tensor | None, behavior: Tensor | None) -> Tensor:
        pooled = self.pooling(traces, self.identities(session), valid)
        if self.behavior_in is None:
            return pooled
        return pooled + self.behavior_in(self._conditions(behavior, pooled))

    def _encoded(self, pooled: Sequence[Tensor], observed: Sequence[Tensor | None]) -> list[Posterior]:
        sizes = [len(p) for p in pooled]
        x = torch.cat(list(pooled))
        seen = None
        if any(o is not None for o in observed):
            seen = torch.cat([p.new_ones(p.shape[:2], dtype=torch.bool) if o is None else o
                              for p, o in zip(pooled, observed)])
        h = self.backbone(x, seen)
        whole = h.mean(1, keepdim=True) if seen is None else \
            (h * seen[..., None]).sum(1, keepdim=True) / seen.sum(1)[:, None, None].clamp_min(1)
        window = whole[..., :0] if self.window is None else self.window(whole)
        frames = self.frames_linear(x) + self.frames(h)
        return [Posterior(Gaussian.of(f), Gaussian.of(w)) for f, w in zip(frames.split(sizes), window.split(sizes))]

    def _conditions(self, behavior: Tensor | None, like: Tensor) -> Tensor:
        """Return (b, L, 2 K): behaviour, 0 where not observed, and whether it was."""
        if behavior is None or not self.n_behaviors:
            return like.new_zeros(*like.shape[:2], 2 * self.n_behaviors)
        if behavior.shape[1] != self.n_behaviors:
            raise UserError(f"behaviour of {behavior.shape[1]} columns: the model is conditioned on {self.n_behaviors}")
        seen = ~behavior.isnan()
        return torch.cat((torch.where(seen, behavior, 0.0), seen.to(behavior)), 1).mT

    def _cost(self, part: Part, prediction: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return the summed cost of a part's reconstruction and over how many values."""
        target = part.traces if part.valid is None else torch.where(part.valid, part.traces, 0.0)
        spread = self.settings.huber
        if self.log_variance is not None:
            spread = self.log_variance(self.identities(part.session)).clamp(LOWEST, HIGHEST)
        cost = RECONSTRUCTIONS[self.settings.reconstruction](target, prediction.float(), spread)
        return (cost.sum(), cost.numel()) if part.valid is None else \
            (torch.where(part.valid, cost, 0.0).sum(), part.valid.sum())

    def _hidden(self, part: Part) -> Part:
        """Return the part with neurons hidden at random, for whole windows; never all of them."""
        shown = torch.rand(part.traces.shape[:2], device=part.traces.device) >= self.settings.masking
        shown |= ~shown.any(1, keepdim=True)
        shown = shown[..., None].expand_as(part.traces)
        return part._replace(valid=shown if part.valid is None else shown & part.valid)

    def _behavior_dropped(self, part: Part) -> Part:
        dropped = torch.rand(len(part.traces), 1, 1, device=part.traces.device) < self.settings.behavior_dropout
        return part._replace(behavior=torch.where(dropped, torch.nan, part.behavior))


def build(config: Config, n_neurons: Sequence[int], n_behaviors: int,
          neurons: Sequence[Sequence[str]] | None = None) -> VAE:
    return VAE(config, n_neurons, n_behaviors, neurons)


def _observed(valid: Tensor | None) -> Tensor | None:
    """Return (b, L) bool: the frames of which some neuron was seen."""
    return None if valid is None else valid.any(1)


def _labels(neurons: Sequence[Sequence[str]] | None, n_neurons: Sequence[int]) -> Sequence[Sequence[str]]:
    if neurons is None:
        return [[""] * n for n in n_neurons]
    for session, (labels, n) in enumerate(zip(neurons, n_neurons, strict=True)):
        if len(labels) != n:
            raise UserError(f"session {session}: {len(labels)} identities for {n} neurons; give one a neuron, \"\" "
                            "where it is unknown")
    return neurons
