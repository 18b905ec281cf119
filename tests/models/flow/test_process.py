import pytest
import torch

from raycal.errors import UserError
from raycal.models.flow.paths import Cosine, Linear
from raycal.models.flow.process import FLOOR, TARGETS, Estimate, Process, with_data

T = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


def drawn():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 25, 3, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("path", [Linear(), Linear(0.05), Cosine()], ids=repr)
@pytest.mark.parametrize("target", TARGETS)
def test_a_right_answer_gives_back_data_and_noise(path, target):
    data, noise = drawn()
    process = Process(path, target)
    found = process.estimate(process.target_of(data, noise, T), process.noised(data, noise, T), T)
    torch.testing.assert_close(found.data, data)
    torch.testing.assert_close(found.noise, noise)


def test_targets_are_what_the_papers_call_so():
    data, noise = drawn()
    torch.testing.assert_close(Process(Linear(), "velocity").target_of(data, noise, T), noise - data)
    torch.testing.assert_close(Process(Cosine(), "epsilon").target_of(data, noise, T), noise)
    torch.testing.assert_close(Process(Cosine(), "x0").target_of(data, noise, T), data)
    at = Cosine().at(T)
    torch.testing.assert_close(Process(Cosine(), "v").target_of(data, noise, T), at.data * noise - at.noise * data)


@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=repr)
def test_velocity_is_the_derivative_of_x_t(path):
    (data, noise), process, h = drawn(), Process(path), 1e-6
    numeric = (process.noised(data, noise, T + h) - process.noised(data, noise, T - h)) / (2 * h)
    torch.testing.assert_close(process.velocity(Estimate(data, noise), T), numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_where_a_target_says_nothing_errors_grow_by_a_bounded_factor(target, end):
    (data, noise), t = drawn(), torch.full((25,), end, dtype=torch.float64)
    process = Process(Cosine(), target)
    right = process.target_of(data, noise, t)
    wrong = process.estimate(right + 1.0, process.noised(data, noise, t), t)
    found = process.estimate(right, process.noised(data, noise, t), t)
    for a, b in zip(found, wrong):
        assert bool(a.isfinite().all()) and bool(((a - b).abs() <= 1.0 / FLOOR + 1e-9).all())


def test_other_data_leaves_x_t_as_it_was():
    (data, noise), process = drawn(), Process()
    x_t = process.noised(data, noise, T)
    changed = with_data(Estimate(data, noise), data.clamp(-1, 1), process.path.at(T))
    torch.testing.assert_close(process.noised(*changed, T), x_t)


def test_an_unknown_target_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="target='velocty'.*did you mean 'velocity'"):
        Process(target="velocty")
