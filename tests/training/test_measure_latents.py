from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from raycal import models
from raycal.config import Config
from raycal.metrics import cosmoothing
from raycal.sessions.prepare import prepare
from raycal.sessions.session import Session
from raycal.training import start_vae
from raycal.training.evaluate import measure


@pytest.fixture(scope="module")
def settings():
    return Config().replace({"model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2",
                             "model.width": 16, "windows.length": 16, "vae.latents": 3, "vae.identity": 8})


@pytest.fixture(scope="module")
def dataset():
    """Two sessions of three factors, of which the first is the behaviour."""
    rng, sessions = np.random.default_rng(0), []
    for i, n in enumerate((20, 14)):
        z = rng.standard_normal((1500, 3))
        traces = z @ rng.standard_normal((3, n)) + 0.7 * rng.standard_normal((1500, n))
        sessions.append(Session.build(traces=traces, rate=5.0, id=f"s{i}", behavior=z[:, :1], behavior_names=["z"]))
    return prepare(sessions, Config().sessions, 16, log=lambda _: None)


def made(settings, dataset, started=True):
    torch.manual_seed(0)
    model = models.build(settings, dataset.n_neurons, 1, dataset.neurons)
    if started:
        start_vae.start(model, dataset, settings)
    return model


@pytest.fixture(scope="module")
def found(settings, dataset):
    return measure(made(settings, dataset), dataset, settings)


def test_at_its_start_it_is_factor_analysis(found, dataset):
    expected = cosmoothing.baselines(dataset, 3)["factor analysis 3"]
    assert found.metrics["val/cosmoothing_r2"] == pytest.approx(expected, abs=1e-4)


def test_hidden_neurons_to_draw_are_what_the_others_say_and_stand_by_their_r2(found, settings, dataset):
    hidden, model = found.arrays["hidden"], made(settings, dataset)
    assert [r2.shape for r2 in hidden["r2"]] == [(20,), (14,)] and hidden["session"] == "s0"
    neurons = hidden["neurons"]
    assert len(set(neurons.tolist())) == 6 and (np.diff(hidden["scores"]) <= 0).all()
    assert np.array_equal(hidden["scores"], hidden["r2"][0][neurons])
    assert hidden["scores"][0] == hidden["r2"][0].max() and hidden["scores"][-1] == hidden["r2"][0].min()
    recording = dataset.recordings[0]
    (first, _), (center, spread) = recording.pieces["validation"][0], recording.scalers["zscore"]
    x = torch.from_numpy((recording.traces[first:first + 16] - center) / spread).T[None]
    n = int(neurons[2])
    seen = torch.tensor(~next(f for f in cosmoothing.folds(20) if f[n]))[None, :, None].expand_as(x)
    with torch.no_grad():
        said = model.decode(model.encode(x, 0, seen), 0)[0, n]
    np.testing.assert_allclose(hidden["reconstruction"][0, 2], said, atol=1e-5)
    np.testing.assert_allclose(hidden["target"][0, 2], x[0, n], atol=1e-5)


def test_pooled_r2_is_that_of_the_neurons_weighed_by_their_deviation(found, dataset):
    error = deviation = 0.0
    for recording, r2 in zip(dataset.recordings, found.arrays["hidden"]["r2"]):
        (center, spread), rows = recording.scalers["zscore"], recording.pieces["validation"]
        away = sum((((recording.traces[a:b] - center) / spread) ** 2).sum(0) for a, b in rows)
        error, deviation = error + ((1 - r2) * away).sum(), deviation + away.sum()
    assert found.metrics["val/cosmoothing_r2"] == pytest.approx(1 - error / deviation, abs=1e-4)


def test_the_aggregate_posterior_of_factor_analysis_is_its_prior(found):
    """At its maximum the posteriors of all train frames together have mean 0 and variance 1."""
    latents = found.arrays["latents"]
    assert np.abs(latents["mean"]).max() < 0.02 and latents["sd"] == pytest.approx([1.0] * 3, abs=0.03)
    assert (latents["moved"] < latents["sd"] ** 2).all() and (latents["moved"] > 0.5).all()


def test_sessions_that_share_neurons_start_near_it_too(settings):
    """The same loadings in both; factors of each are found up to a turn that would spoil the other's."""
    rng, sessions = np.random.default_rng(1), []
    loadings = rng.standard_normal((3, 20))
    for i, n in enumerate((20, 14)):
        traces = rng.standard_normal((3000, 3)) @ loadings[:, :n] + 0.7 * rng.standard_normal((3000, n))
        sessions.append(Session.build(traces=traces, rate=5.0, id=f"s{i}", neurons=[f"n{k}" for k in range(n)]))
    dataset = prepare(sessions, Config().sessions, 16, log=lambda _: None)
    torch.manual_seed(0)
    model = models.build(settings, dataset.n_neurons, 0, dataset.neurons)
    start_vae.start(model, dataset, settings)
    assert len(model.identities.rows) == 20
    expected = cosmoothing.baselines(dataset, 3)["factor analysis 3"]
    assert measure(model, dataset, settings).metrics["val/cosmoothing_r2"] == pytest.approx(expected, abs=0.01)


def test_loadings_are_turned_to_the_axes_that_known_neurons_have():
    generator = torch.Generator().manual_seed(0)
    loadings = torch.randn(9, 3, generator=generator)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    known = torch.arange(9) < 4
    others = torch.where(known[:, None], loadings @ turn, torch.nan)
    torch.testing.assert_close(start_vae.turned(loadings, others, known), loadings @ turn)
    assert torch.equal(start_vae.turned(loadings, others, torch.zeros(9, dtype=torch.bool)), loadings)


@pytest.mark.parametrize("pooling", ["mean", "attention", "identity"])
def test_other_poolings_start_near_it(pooling, settings, dataset):
    settings = settings.replace({"vae.pooling": pooling})
    expected = cosmoothing.baselines(dataset, 3)["factor analysis 3"]
    metrics = measure(made(settings, dataset), dataset, settings).metrics
    assert expected - 0.1 < metrics["val/cosmoothing_r2"] < expected + 0.01


def test_a_loss_of_counts_starts_at_random(settings, dataset):
    settings = settings.replace({"sessions.normalize": "none", "vae.reconstruction": "poisson"})
    recordings = [dataclasses.replace(r, traces=np.abs(r.traces)) for r in dataset.recordings]
    dataset = dataclasses.replace(dataset, recordings=tuple(recordings))
    before, after = made(settings, dataset, False), made(settings, dataset)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters()))


def test_the_objective_is_that_of_neurons_hidden_from_the_model(settings, dataset, found):
    model, errors, deviations = made(settings, dataset).eval(), 0.0, 0.0
    for s, recording in enumerate(dataset.recordings):
        center, spread = recording.scalers["zscore"]
        for a, b in recording.pieces["validation"]:
            for first in range(a, b, 16):  # no window overlaps: its latents know no other frame
                rows = slice(min(first, b - 16), min(first, b - 16) + 16)
                x = torch.from_numpy((recording.traces[rows] - center) / spread).T[None]
                fresh = first - rows.start
                for hidden in cosmoothing.folds(x.shape[1]):
                    spoiled = x.clone()
                    spoiled[:, hidden] = torch.nan
                    seen = torch.from_numpy(~hidden)[None, :, None].expand_as(x)
                    said = model.decode(model.encode(spoiled, s, seen), s)
                    errors += float((said - x)[0, hidden, fresh:].detach().square().sum())
                    deviations += float(x[0, hidden, fresh:].square().sum())
    assert found.metrics["val/cosmoothing_r2"] == pytest.approx(1 - errors / deviations, abs=1e-5)


def test_measuring_twice_is_the_same_and_leaves_the_random_state_alone(settings, dataset, found):
    torch.manual_seed(5)
    again = measure(made(settings, dataset), dataset, settings)
    state = torch.random.get_rng_state()
    assert {k: v for k, v in again.metrics.items()} == found.metrics
    measure(made(settings, dataset), dataset, settings)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nothing_but_the_metric_that_says_so_is_told_the_behaviour(settings, dataset, found):
    rng = np.random.default_rng(3)
    model = made(settings, dataset)
    torch.nn.init.normal_(model.behavior_in.weight)
    other = dataclasses.replace(dataset, recordings=tuple(
        dataclasses.replace(r, behavior=rng.permutation(r.behavior)) for r in dataset.recordings))
    told = {k for k, v in measure(model, other, settings).metrics.items() if v != found.metrics[k]}
    assert told == {k for k in found.metrics if "behavior" in k}
    assert found.metrics["val/behavior_r2"] > 0.7  # the first factor is decoded from latents of traces alone


def test_bounds_meet_the_exact_likelihood_of_a_linear_model(found, settings, dataset):
    """At its start decoding is linear, so log p(x) under the noise that was measured is a Gaussian's."""
    metrics = found.metrics
    assert metrics["val/elbo"] == pytest.approx(-metrics["val/rate"] - metrics["val/distortion"])
    assert metrics["val/elbo"] < metrics["val/iwae"]
    model, total, frames = made(settings, dataset).eval(), 0.0, 0
    noise = _noise(model, dataset)
    for s, recording in enumerate(dataset.recordings):
        center, spread = recording.scalers["zscore"]
        loadings = model.readings.loading(model.identities(s)).detach().double()[:, :3]
        covariance = loadings @ loadings.T + torch.tensor(noise[s]).diag()
        normal = torch.distributions.MultivariateNormal(torch.zeros(len(covariance)).double(), covariance)
        for a, b in recording.pieces["validation"]:
            total += float(normal.log_prob(torch.from_numpy((recording.traces[a:b] - center) / spread).double()).sum())
            frames += b - a
    assert metrics["val/iwae"] == pytest.approx(total / frames, abs=0.1) and metrics["val/iwae"] < total / frames + 0.02


def _noise(model, dataset):
    """Return the mean squared error on train of a draw, exactly: residual of the mean, plus what the posterior adds."""
    found = []
    with torch.no_grad():
        for s, recording in enumerate(dataset.recordings):
            center, spread = recording.scalers["zscore"]
            rows = np.concatenate([np.arange(a, b) for a, b in recording.pieces["train"]])
            x = torch.from_numpy((recording.traces[rows] - center) / spread).T[None]
            q = model.posterior(x, s)
            loadings = model.readings.loading(model.identities(s))[:, :3]
            added = (loadings.square() * q.frames.log_variance.exp().mean((0, 1))).sum(1)
            found.append(((x - model.decode(q.mean, s)).square().mean((0, 2)) + added).double().numpy())
    return found


def test_active_units_are_those_whose_mean_varies(settings, dataset):
    model = made(settings, dataset)
    with torch.no_grad():
        model.frames_linear.weight[1] = 0.0
    metrics = measure(model, dataset, settings).metrics
    assert metrics["val/active_units"] == 2 and metrics["val/active_share"] == pytest.approx(2 / 3)


def test_kl_of_each_latent_is_kept_to_draw(found):
    assert found.arrays["kl"].shape == (3,)
    assert found.arrays["kl"].sum() == pytest.approx(found.metrics["val/rate"], rel=1e-5)
    assert not math.isnan(found.metrics["val/r"])


def test_scores_do_not_depend_on_the_normalisation_a_model_sees(settings, dataset, found):
    """The same function of the raw traces, in other units, has the same figures."""
    raw = settings.replace({"sessions.normalize": "none"})
    model = made(settings, dataset)
    torch.manual_seed(0)
    other = models.build(raw, dataset.n_neurons, 1, dataset.neurons)
    start_vae.start(other, dataset, raw)
    sums = [measure(m, dataset, s).metrics for m, s in ((model, settings), (other, raw))]
    assert set(sums[0]) == set(sums[1]) and all(np.isfinite(list(m.values())).all() for m in sums)


def test_latents_of_windows_have_a_bound_too(settings, dataset):
    settings = settings.replace({"vae.window_latents": 2})
    metrics = measure(made(settings, dataset), dataset, settings).metrics
    assert metrics["val/elbo"] <= metrics["val/iwae"] < 0
