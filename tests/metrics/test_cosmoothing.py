from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from raycal.config import Config
from raycal.metrics import cosmoothing
from raycal.sessions.prepare import prepare
from raycal.sessions.session import Session


@pytest.mark.parametrize("n", [2, 4, 5, 23])
def test_every_neuron_is_hidden_once_and_never_all_at_once(n):
    hidden = cosmoothing.folds(n)
    assert (hidden.sum(0) == 1).all() and not hidden.all(1).any() and hidden.any(1).all()
    assert np.array_equal(hidden, cosmoothing.folds(n))


def prepared(traces):
    return prepare([Session.build(traces=traces, rate=10.0, id="s")], Config().sessions, 16, log=lambda _: None)


def dataset(noise, n_neurons=30, n_frames=4000, factors=3, seed=0):
    rng = np.random.default_rng(seed)
    z, loadings = rng.standard_normal((n_frames, factors)), rng.standard_normal((factors, n_neurons))
    traces = z @ loadings + noise * rng.standard_normal((n_frames, n_neurons))
    return prepared(traces), loadings


def test_a_linear_model_of_as_many_latents_is_found_by_all():
    made, loadings = dataset(noise=1.0)
    found = cosmoothing.baselines(made, 3)
    assert list(found) == ["ridge", "PCA 3", "factor analysis 3"]
    # the best that can be: hidden neurons given the visible, by the true covariance, in the unit of z-scores
    variance, left = (loadings**2).sum(0) + 1.0, 0.0
    for hidden in cosmoothing.folds(30):
        seen = loadings[:, ~hidden]
        posterior = np.linalg.inv(np.eye(3) + seen @ seen.T)
        error = np.einsum("dn,de,en->n", loadings[:, hidden], posterior, loadings[:, hidden]) + 1.0
        left += (error / variance[hidden]).sum()
    best = 1.0 - left / 30
    assert found["factor analysis 3"] == pytest.approx(best, abs=0.02)
    assert best - 0.03 < found["PCA 3"] < best + 0.02 and best - 0.03 < found["ridge"] < best + 0.02


def test_the_best_size_is_that_of_the_source_and_stands_beside_the_wanted_one(monkeypatch):
    made, _ = dataset(noise=1.0)
    monkeypatch.setattr(cosmoothing, "SIZES", (1, 3, 8, 29, 64))
    sizes = cosmoothing.best_sizes(made)
    assert sizes == {"PCA": 3, "factor analysis": 3}
    found = cosmoothing.baselines(made, 29, sizes=sizes)
    assert list(found) == ["ridge", "PCA 29", "PCA 3", "factor analysis 29", "factor analysis 3"]
    assert found["PCA 29"] < 0.0 < found["PCA 3"], "24 visible neurons do not tell 29 axes"
    assert list(cosmoothing.baselines(made, 3, sizes=sizes)) == ["ridge", "PCA 3", "factor analysis 3"]


def test_independent_neurons_tell_nothing_of_each_other():
    rng = np.random.default_rng(0)
    found = cosmoothing.baselines(prepared(rng.standard_normal((4000, 12))), 2)
    assert all(value < 0.01 for value in found.values()) and abs(found["ridge"]) < 0.02


def test_values_that_were_not_measured_do_not_count():
    made, _ = dataset(noise=0.1)
    recording = made.recordings[0]
    valid = np.random.default_rng(1).random(recording.traces.shape) > 0.2
    scores = []
    for fill in (0.0, 50.0):
        traces = np.where(valid, recording.traces, np.float32(fill))
        spoiled = dataclasses.replace(recording, traces=traces, valid=valid)
        scores.append(cosmoothing.baselines(dataclasses.replace(made, recordings=(spoiled,)), 3))
    assert scores[0] == scores[1]
