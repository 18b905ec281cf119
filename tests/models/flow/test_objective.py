import pytest
import torch

from raycal.models.flow.objective import Objective, held_out_loss, squared_error
from raycal.models.flow.paths import Cosine, Linear
from raycal.models.flow.priors import HeavyTailed
from raycal.models.flow.process import TARGETS, Process
from raycal.models.flow.times import LogitNormal


@pytest.fixture
def network(exact, answering):
    """Return networks that know independent data of this sd exactly."""
    class Network(torch.nn.Module):
        def __init__(self, process, sd=1.0):
            super().__init__()
            self.answer = answering(process, exact(process, 0.0, sd))

        def forward(self, x_t, t, behavior=None, session=0, valid=None):
            return self.answer(x_t, t)

    return Network


WINDOWS = torch.randn(300, 4, 8, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("target", TARGETS)
def test_a_right_answer_costs_nothing_and_a_wrong_one_its_squared_error(target):
    objective = Objective(Process(Cosine(), target), LogitNormal(), HeavyTailed())
    t, noise = objective.draw(WINDOWS, torch.Generator().manual_seed(0))
    right = objective.process.target_of(WINDOWS, noise, t)
    assert objective(right, WINDOWS, noise, t)[0].tolist() == [0.0] * 300
    torch.testing.assert_close(objective(right + 2.0, WINDOWS, noise, t)[1], torch.full((300,), 4.0))


def test_what_was_not_measured_does_not_count_whatever_it_holds():
    valid = torch.rand(WINDOWS.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    valid[0] = False
    answer, target = WINDOWS + 1.0, WINDOWS
    error = squared_error(answer, torch.where(valid, target, torch.nan), valid)
    torch.testing.assert_close(error, torch.tensor([0.0] + [1.0] * 299))


def test_held_out_loss_of_the_exact_network_is_the_conditional_variance(network):
    """The velocity eps - x_0 of unit Gaussian data has variance 2 and covariance 2 t - 1 with x_t."""
    t = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    expected = (2 - (2 * t - 1) ** 2 / ((1 - t) ** 2 + t**2)).mean().item()
    assert held_out_loss(network(Process()), Process(), WINDOWS) == pytest.approx(expected, rel=0.03)


def test_held_out_loss_is_one_unit_for_every_path_and_target(network):
    losses = [held_out_loss(network(p), p, WINDOWS.double())
              for p in (Process(path, target) for path in (Linear(), Linear(0.01), Cosine()) for target in TARGETS)]
    assert losses == pytest.approx([losses[0]] * 12, rel=1e-3)


def test_held_out_loss_is_the_same_at_every_call_and_batch_and_ranks_networks(network):
    process = Process()
    losses = [held_out_loss(network(process), process, WINDOWS, batch=b) for b in (256, 256, 7)]
    assert losses[0] == losses[1] and losses[2] == pytest.approx(losses[0], rel=1e-6)
    assert held_out_loss(network(process, sd=0.5), process, WINDOWS) > losses[0]
    assert held_out_loss(network(process), process, WINDOWS, seed=1) != losses[0]


def test_held_out_loss_of_a_silent_network_is_about_2():
    class Silent(torch.nn.Module):
        def forward(self, x_t, t, behavior=None, session=0, valid=None):
            assert not self.training
            return torch.zeros_like(x_t)

    network = Silent()
    assert held_out_loss(network, Process(), WINDOWS) == pytest.approx(2.0, rel=0.02)
    assert network.training


def test_held_out_loss_leaves_out_what_was_not_measured(network):
    valid = torch.rand(WINDOWS.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    losses = [held_out_loss(network(Process()), Process(), torch.where(valid, WINDOWS, filler), valid=valid)
              for filler in (0.0, 7.0)]
    assert losses[0] == losses[1] != held_out_loss(network(Process()), Process(), WINDOWS)
