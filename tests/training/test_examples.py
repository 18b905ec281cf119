from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from raycal.training.examples import beside, portrait


def test_what_is_shown_of_windows_is_what_they_are():
    steps = np.arange(32)
    x = np.random.default_rng(0).standard_normal((200, 3, 32)) * 1e-3
    x[:, 0] += np.sqrt(2.0) * np.sin(2 * np.pi * 8 * steps / 32 + np.arange(200)[:, None])
    x[:, 1] += x[:, 0]
    x[:, 2] -= x[:, 0]
    found = portrait(x, np.array([2]), np.arange(3))
    assert found["decibels"].argmax() == 8
    np.testing.assert_allclose(found["correlations"], [[1, 1, -1], [1, 1, -1], [-1, -1, 1]], atol=1e-3)
    np.testing.assert_allclose(found["windows"][0, 0], x[0, 2], rtol=1e-5)
    assert found["windows"].shape == (4, 1, 32)


def test_a_checkpoint_holds_few_neurons_and_frames_of_both_alike():
    rng = np.random.default_rng(0)
    real, drawn = (rng.standard_normal((20, 100, 300)) * np.arange(1, 101)[:, None] for _ in range(2))
    recording = SimpleNamespace(id="s", rate=10.0, neurons=tuple(f"n{i}" for i in range(100)))
    found = beside(recording, real, drawn)
    assert found["labels"] == [f"n{i}" for i in range(94, 100)] and found["length"] == 300
    for key in ("real", "drawn"):
        assert found[key]["windows"].shape == (4, 6, 128) and found[key]["correlations"].shape == (48, 48)
        assert found[key]["decibels"].shape == (151,)
    assert sorted(found["shown"]) == np.linspace(0, 99, 48).round().astype(int).tolist()
    assert sum(x.nbytes for key in ("real", "drawn") for x in found[key].values()) < 2**16


def test_neurons_that_go_together_stand_together():
    rng = np.random.default_rng(0)
    sign = np.array([1.0, -1.0] * 10)
    real = rng.standard_normal((50, 1, 16)) * sign[:, None] + 0.1 * rng.standard_normal((50, 20, 16))
    found = beside(SimpleNamespace(id="s", rate=1.0, neurons=("",) * 20), real, real)
    assert np.abs(np.diff(sign[found["shown"]])).sum() == 2.0
    assert found["real"]["correlations"][0, 1] == pytest.approx(1.0, abs=0.1)
