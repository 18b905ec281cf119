import pytest
import torch

from raycal.errors import UserError
from raycal.models.flow.priors import PRIORS, HeavyTailed, Independent, Mixed

ALL = [Independent(), Mixed(), Mixed(0.9), Mixed(0.0), HeavyTailed(), HeavyTailed(6)]
SHAPE = (40_000, 3, 8)


@pytest.mark.parametrize("prior", ALL, ids=repr)
def test_every_value_has_mean_0_and_variance_1(prior):
    x = prior.draw(SHAPE, torch.Generator().manual_seed(0)).double()
    assert x.shape == SHAPE
    # an element's variance over windows: sd sqrt((kurtosis - 1) / n) = 0.012 for the heaviest, kurtosis 6
    assert bool((x.mean(0).abs() < 0.03).all()) and bool(((x.square().mean(0) - 1.0).abs() < 0.06).all())
    assert x.square().mean().item() == pytest.approx(1.0, abs=0.02)


def test_mixed_noise_shares_its_part_of_the_variance_over_time_and_nothing_over_neurons():
    x = Mixed(0.3).draw(SHAPE, torch.Generator().manual_seed(1)).double()
    assert (x[:, 0, 0] * x[:, 0, 7]).mean().item() == pytest.approx(0.3, abs=0.02)
    assert (x[:, 0, 0] * x[:, 1, 0]).mean().item() == pytest.approx(0.0, abs=0.02)


def test_heavy_tails_are_those_of_students_t():
    """Kurtosis 3 + 6 / (freedom - 4), common to a window: squares of different values go together."""
    x = HeavyTailed(12).draw((200_000, 1, 2), torch.Generator().manual_seed(2)).double()
    assert x.pow(4).mean().item() == pytest.approx(3.0 + 6.0 / 8.0, abs=0.15)
    assert (x[:, 0, 0] ** 2 * x[:, 0, 1] ** 2).mean().item() == pytest.approx(1.25, abs=0.05)
    assert (x[:, 0, 0] * x[:, 0, 1]).mean().item() == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("prior", ALL, ids=repr)
def test_a_draw_is_a_function_of_its_generator(prior):
    a, b = (prior.draw((2, 3, 4), torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize(("make", "message"), [(lambda: Mixed(1.0), "share=1.0"), (lambda: Mixed(-0.1), "share=-0.1"),
                                               (lambda: HeavyTailed(2), "freedom=2.*from 3")])
def test_a_prior_without_unit_variance_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_all_are_registered():
    assert {type(p) for p in ALL} == set(PRIORS.values())
