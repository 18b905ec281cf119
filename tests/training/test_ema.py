from __future__ import annotations

import pytest
import torch

from raycal.training.ema import WeightEMA


def module(value: float = 1.0) -> torch.nn.Linear:
    torch.manual_seed(0)
    m = torch.nn.Linear(3, 2)
    with torch.no_grad():
        m.weight.fill_(value)
    return m


def test_swap_restores_exactly():
    m = module()
    ema = WeightEMA(m, 0.9)
    for _ in range(5):
        ema.update()
        with torch.no_grad():
            m.weight.add_(torch.rand(2, 3))
    before = {k: v.clone() for k, v in m.state_dict().items()}
    with ema.swapped():
        assert not torch.equal(m.weight, before["weight"])
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())


def test_swap_restores_after_an_error():
    m = module()
    ema = WeightEMA(m, 0.9)
    ema.update()
    with torch.no_grad():
        m.weight.fill_(2.0)
    with pytest.raises(RuntimeError), ema.swapped():
        raise RuntimeError
    assert bool((m.weight == 2.0).all())


def test_average_of_known_values():
    m = module(0.0)
    ema, expected = WeightEMA(m, 0.99), 0.0
    for n, value in enumerate([3.0, 5.0, 1.0, 1.0]):
        with torch.no_grad():
            m.weight.fill_(value)
        decay = min(0.99, n / (n + 9))
        expected = decay * expected + (1 - decay) * value
        ema.update()
    with ema.swapped():
        assert m.weight[0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_decay_is_a_decay():
    """After many updates a jump of the weights enters with 1 - decay, not with decay."""
    m = module(0.0)
    ema = WeightEMA(m, 0.9)
    for _ in range(200):
        ema.update()
    with torch.no_grad():
        m.weight.fill_(1.0)
    ema.update()
    with ema.swapped():
        assert m.weight[0, 0].item() == pytest.approx(0.1, rel=1e-4)


def test_initial_weights_leave_no_trace():
    m = module(100.0)
    ema = WeightEMA(m, 0.999)
    with torch.no_grad():
        m.weight.fill_(1.0)
    ema.update()
    with ema.swapped():
        assert bool((m.weight == 1.0).all())


def test_no_decay_keeps_nothing():
    m = module()
    ema = WeightEMA(m, 0.0)
    ema.update()
    with ema.swapped():
        assert bool((m.weight == 1.0).all())
    assert ema.state_dict()["average"] == []


def test_state_goes_on_exactly():
    a, b = module(), module()
    first, second = WeightEMA(a, 0.9), WeightEMA(b, 0.9)
    for _ in range(4):
        first.update()
    second.load_state_dict(first.state_dict())
    for m, ema in ((a, first), (b, second)):
        with torch.no_grad():
            m.weight.fill_(7.0)
        ema.update()
    with first.swapped(), second.swapped():
        assert torch.equal(a.weight, b.weight)


def test_buffers_stay():
    m = torch.nn.BatchNorm1d(2)
    ema = WeightEMA(m, 0.5)
    ema.update()
    m.running_mean.fill_(3.0)
    with ema.swapped():
        assert m.running_mean.tolist() == [3.0, 3.0]
