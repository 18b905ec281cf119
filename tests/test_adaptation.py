"""A VAE brought to an animal that it has never seen: only identities are its own, and labels carry them over."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from raycal import adaptation
from raycal.config import Config
from raycal.inference import Trained, restored_model
from raycal.metrics import cosmoothing
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate
from raycal.training import checkpoint
from raycal.training.evaluate import evaluate
from raycal.training.loop import train

CONFIG = Config().replace({
    "model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2", "model.width": 16,
    "windows.length": 16, "windows.batch": 16, "windows.min_steps": 4, "windows.stride": 16, "vae.latents": 6,
    "vae.identity": 12, "optimizer.lr": 1e-3, "training.epochs": 2, "training.device": "cpu"})


def animal(seed: int, n_neurons: int, relabel=lambda labels: labels):
    session = simulate(n_neurons, 2500, rate=5.0, noise=0.1, seed=seed, population=7, id=f"animal {seed}").session
    return dataclasses.replace(session, neurons=tuple(relabel(session.neurons)))


def prepared(*sessions):
    return prepare(sessions, CONFIG.sessions, 16, log=lambda _: None)


def trained(*sessions, config=CONFIG) -> Trained:
    torch.set_num_threads(1)
    state: dict = {}
    for _ in train(config, prepared(*sessions), save=state.update):
        pass
    return restored_model(checkpoint.export(state))


@pytest.fixture(scope="module")
def model():
    """Of an animal of 30 labelled neurons."""
    return trained(animal(1, 30))


def reached(model, dataset, epochs=0):
    return evaluate(adaptation.embed(model, dataset, epochs), dataset, CONFIG)["val/cosmoothing_r2"]


def test_a_shared_labelled_identity_transfers_and_a_wrong_one_does_not(model):
    """No frame of the second animal fits anything here: all of its 24 labels are known."""
    alone = cosmoothing.baselines(prepared(animal(2, 24)), 6)["factor analysis 6"]
    right = reached(model, prepared(animal(2, 24)))
    wrong = reached(model, prepared(animal(2, 24, lambda labels: np.roll(labels, 1))))
    assert alone > 0.5 and right > alone - 0.1 and wrong < 0.1


def test_unknown_neurons_are_factor_analysis_of_the_train_blocks(model):
    dataset = prepared(animal(2, 24, lambda labels: [""] * len(labels)))
    expected = cosmoothing.baselines(dataset, 6)["factor analysis 6"]
    assert reached(model, dataset) == pytest.approx(expected, abs=0.05)


def test_known_neurons_give_the_axes_of_the_unknown_ones(model):
    dataset = prepared(animal(2, 24, lambda labels: [*labels[:12], *[""] * 12]))
    expected = cosmoothing.baselines(dataset, 6)["factor analysis 6"]
    assert reached(model, dataset) == pytest.approx(expected, abs=0.05)


def test_fewer_neurons_than_factors_are_no_obstacle(model):
    assert reached(model, prepared(animal(2, 4, lambda labels: [""] * 4)), epochs=1) > 0.0


def test_only_identities_are_fitted_and_only_to_train_blocks(model):
    dataset = prepared(animal(2, 24, lambda labels: [""] * 24))
    fitted, again = adaptation.embed(model, dataset, 1), adaptation.embed(model, spoiled(dataset), 1)
    before, after = model.model.state_dict(), fitted.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])
            if before[name].shape == after[name].shape} == set() and after["identities.rows"].shape == (24, 12)
    assert not torch.equal(after["identities.rows"], adaptation.embed(model, dataset, 0).identities.rows)
    assert torch.equal(after["identities.rows"], again.identities.rows)


def spoiled(dataset):
    """Return the dataset with other validation frames."""
    recording = dataset.recordings[0]
    traces = recording.traces.copy()
    for start, stop in recording.pieces["validation"]:
        traces[start:stop] = 9.0
    return dataclasses.replace(dataset, recordings=(dataclasses.replace(recording, traces=traces),))


def test_fitting_corrects_identities_that_are_wrong(model):
    dataset = prepared(animal(2, 24, lambda labels: np.roll(labels, 1)))
    adaptation_lr = {"optimizer.lr": 3e-2, "training.epochs": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "EMBEDDING", {**adaptation.EMBEDDING, **adaptation_lr})
        assert reached(model, dataset, epochs=8) > reached(model, dataset) + 0.2


@pytest.mark.parametrize("change", [{"vae.pooling": "identity"}, {"vae.reconstruction": "poisson",
                                                                  "sessions.normalize": "none"}])
def test_other_models_are_brought_to_another_animal_too(change):
    config = CONFIG.replace(change)
    sessions = [dataclasses.replace(s, traces=np.maximum(s.traces, 0.0)) for s in (animal(1, 30), animal(2, 24))]
    first, second = (prepare([s], config.sessions, 16, log=lambda _: None) for s in sessions)
    state: dict = {}
    for _ in train(config, first, save=state.update):
        pass
    model = restored_model(checkpoint.export(state))
    values = [evaluate(adaptation.embed(model, second, epochs), second, config)["val/cosmoothing_r2"]
              for epochs in (0, 1)]
    assert np.isfinite(values).all()
