from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, Poisson, kl_divergence

from raycal.models.likelihoods import RECONSTRUCTIONS, Gaussian, free


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_gaussian_costs_are_negative_log_likelihoods_less_a_constant():
    x, y, spread = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(3, 1)
    costs = RECONSTRUCTIONS
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(costs["mse"](x, y, 1.0) + constant, -Normal(y, 1.0).log_prob(x))
    torch.testing.assert_close(costs["gaussian"](x, y, spread) + constant,
                               -Normal(y, (0.5 * spread).exp()).log_prob(x))
    near = (x - y).abs() < 1.0
    torch.testing.assert_close(costs["huber"](x, y, 1.0)[near], costs["mse"](x, y, 1.0)[near])
    torch.testing.assert_close(costs["huber"](x, y, 1.0)[~near], ((x - y).abs() - 0.5)[~near])


def test_the_cost_of_counts_is_that_of_poisson_less_what_no_model_changes():
    counts, rate = torch.randint(0, 5, (2, 3, 4)).float(), torch.rand(2, 3, 4) + 0.1
    expected = -Poisson(rate).log_prob(counts) - torch.lgamma(counts + 1)
    torch.testing.assert_close(RECONSTRUCTIONS["poisson"](counts, rate, 1.0), expected)


def test_kl_and_log_ratio_are_those_of_normal_variables():
    q = Gaussian(torch.randn(5, 3), torch.randn(5, 3))
    exact, prior = Normal(q.mean, (0.5 * q.log_variance).exp()), Normal(torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(q.kl(), kl_divergence(exact, prior.expand((5, 3))))
    z = torch.randn(5, 3)
    torch.testing.assert_close(q.log_ratio(z), prior.log_prob(z) - exact.log_prob(z))


def test_numbers_of_a_network_are_clamped_to_what_float32_holds():
    q = Gaussian.of(torch.tensor([[0.0, 1e9]]))
    assert q.kl().isfinite().all() and q.sample().isfinite().all()


def test_free_bits_are_of_each_latent_and_leave_alone_what_says_less():
    kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]], requires_grad=True)
    assert free(kl, 0.0).item() == pytest.approx(3.2)
    assert free(kl, 0.5).item() == pytest.approx(3.5)  # max(0.2, 0.5) + max(3, 0.5)
    free(kl, 0.5).backward()
    assert torch.equal(kl.grad, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))
