from __future__ import annotations

import pytest
import torch

from raycal import models
from raycal.config import Config
from raycal.errors import UserError
from raycal.models.vae import VAE
from raycal.sessions.windows import Part

POOLINGS, BACKBONES = ["factors", "mean", "attention", "identity"], ["transformer", "convolution", "gru"]


def config(**vae):
    return Config().replace({"model.family": "vae", "model.downsample": 1, "model.width": 16, "windows.length": 8,
                             "search.objective": "cosmoothing_r2", "vae.latents": 3, "vae.identity": 6,
                             **{f"vae.{k}": v for k, v in vae.items()}})


def model(settings=None, n_neurons=(5, 4), n_behaviors=2, seed=0):
    torch.manual_seed(seed)
    made = models.build(settings or config(), n_neurons, n_behaviors)
    for parameter in made.parameters():  # so that what begins at zero takes part
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def part(session=0, n=5, b=3, length=8, valid=None, behaviors=2):
    torch.manual_seed(1)
    return Part(session, torch.randn(b, n, length), torch.randn(b, behaviors, length), valid)


def test_the_family_builds_it():
    assert isinstance(models.build(config(), [5], 2), VAE)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_reaches_neither_posterior_nor_loss_nor_gradient(pooling, backbone):
    made = model(config(pooling=pooling, backbone=backbone, window_latents=2, masking=0.3))
    valid = torch.rand(3, 5, 8) > 0.3
    valid[0, :, 6:] = False  # frames that were not recorded
    valid[1, 4] = False  # a neuron that is padding
    found = []
    for fill in (0.0, 1e4, torch.nan):
        p = part(valid=valid)
        p.traces[~valid] = fill
        torch.manual_seed(2)
        made.zero_grad()
        loss, _ = made.loss([p, part(1, 4)])
        loss.backward()
        gradient = torch.cat([q.grad.flatten() for q in made.parameters() if q.grad is not None])
        mean = made.posterior(p.traces, 0, valid).mean[valid.any(1)]
        found.append((loss.detach(), gradient, mean.detach()))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))
    assert all(x.isfinite().all() for x in found[0])


def test_evaluation_draws_nothing_and_decodes_the_mean_with_gain_and_bias():
    made, p = model(), part()
    (first,), _ = made([p])
    (second,), _ = made([p])
    assert torch.equal(first.reconstruction, second.reconstruction)
    assert torch.equal(made.decode(made.encode(p.traces, 0), 0), first.reconstruction)
    torch.nn.init.constant_(made.readings.gain_bias.bias, 1.0)
    assert not torch.allclose(made.decode(made.encode(p.traces, 0), 0), first.reconstruction)


def test_what_it_says_without_behaviour_is_of_the_traces_alone():
    made, p = model(), part()
    other = p._replace(behavior=torch.randn_like(p.behavior))
    assert torch.equal(made([p])[0][0].reconstruction, made([other])[0][0].reconstruction)
    alone = made.encode(p.traces, 0)
    assert torch.equal(made.encode(p.traces, 0, behavior=torch.full_like(p.behavior, torch.nan)), alone)
    assert not torch.allclose(made.encode(p.traces, 0, behavior=p.behavior), alone)
    assert not torch.allclose(made.decode(alone, 0, p.behavior), made.decode(alone, 0))


def test_a_behaviour_that_was_not_observed_is_as_good_as_left_out_and_zero_is_not():
    made, p = model(), part()
    half = p.behavior.clone()
    half[:, 1] = torch.nan
    zero = half.nan_to_num(0.0)
    assert not torch.allclose(made.encode(p.traces, 0, behavior=half), made.encode(p.traces, 0, behavior=zero))


def test_behaviour_is_dropped_window_by_window():
    made = model(config(behavior_dropout=0.5))
    torch.manual_seed(0)
    dropped = made._behavior_dropped(part(b=400)).behavior.isnan()
    assert torch.equal(dropped.any((1, 2)), dropped.all(2).all(1))  # whole windows
    assert 0.4 < dropped[:, 0, 0].float().mean() < 0.6  # S2 drops all of a batch or none


def test_hidden_neurons_are_hidden_for_whole_windows_and_never_all_of_them():
    made = model(config(masking=0.9), n_neurons=(2,))
    torch.manual_seed(0)
    seen = made._hidden(part(n=2, b=400)).valid
    assert torch.equal(seen[..., 0], seen.all(2)) and torch.equal(seen[..., 0], seen.any(2))
    assert seen.any(1).all() and not seen.all()


def test_the_loss_is_nats_a_value_and_a_weight_of_1_makes_the_elbo():
    made = model(config(masking=0.0, behavior_dropout=1.0))
    p = part()
    made.kl_weight = 1.0
    torch.manual_seed(3)
    total, terms = made.loss([p])
    torch.manual_seed(3)
    made._hidden(part()), made._behavior_dropped(part())  # the same draws come before
    torch.manual_seed(3)
    torch.rand(3, 1, 1), torch.rand(3, 5)
    q = made.posterior(p.traces, 0, torch.ones_like(p.traces, dtype=torch.bool))
    error = 0.5 * (p.traces - made.decode(q.sample(), 0)).square().sum((1, 2))
    elbo = -(error + q.kl().sum((1, 2))).mean()  # nats a window of 5 neurons and 8 frames
    torch.testing.assert_close(total, -elbo / 40)
    torch.testing.assert_close(terms["kl"], q.kl().sum(-1).mean())
    made.kl_weight = 0.0
    torch.manual_seed(3)
    torch.testing.assert_close(made.loss([p])[0], terms["reconstruction"])


def test_one_weight_means_the_same_for_any_number_of_neurons():
    settings = config(masking=0.0, behavior_dropout=1.0)
    for n in (5, 50):
        made = model(settings, n_neurons=(n,))
        made.kl_weight = 1.0
        torch.manual_seed(0)
        total, terms = made.loss([part(n=n)])
        torch.testing.assert_close(total - terms["reconstruction"], terms["kl"] / n)


def test_latents_of_a_window_are_the_same_in_all_its_frames_and_cost_once():
    made, p = model(config(window_latents=2)), part()
    q = made.posterior(p.traces, 0)
    assert q.mean.shape == (3, 8, 5) and torch.equal(q.mean[:, 0, 3:], q.mean[:, 7, 3:])
    torch.testing.assert_close(q.kl()[..., 3:].sum(1), q.window.kl()[:, 0])
    z, ratio = q.drawn()
    expected = q.frames.log_ratio(z[..., :3]).sum((1, 2)) + q.window.log_ratio(z[:, :1, 3:]).sum((1, 2))
    torch.testing.assert_close(ratio.sum(1), expected)


def test_sessions_of_different_size_are_encoded_together_as_alone():
    made = model()
    parts = [part(), part(1, 4)]
    for together, p in zip(made.encode_parts(parts), parts):
        torch.testing.assert_close(together.mean, made.encode(p.traces, p.session, None, p.behavior))


def test_readings_of_counts_are_not_below_0():
    settings = config().replace({"sessions.normalize": "none", "vae.reconstruction": "poisson"})
    assert (model(settings)([part()])[0][0].reconstruction >= 0).all()


def test_without_behaviour_there_is_nothing_to_condition_on():
    never, none = model(config(condition="never")), model(n_behaviors=0)
    assert never.n_behaviors == none.n_behaviors == 0
    assert never.loss([part()])[0].isfinite() and none.loss([part(behaviors=0)])[0].isfinite()
    with pytest.raises(UserError, match="vae.condition=always: no behaviour is in every session"):
        model(config(condition="always"), n_behaviors=0)


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="session 1: 3 identities for 4 neurons"):
        models.build(config(), [5, 4], 2, [["a"] * 5, ["a"] * 3])
    with pytest.raises(UserError, match="5 identities for traces of 4 neurons"):
        model().encode(torch.zeros(1, 4, 8), 0)
    with pytest.raises(UserError, match="behaviour of 3 columns: the model is conditioned on 2"):
        model().encode(torch.zeros(1, 5, 8), 0, behavior=torch.zeros(1, 3, 8))
