import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycal.errors import UserError
from raycal.models.flow.times import TIMES, LogitNormal, Mode, Uniform, draw, grid

DISTRIBUTIONS = [Uniform(), LogitNormal(), LogitNormal(-1.0, 0.7), LogitNormal(4.0, 5.0), Mode(), Mode(-1.0),
                 Mode(2.0 / (math.pi - 2.0))]


@pytest.mark.parametrize("times", DISTRIBUTIONS, ids=repr)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 300))
def test_times_are_strictly_inside(times, seed, n):
    t = draw(times, n, torch.Generator().manual_seed(seed))
    assert t.shape == (n,) and t.dtype == torch.float32
    assert bool((t > 0).all() and (t < 1).all())


@pytest.mark.parametrize("times", DISTRIBUTIONS, ids=repr)
def test_the_extremes_of_the_uniform_are_inside_too(times):
    class Extreme(type(times)):
        def quantile(self, u):
            return super().quantile(u.round())  # what a float32 may round to

    settings = {f: getattr(times, f) for f in times.__dataclass_fields__}
    t = draw(Extreme(**settings), 64)
    assert bool((t > 0).all() and (t < 1).all())


@pytest.mark.parametrize("times", DISTRIBUTIONS, ids=repr)
def test_quantiles_rise(times):
    assert bool((times.quantile(torch.linspace(0.001, 0.999, 500, dtype=torch.float64)).diff() >= -1e-12).all())


def test_logit_normal_has_the_quantiles_of_its_name():
    t = draw(LogitNormal(0.5, 2.0), 20_000, torch.Generator().manual_seed(0))
    z = torch.logit(t.double())
    assert z.mean().item() == pytest.approx(0.5, abs=0.02) and z.std().item() == pytest.approx(2.0, abs=0.02)


def test_mode_is_the_papers_formula_of_a_uniform_variable():
    """Its distribution is that of f(u), so f turns the quantiles of u, falling, into quantiles of t, rising."""
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    f = 1 - u - 1.29 * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    torch.testing.assert_close(Mode(1.29).quantile(u), f.flip(0))


def test_mode_zero_is_uniform():
    u = torch.rand(50, dtype=torch.float64)
    torch.testing.assert_close(Mode(0.0).quantile(u), u)


def test_a_draw_takes_one_from_each_share():
    t = draw(Uniform(), 32, torch.Generator().manual_seed(3))
    assert sorted((t * 32).int().tolist()) == list(range(32))
    assert (t * 32).int().tolist() != list(range(32))


def test_a_draw_is_a_function_of_its_generator():
    a, b = (draw(Mode(), 9, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)


def test_the_grid_is_fixed():
    assert grid(4).tolist() == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize("make", [lambda: Mode(2.0), lambda: Mode(-1.5), lambda: LogitNormal(0.0, 0.0)])
def test_a_distribution_that_leaves_the_interval_is_refused(make):
    with pytest.raises(UserError):
        make()


def test_all_are_registered():
    assert {type(d) for d in DISTRIBUTIONS} == set(TIMES.values())
