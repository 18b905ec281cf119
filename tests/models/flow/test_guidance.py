import pytest
import torch

from raycal.errors import UserError
from raycal.models.flow.guidance import clipped, dropped, guided, shrunk
from raycal.models.flow.process import Estimate, Process
from raycal.models.flow.samplers import sample

NOISE = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BEHAVIOR = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None, None].expand(4, 1, 6).clone()


class Points(torch.nn.Module):
    """The exact velocity of data that is one point: its behaviour, or 0 where that is unknown."""

    def __init__(self):
        super().__init__()
        self.calls, self.windows = 0, 0

    def forward(self, x_t, t, behavior=None, session=0):
        self.calls, self.windows = self.calls + 1, self.windows + len(x_t)
        point = torch.zeros_like(x_t[:, :1]) if behavior is None else behavior.nan_to_num(0.0)
        return (x_t - point) / t[:, None, None]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_moves_in_proportion_from_unconditional_to_conditional(scale):
    found = sample("euler", guided(Points(), Process(), BEHAVIOR, scale), Process(), NOISE, 5)
    torch.testing.assert_close(found, (scale * BEHAVIOR).expand_as(found))


def test_guidance_calls_the_network_once_an_evaluation_on_twice_the_windows_only_where_both_are_needed():
    for scale, windows in ((0.0, 4), (1.0, 4), (2.0, 8)):
        network = Points()
        sample("heun", guided(network, Process(), BEHAVIOR, scale), Process(), NOISE, 7)
        assert (network.calls, network.windows) == (7, 7 * windows)


def test_without_behaviour_there_is_nothing_to_guide_by():
    found = sample("euler", guided(Points(), Process(), None, 5.0), Process(), NOISE, 5)
    torch.testing.assert_close(found, torch.zeros_like(found))


def test_dropout_takes_the_behaviour_of_whole_windows_each_alone():
    behavior = torch.ones(4000, 2, 5)
    out = dropped(behavior, 0.25, torch.Generator().manual_seed(0)).isnan()
    assert bool((out == out[:, :1, :1]).all())
    assert out[:, 0, 0].double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert not behavior.isnan().any()
    assert torch.equal(dropped(behavior, 0.0), behavior) and bool(dropped(behavior, 1.0).isnan().all())


def test_static_thresholds_bound_the_data_neuron_by_neuron_and_never_x_t():
    low, high = torch.tensor([[-1.0], [0.0], [-2.0]]), torch.tensor([[1.0], [0.5], [2.0]])
    process, wild = Process(), Estimate(10 * NOISE, NOISE)
    t = torch.full((4,), 0.5, dtype=torch.float64)
    x_t = process.noised(*wild, t)
    found = clipped(lambda x, t: wild, process, low, high)(x_t, t)
    torch.testing.assert_close(found.data, torch.minimum(torch.maximum(10 * NOISE, low.double()), high.double()))
    torch.testing.assert_close(process.noised(*found, t), x_t)


def test_static_thresholds_hold_for_what_is_sampled():
    process = Process()
    found = sample("euler", clipped(guided(Points(), process, BEHAVIOR, 10.0), process, -3.0, 3.0), process, NOISE, 8)
    torch.testing.assert_close(found, torch.full_like(found, 3.0))


def test_dynamic_thresholds_shrink_only_windows_that_overshoot():
    data = NOISE.clone() / NOISE.abs().amax((1, 2), keepdim=True)  # largest 1
    data[1] *= 5.0
    t = torch.full((4,), 0.5, dtype=torch.float64)
    found = shrunk(lambda x, t: Estimate(data, NOISE), Process(), 2.0, share=1.0)(NOISE, t).data
    torch.testing.assert_close(found[[0, 2, 3]], data[[0, 2, 3]])
    torch.testing.assert_close(found[1], data[1] / 2.5)


def test_dynamic_thresholds_clip_what_lies_above_the_quantile():
    data = torch.linspace(0.0, 10.0, 101, dtype=torch.float64).view(1, 1, 101)
    t = torch.full((1,), 0.5, dtype=torch.float64)
    found = shrunk(lambda x, t: Estimate(data, data), Process(), 1.0, share=0.9)(data, t).data
    torch.testing.assert_close(found, data.clamp(max=9.0) / 9.0)


def test_impossible_shares_are_refused():
    with pytest.raises(UserError, match="share=0"):
        shrunk(lambda x, t: None, Process(), 1.0, share=0.0)
    with pytest.raises(UserError, match="dropout=1.5"):
        dropped(BEHAVIOR, 1.5)
