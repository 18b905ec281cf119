import math

import pytest
import torch

from raycal.errors import UserError
from raycal.models.flow.paths import Cosine, Linear
from raycal.models.flow.process import Process
from raycal.models.flow.weights import Learned, MinSNR, build

T = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


@pytest.mark.parametrize(("target", "divisor"), [("epsilon", lambda snr: snr), ("x0", lambda snr: 1.0),
                                                 ("v", lambda snr: snr + 1.0)])
def test_min_snr_is_the_papers_for_each_target(target, divisor):
    """Hang et al. 2023, section 3.4."""
    at = Cosine().at(T)
    snr = (at.data / at.noise).square().flatten()
    expected = snr.clamp(max=5.0) / divisor(snr)
    torch.testing.assert_close(MinSNR(Process(Cosine(), target)).weight(T), expected)


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=repr)
def test_min_snr_weighs_the_same_mistake_alike_whatever_the_target(path):
    generator = torch.Generator().manual_seed(0)
    data, noise, wrong = torch.randn(3, 19, 2, 4, generator=generator, dtype=torch.float64)
    losses = []
    for target in ("velocity", "epsilon", "x0", "v"):
        process = Process(path, target)
        x_t = process.noised(data, noise, T)
        at = path.at(T)
        other = (x_t - at.data * wrong) / at.noise  # the noise that goes with wrong data
        error = (process.target_of(wrong, other, T) - process.target_of(data, noise, T)).square().mean((1, 2))
        losses.append(MinSNR(process)(error, T))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0])


def test_min_snr_is_finite_at_the_edges():
    t = torch.tensor([0.0, 1e-5, 1 - 1e-5, 1.0])
    for target in ("velocity", "epsilon", "x0", "v"):
        assert bool(MinSNR(Process(Cosine(), target)).weight(t).isfinite().all())


def test_the_learned_weight_begins_at_one_and_finds_the_error_of_each_time():
    """Minimising error exp(-u) + u gives u(t) = log error(t)."""
    torch.manual_seed(0)
    weight, t = Learned(), torch.rand(512)
    error = torch.exp(2.0 * t - 1.0)
    torch.testing.assert_close(weight(error, t), error)
    optimizer = torch.optim.LBFGS(weight.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weight(error, t).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    at = torch.tensor([0.1, 0.5, 0.9])
    u = weight(torch.zeros(3), at)
    torch.testing.assert_close(u, 2.0 * at - 1.0, atol=0.05, rtol=0)


def test_an_unknown_weighting_and_a_cap_of_nothing_are_refused():
    with pytest.raises(UserError, match="weighting='snr'"):
        build("snr", Process())
    with pytest.raises(UserError, match="cap=0"):
        MinSNR(Process(), 0.0)
    assert math.isfinite(build("min_snr", Process()).cap)
