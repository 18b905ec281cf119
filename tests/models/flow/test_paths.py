import pytest
import torch

from raycal.errors import UserError
from raycal.models.flow.paths import Cosine, Linear

T = torch.linspace(0, 1, 101, dtype=torch.float64)
PATHS = [Linear(), Linear(0.01), Cosine()]


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_ends_are_data_and_noise_exactly(path):
    first, last = (path.at(torch.tensor([end], dtype=torch.float64)) for end in (0.0, 1.0))
    assert first.data.item() == 1.0 and last.data.item() == 0.0
    assert first.noise.item() == getattr(path, "sigma_min", 0.0) and last.noise.item() == 1.0


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_slopes_are_the_derivatives(path):
    t = T.clone().requires_grad_()
    at = path.at(t)
    for value, slope in ((at.data, at.data_slope), (at.noise, at.noise_slope)):
        gradient, = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(slope.flatten().detach(), gradient)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_signal_to_noise_only_falls_and_time_of_inverts_it(path):
    t = T[1:-1] * 0.98 + 0.01
    at = path.at(t)
    ratio = (at.noise / at.data).flatten()
    assert bool((ratio.diff() > 0).all())
    torch.testing.assert_close(path.time_of(ratio), t)


def test_the_cosine_path_keeps_the_variance():
    at = Cosine().at(T)
    torch.testing.assert_close(at.data**2 + at.noise**2, torch.ones(101, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize("sigma_min", [-0.1, 0.5])
def test_an_impossible_sigma_min_is_refused(sigma_min):
    with pytest.raises(UserError, match=f"sigma_min={sigma_min}.*from 0 to 0.1"):
        Linear(sigma_min)
