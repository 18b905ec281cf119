import math

import pytest
import torch

from raycal.errors import UserError
from raycal.models.flow.paths import Cosine, Linear
from raycal.models.flow.process import TARGETS, Process
from raycal.models.flow.samplers import SAMPLERS, sample

ORDER = {"euler": 1, "ddim": 1, "midpoint": 2, "heun": 2}


@pytest.fixture
def error(exact, noise):
    """The mean error of windows of N(0, 0.3^2): in one dimension the flow keeps ranks, so noise z becomes 0.3 z."""
    return lambda name, process, evaluations: (sample(name, exact(process, 0.0, 0.3), process, noise, evaluations)
                                               - 0.3 * noise).abs().mean().item()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=repr)
def test_error_falls_by_the_order_of_the_sampler(name, path, error):
    errors = [error(name, Process(path), n) for n in (32, 64, 128, 256)]
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    order = 3 if (name, path) == ("midpoint", Linear()) else ORDER[name]  # errors of the second order cancel there
    assert orders[-1] == pytest.approx(order, abs=0.15), (errors, orders)
    assert errors[-1] < 0.02


@pytest.mark.parametrize("name", ["midpoint", "heun"])
def test_an_odd_evaluation_costs_no_order(name, error):
    errors = [error(name, Process(), n) for n in (513, 1025)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("evaluations", [1, 2, 3, 10, 17])
def test_the_network_is_evaluated_exactly_as_often_as_asked(name, evaluations, noise, exact, answering):
    process = Process()
    network = answering(process, exact(process))
    sample(name, lambda x, t: process.estimate(network(x, t), x, t), process, noise, evaluations)
    assert network.calls == evaluations


@pytest.mark.parametrize("name", ["euler", "midpoint", "ddim"])  # heun looks at t = 0, where no noise is left to know
def test_a_single_point_is_reached_from_any_noise(name, noise, exact):
    process = Process()
    found = sample(name, exact(process, 2.0, 0.0), process, noise, 4)
    torch.testing.assert_close(found, torch.full_like(noise, 2.0))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=repr)
def test_every_target_leads_to_the_same_windows(name, target, path, noise, exact, answering):
    """Up to what the ends, where a target says nothing, cost."""
    process = Process(path, target)
    network = answering(process, exact(process))
    found = sample(name, lambda x, t: process.estimate(network(x, t), x, t), process, noise, 100)
    assert (found - sample(name, exact(process), process, noise, 100)).abs().max().item() < 0.02


def test_ddim_on_straight_lines_is_eulers_method(noise, exact):
    process = Process()
    a, b = (sample(name, exact(process), process, noise, 7) for name in ("ddim", "euler"))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_mean_and_sd_of_the_data(name, exact):
    noise = torch.randn(20_000, 1, 1, generator=torch.Generator().manual_seed(1))
    process = Process(Cosine())
    found = sample(name, exact(process, 3.0, 0.5), process, noise, 100)
    assert found.mean().item() == pytest.approx(3.0, abs=0.03) and found.std().item() == pytest.approx(0.5, abs=0.03)


def test_samplers_refuse_what_they_cannot_do(noise, exact):
    with pytest.raises(UserError, match="sampler='hein'.*did you mean 'heun'"):
        sample("hein", exact(Process()), Process(), noise, 4)
    with pytest.raises(UserError, match="evaluations=0"):
        sample("heun", exact(Process()), Process(), noise, 0)


@pytest.mark.parametrize("name, most", [("midpoint", 0.05), ("heun", 0.25), ("euler", 0.4), ("ddim", 0.4)])
def test_sixteen_evaluations_keep_variances_of_many_sizes(name, most, exact, noise):
    """Of sd 0.1 as a neuron alone in a fast frame, to 20 as what a hundred neurons share over a window."""
    for sd in (0.1, 0.3, 1.0, 3.0, 10.0, 20.0):
        found = sample(name, exact(Process(), 0.0, sd), Process(), noise, 16)
        assert (found / (sd * noise)).mean().item() == pytest.approx(1.0, abs=most), sd
