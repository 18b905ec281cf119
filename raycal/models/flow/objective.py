"""The training loss of a flow, and the same measured on held-out windows for any path and target alike."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from raycal.models.flow import times as time_of
from raycal.models.flow import weights
from raycal.models.flow.priors import Independent, Prior
from raycal.models.flow.process import Process
from raycal.models.flow.times import Times, Uniform


class Objective(nn.Module):
    """Draws times and noise, noises windows and weighs the errors; a learned weighting is its only parameter."""

    def __init__(self, process: Process = Process(), times: Times = Uniform(), prior: Prior = Independent(),
                 weighting: str = "even"):
        super().__init__()
        self.process, self.times, self.prior = process, times, prior
        self.weight = weights.build(weighting, process)

    def draw(self, traces: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return times (b,) and noise (b, N, L) for traces (b, N, L)."""
        t = time_of.draw(self.times, len(traces), generator, traces.device)
        return t, self.prior.draw(tuple(traces.shape), generator, traces.device)

    def forward(self, answer: Tensor, traces: Tensor, noise: Tensor, t: Tensor,
                valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the weighted and the plain squared error (b,) of the network's answer, over what is valid."""
        error = squared_error(answer, self.process.target_of(traces, noise, t), valid)
        return self.weight(error, t), error.detach()


def squared_error(answer: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the mean squared error (b,) of each window over its valid values; 0 where it has none."""
    error = answer.float() - target
    if valid is None:
        return error.square().mean((1, 2))
    return torch.where(valid, error, 0.0).square().sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


@torch.no_grad()
def held_out_loss(network: nn.Module, process: Process, traces: Tensor, behavior: Tensor | None = None,
                  session: int = 0, valid: Tensor | None = None, levels: int = 16, seed: int = 0,
                  batch: int = 256) -> float:
    """Return the flow-matching loss of windows (b, N, L) on a fixed grid of (t, noise), over what is valid (b, N, L).

    Every window is seen at `levels` even times of the linear path, each with its own noise, the same at every call:
    no searched time distribution, weighting or batch enters. A network of another path is asked at its time of the
    same signal-to-noise ratio, and every target's answer is read as a velocity eps - x_0. Noise is independent
    Gaussian: networks trained for another prior are not compared by it. About 2 is a network that knows nothing
    of z-scored traces.
    """
    generator = torch.Generator().manual_seed(seed)
    total, training = 0.0, network.training
    network.eval()
    for t in time_of.grid(levels).tolist():
        noise = torch.randn(traces.shape, generator=generator).to(traces.device)
        for rows in torch.arange(len(traces)).split(batch):
            given, seen = (None if x is None else x[rows] for x in (behavior, valid))
            error = _velocity_error(network, process, traces[rows], noise[rows], t, given, session, seen)
            total += float((error if seen is None else torch.where(seen, error, 0.0)).double().square().sum())
    network.train(training)
    return total / (levels * (traces.numel() if valid is None else max(1, int(valid.sum()))))


def _velocity_error(network, process: Process, x: Tensor, eps: Tensor, t: float, behavior, session, valid) -> Tensor:
    ratio = torch.tensor(t / (1.0 - t), dtype=torch.float64)
    times = x.new_full((len(x),), process.path.time_of(ratio).item())
    x_t = process.noised(x, eps, times)
    found = process.estimate(network(x_t, times, behavior, session, valid), x_t, times)
    return (found.noise - found.data) - (eps - x)
