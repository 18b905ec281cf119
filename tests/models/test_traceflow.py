from __future__ import annotations

import pytest
import torch

from raycal.errors import UserError
from raycal.models.denoiser import Denoiser
from raycal.models.dit import DiT
from raycal.models.flow.objective import Objective
from raycal.models.flow.paths import Cosine
from raycal.models.flow.process import Process
from raycal.models.flow.samplers import SAMPLERS
from raycal.models.traceflow import Drawing, TraceFlow
from raycal.sessions.windows import Part
from raycal.training.ema import WeightEMA

L = 12


def model(n_neurons=(4,), n_behaviors=1, **options):
    torch.manual_seed(0)
    net = Denoiser(DiT(16, 1, 2, embedding=16), n_neurons, n_behaviors, 16, 16)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return TraceFlow(net, Objective(**options))


def part(session=0, n=4, b=6, valid=None):
    generator = torch.Generator().manual_seed(session)
    return Part(session, torch.randn(b, n, L, generator=generator), torch.randn(b, 1, L, generator=generator), valid)


def test_the_loss_of_several_sessions_is_a_mean_over_windows():
    flow = model((4, 7))
    loss, terms = flow.loss([part(0, 4, 2), part(1, 7, 5)])
    assert loss.shape == () and loss.requires_grad and not terms["flow"].requires_grad
    torch.testing.assert_close(loss.detach(), terms["flow"])


def test_what_was_not_measured_does_not_enter_the_loss():
    flow, valid = model(), torch.rand(6, 4, L, generator=torch.Generator().manual_seed(2)) < 0.7
    losses = []
    for filler in (0.0, 50.0):
        p = part(valid=valid)
        torch.manual_seed(3)
        losses.append(flow.loss([p._replace(traces=torch.where(valid, p.traces, filler))])[0].item())
    assert losses[0] == losses[1]


def test_training_lowers_the_held_out_loss():
    flow = model()
    optimizer = torch.optim.Adam(flow.parameters(), 3e-3)
    wave = torch.sin(torch.arange(L) * 0.8)
    data = torch.randn(64, 4, 1, generator=torch.Generator().manual_seed(1)) * wave
    behavior = data[:, :1, :]
    before = flow.held_out_loss([Part(0, data, behavior, None)])
    for _ in range(100):
        optimizer.zero_grad()
        flow.loss([Part(0, data, behavior, None)])[0].backward()
        optimizer.step()
    assert flow.held_out_loss([Part(0, data, behavior, None)]) < 0.6 * before


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draw_evaluates_the_network_as_often_as_asked_and_depends_on_its_seed_alone(sampler):
    flow, calls = model(process=Process(Cosine(), "v")), []
    flow.network.register_forward_hook(lambda *_: calls.append(1))
    how = Drawing(sampler, 5)
    first = flow.draw(3, L, how=how, seed=1)
    assert len(calls) == 5 and first.shape == (3, 4, L) and bool(first.isfinite().all())
    torch.rand(7)
    assert torch.equal(flow.draw(3, L, how=how, seed=1), first)
    assert not torch.allclose(flow.draw(3, L, how=how, seed=2), first)
    assert flow.training


def test_windows_do_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch):
    flow = model()
    behavior = torch.randn(5, 1, L)
    whole = flow.draw(5, L, behavior=behavior, how=Drawing(guidance=2.0))
    monkeypatch.setattr("raycal.models.traceflow.BATCH", 2)
    torch.testing.assert_close(flow.draw(5, L, behavior=behavior, how=Drawing(guidance=2.0)), whole)


def test_bounds_hold():
    how = Drawing("euler", threshold="static", low=-0.5, high=torch.full((4, 1), 0.25))
    windows = model().draw(8, L, how=how)
    assert windows.min().item() >= -0.5 - 1e-5 and windows.max().item() <= 0.25 + 1e-5
    windows = model().draw(8, L, how=Drawing("euler", threshold="dynamic", high=0.5))
    assert windows.abs().max().item() <= 0.5 + 1e-5


def test_averaged_weights_are_swapped_in_for_a_draw_and_the_raw_ones_come_back_bit_for_bit():
    flow = model()
    ema = WeightEMA(flow, 0.9)
    ema.update()
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.1)
    ema.update()
    raw = {k: v.clone() for k, v in flow.state_dict().items()}
    before = flow.draw(2, L)
    with ema.swapped():
        averaged = flow.draw(2, L)
    assert not torch.allclose(averaged, before)
    assert all(torch.equal(v, raw[k]) for k, v in flow.state_dict().items())
    assert torch.equal(flow.draw(2, L), before)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="guidance_dropout=2"):
        TraceFlow(model().network, Objective(), 2.0)
    with pytest.raises(UserError, match="threshold='statik'.*did you mean 'static'"):
        model().draw(1, L, how=Drawing(threshold="statik"))
    with pytest.raises(UserError, match="high=0.0: high must be above 0"):
        model().draw(1, L, how=Drawing(threshold="dynamic"))
    with pytest.raises(UserError, match="evaluations=0"):
        model().draw(1, L, how=Drawing(evaluations=0))
