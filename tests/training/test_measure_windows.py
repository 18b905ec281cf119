from __future__ import annotations

import numpy as np
import pytest
import torch

from raycal import models
from raycal.config import Config
from raycal.metrics.real_windows import DRAWS, real_windows
from raycal.models.flow.wiener import Wiener
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate
from raycal.training import loop, measure_windows, start_diffusion
from raycal.training.ema import WeightEMA
from raycal.training.evaluate import measure

L = 16


@pytest.fixture(scope="module")
def settings():
    return Config().replace({"model.family": "diffusion", "search.objective": "generation", "model.width": 16,
                             "model.downsample": 2, "diffusion.heads": 2, "diffusion.embedding": 16,
                             "diffusion.evaluations": 4, "windows.length": L, "windows.min_steps": 4,
                             "windows.batch": 16, "windows.stride": 64, "training.epochs": 3, "optimizer.ema": 0.9,
                             "optimizer.lr": 1e-3, "training.device": "cpu"})


@pytest.fixture(scope="module")
def dataset():
    recordings = [simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=n, id=f"s{n}").session for n in (12, 9)]
    return prepare(recordings, Config().sessions, L, log=lambda _: None)


def made(settings, dataset, started=True):
    torch.manual_seed(0)
    model = models.build(settings, dataset.n_neurons, len(dataset.behavior_names), dataset.neurons)
    if started:
        start_diffusion.start(model, dataset, settings)
    return model


def untimed(epoch):
    return {k: v for k, v in epoch.metrics.items() if k != "seconds"}


def test_it_begins_as_the_linear_denoiser_of_each_session(settings, dataset):
    model, own = made(settings, dataset), Wiener(made(settings, dataset).objective.process, dataset.n_neurons, L)
    for session, real in enumerate(real_windows(dataset, L)):
        windows = torch.from_numpy(real.train)
        own.fit(session, windows)
        t = torch.full((len(windows),), 0.3)
        with torch.no_grad():
            torch.testing.assert_close(model.network(windows, t, None, session), own(windows, t, session),
                                       atol=1e-4, rtol=1e-4)


def test_without_a_base_it_begins_at_nothing(settings, dataset):
    model = made(settings.replace({"diffusion.base": 0}), dataset)
    x = torch.randn(3, 12, L)
    with torch.no_grad():
        assert not model.network(x, torch.full((3,), 0.5)).any()


def test_what_is_reported_is_what_the_real_windows_say_of_a_draw(settings, dataset):
    model = made(settings, dataset)
    found = measure(model, dataset, settings).metrics
    each = []
    for session, real in enumerate(real_windows(dataset, L)):
        with torch.no_grad():
            each += [real.figures(model.draw(real.n, L, session, None, measure_windows.drawing(settings), seed).numpy())
                     for seed in range(DRAWS)]
    for name in ("generation", "generation/events", "c2st", "memorisation"):
        assert found[f"val/{name}"] == pytest.approx(sum(f[name] for f in each) / (2 * DRAWS), rel=1e-4)
    groups = [v for k, v in found.items() if k.startswith("val/generation/")]
    assert len(groups) == 6 and found["val/generation"] == pytest.approx(sum(groups) / 6)
    assert found["val/evaluations"] == 4.0 and found["val/memorised"] == 0.0
    assert 0.0 < found["val/flow"] < 2.0 and found["val/behavior_r2"] < found["val/behavior_r2_real"] <= 1.0


@pytest.mark.parametrize("normalize", ["robust", "minmax"])
def test_the_unit_that_a_model_is_trained_in_does_not_show(normalize, settings, dataset):
    """A network that answers with windows it was told, in its own unit."""
    real = real_windows(dataset, L)[0]
    recording = dataset.recordings[0]
    (center, spread), (mean, sd) = ([v[:, None] for v in recording.scalers[k]] for k in (normalize, "zscore"))
    own = (real.held_out * sd + mean - center) / spread

    class Told(torch.nn.Module):
        def draw(self, n, *_):
            return torch.from_numpy(own[:n].astype(np.float32))

    drawn = measure_windows._drawn(Told(), dataset, settings.replace({"sessions.normalize": normalize}), 0, real.n)
    np.testing.assert_allclose(drawn, real.held_out, atol=1e-4)


def test_it_trains_and_a_resumed_run_goes_on_exactly(settings, dataset):
    states: list = []
    whole = [untimed(e) for e in loop.train(settings, dataset, save=states.append)]
    assert whole[-1]["val/flow"] < whole[0]["val/flow"]
    last: list = []
    assert [untimed(e) for e in loop.train(settings, dataset, resume=states[0], save=last.append)] == whole[1:]
    assert all(torch.equal(v, last[-1]["model"][k]) for k, v in states[-1]["model"].items())


def test_it_is_judged_by_averaged_weights_and_trained_on_with_its_own(settings, dataset, monkeypatch):
    judged: list = []

    def noting(model, *_):
        judged.append({k: v.clone() for k, v in model.named_parameters()})
        return {"generation": 1.0 + len(judged)}, {}

    monkeypatch.setattr(measure_windows, "measure", noting)
    states: list = []
    averages: list = []
    original = WeightEMA.state_dict
    monkeypatch.setattr(WeightEMA, "state_dict", lambda self: averages.append(original(self)) or averages[-1])
    list(loop.train(settings.replace({"training.epochs": 2}), dataset, save=states.append))
    names = [k for k, _ in made(settings, dataset).named_parameters()]
    for at, (weights, state, average) in enumerate(zip(judged, states, averages)):
        assert all(torch.equal(weights[k], a) for k, a in zip(names, average["average"]))
        assert any(not torch.equal(weights[k], state["model"][k]) for k in names)  # its own came back
        assert all(torch.equal(states[0]["best"]["model"][k], judged[0][k]) for k in names), at


def test_a_model_that_draws_copies_ends_as_memorising(settings, dataset, monkeypatch):
    train = [real.train for real in real_windows(dataset, L)]

    def copying(model, dataset, config, session, n, behavior=None, seed=0):
        return train[session][np.linspace(0, len(train[session]) - 1, n).astype(int)]

    first, *others = loop.train(settings, dataset)
    assert not first.ended_by and len(others) == 2
    monkeypatch.setattr(measure_windows, "_drawn", copying)
    [epoch] = loop.train(settings, dataset)
    assert epoch.ended_by == "memorised" and epoch.done and epoch.best_epoch == 0
    assert epoch.metrics["val/copied"] == 1.0 and np.isfinite(epoch.objective)


def test_the_objective_does_not_hold_what_the_loss_weighs(settings, dataset):
    frozen = settings.replace({"optimizer.lr": 1e-8, "training.epochs": 1, "optimizer.weight_decay": 0.0})
    values = [next(loop.train(frozen.replace(change), dataset)).objective for change in (
        {}, {"diffusion.weighting": "min_snr"}, {"diffusion.times": "mode"}, {"diffusion.guidance_dropout": 0.9},
        {"windows.batch": 8})]
    assert values == pytest.approx([values[0]] * len(values), rel=1e-2)


@pytest.mark.parametrize("changes", [
    {"diffusion.target": "x0", "diffusion.path": "cosine", "diffusion.weighting": "min_snr"},
    {"diffusion.target": "epsilon", "diffusion.prior": "heavy_tailed", "diffusion.weighting": "learned"},
    {"diffusion.target": "v", "diffusion.prior": "mixed", "diffusion.times": "uniform", "diffusion.sampler": "ddim"},
    {"diffusion.core": "dit", "diffusion.base": 0, "sessions.mode": "pad", "sessions.normalize": "robust"},
    {"diffusion.heads": 0, "diffusion.guidance": 2.0, "diffusion.sampler": "midpoint", "model.downsample": 8}])
def test_every_choice_trains(changes, settings, dataset):
    config = settings.replace({**changes, "training.epochs": 1})
    ready = prepare([simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=n, id=f"s{n}").session for n in (12, 9)],
                    config.sessions, L, log=lambda _: None) if "sessions.mode" in changes else dataset
    [epoch] = loop.train(config, ready)
    assert np.isfinite(epoch.objective)
