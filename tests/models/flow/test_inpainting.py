"""Inpainting of a Gaussian whose conditional distribution is known: AR(1) in time, exchangeable neurons."""
import pytest
import torch

from raycal.errors import UserError
from raycal.models.flow.inpainting import inpaint
from raycal.models.flow.paths import Cosine, Linear
from raycal.models.flow.priors import Mixed
from raycal.models.flow.process import Estimate, Process

N, L, DECAY, COMMON = 3, 8, 0.8, 0.6


def covariance():
    steps = torch.arange(L, dtype=torch.float64)
    time = DECAY ** (steps[:, None] - steps).abs()
    neurons = (1 - COMMON) * torch.eye(N, dtype=torch.float64) + COMMON
    return torch.kron(neurons, time)


def exact(process, sigma):
    """Return the estimator of N(0, sigma): conditional means given x_t, all windows at one time."""
    def estimate(x_t, t):
        at = process.path.at(t[:1])
        of_x = at.data[0] ** 2 * sigma + at.noise[0] ** 2 * torch.eye(len(sigma), dtype=sigma.dtype)
        pulled = torch.linalg.solve(of_x, x_t.flatten(1).T).T
        data = at.data[0] * pulled @ sigma
        return Estimate(data.view_as(x_t), (at.noise[0] * pulled).view_as(x_t))

    return estimate


def case(n=3000):
    generator = torch.Generator().manual_seed(0)
    sigma = covariance()
    root = torch.linalg.cholesky(sigma)
    traces = (torch.randn(n, N * L, generator=generator, dtype=torch.float64) @ root.T).view(n, N, L)
    measured = torch.ones(n, N, L, dtype=torch.bool)
    measured[:, 0, 3:6] = False  # frames of a neuron
    measured[:, 2] = False  # a whole neuron
    return traces, measured, sigma, generator


def conditional(traces, measured, sigma):
    known = measured[0].flatten()
    gain = torch.linalg.solve(sigma[known][:, known], sigma[known][:, ~known])
    covariance = sigma[~known][:, ~known] - sigma[~known][:, known] @ gain
    return traces.flatten(1)[:, known] @ gain, covariance


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=repr)
def test_what_is_filled_in_nearly_follows_the_conditional_distribution(path):
    """RePaint is not exact: the slope on the exact mean rises to 1 with the repeats only."""
    traces, measured, sigma, generator = case()
    torch.set_default_dtype(torch.float64)
    try:
        found = inpaint(exact(Process(path), sigma), Process(path), traces, measured, 400, 10, generator=generator)
    finally:
        torch.set_default_dtype(torch.float32)
    mean, spread = conditional(traces, measured, sigma)
    filled = found.flatten(1)[:, ~measured[0].flatten()]
    off = filled - mean
    slope = (filled * mean).sum() / mean.square().sum()
    assert 0.85 < slope.item() < 1.05
    assert bool(((off.var(0) / spread.diagonal() - 1.0).abs() < 0.25).all())


def test_without_repeats_the_parts_hardly_agree():
    traces, measured, sigma, generator = case()
    torch.set_default_dtype(torch.float64)
    try:
        found = inpaint(exact(Process(), sigma), Process(), traces, measured, 40, 1, generator=generator)
    finally:
        torch.set_default_dtype(torch.float32)
    mean, _ = conditional(traces, measured, sigma)
    filled = found.flatten(1)[:, ~measured[0].flatten()]
    assert 0.2 < ((filled * mean).sum() / mean.square().sum()).item() < 0.6


def test_measured_values_stay_bit_for_bit_and_missing_ones_may_be_anything():
    traces, measured, sigma, _ = case(5)
    traces = traces.float()
    network = exact(Process(), sigma.float())
    a, b = (inpaint(network, Process(), torch.where(measured, traces, filler), measured, 12, 3, Mixed(),
                    torch.Generator().manual_seed(1)) for filler in (torch.nan, 1e6))
    assert torch.equal(a, b) and torch.equal(a[measured], traces[measured]) and bool(a.isfinite().all())


def test_the_network_is_evaluated_exactly_as_often_as_asked():
    traces, measured, sigma, _ = case(2)
    calls, network = [], exact(Process(), sigma)

    def counted(x, t):
        calls.append(1)
        return network(x.double(), t.double())

    inpaint(counted, Process(), traces, measured, 30, 5)
    assert len(calls) == 30


@pytest.mark.parametrize(("evaluations", "repeats"), [(10, 3), (0, 1), (10, 0)])
def test_evaluations_that_repeats_do_not_divide_are_refused(evaluations, repeats):
    traces, measured, _, _ = case(2)
    with pytest.raises(UserError, match=f"evaluations={evaluations}, repeats={repeats}"):
        inpaint(lambda x, t: None, Process(), traces, measured, evaluations, repeats)
