from __future__ import annotations

import numpy as np
import pytest
import torch

from raycal import models
from raycal.config import Config
from raycal.metrics import codebook
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate
from raycal.training.codes import code_rates, steps
from raycal.training.evaluate import evaluate

TYPES = {"ema": {}, "grvq": {"quantizer.groups": 2, "quantizer.levels": 2}, "rvq": {"quantizer.levels": 3},
         "fsq": {}, "lfq": {}}


@pytest.fixture(scope="module")
def dataset():
    sessions = [simulate(n_neurons=n, n_frames=1130, rate=rate, seed=n).session for n, rate in ((6, 5.0), (9, 10.0))]
    return prepare(sessions, Config().sessions, 16, log=lambda _: None)


def made(dataset, **settings):
    config = Config().replace({"quantizer.codebook_size": 16, "quantizer.code_dim": 8, "model.width": 16,
                               "model.residual_blocks": 0, "windows.length": 16, "model.downsample": 4, **settings})
    torch.manual_seed(0)
    return models.build(config, dataset.n_neurons, len(dataset.behavior_names)), config


@pytest.mark.parametrize("kind", TYPES)
def test_steps_are_those_that_evaluate_counts(dataset, kind):
    model, config = made(dataset, **{"quantizer.type": kind, **TYPES[kind]})
    found, metrics = steps(model, dataset, config), evaluate(model, dataset, config)
    sizes = model.quantizer.codebook_sizes
    for c, (column, size) in enumerate(zip(found.indices.T, sizes, strict=True)):
        assert codebook.entropy_bits(codebook.count(column, size)) == pytest.approx(metrics[f"val/entropy/{c}"])
    rates = code_rates(steps(model, dataset, config, "train"), found, dataset, config)
    assert rates["entropy_bits_per_second"] == pytest.approx(metrics["val/bits_per_second"])
    assert len(rates["codebooks"]) == len(sizes)
    with torch.inference_mode():
        again = model.quantizer.lookup(torch.tensor(found.indices)[None])[0]
    np.testing.assert_allclose(again, found.quantized, atol=1e-5)


def test_steps_lie_in_time_and_runs_end_with_their_piece(dataset):
    model, config = made(dataset, **{"windows.length": 15})  # a last step of 3 frames; windows are moved back
    found = steps(model, dataset, config)
    pieces = [run for r in dataset.recordings for run in r.pieces["validation"]]
    assert [len(run) for run in found.runs()] == np.bincount(found.piece).tolist() and len(found.runs()) == len(pieces)
    assert (np.diff(found.seconds) > 0).all() and (np.diff(found.session) >= 0).all()
    seconds = sum(b - a for a, b in dataset.recordings[0].pieces["validation"]) / dataset.recordings[0].rate
    first = found.seconds[found.session == 1][0]
    assert first == pytest.approx(seconds, abs=0.5) and found.seconds[0] == 0.0


def test_behavior_is_that_of_the_middle_frame(dataset):
    model, config = made(dataset)
    found, recording = steps(model, dataset, config), dataset.recordings[0]
    a, b = recording.pieces["validation"][0]
    np.testing.assert_array_equal(found.behavior[0], recording.behavior[a + 1])
    np.testing.assert_array_equal(found.behavior[3], recording.behavior[a + 13])


def test_levels_that_repeat_the_first_cost_nothing_given_it(dataset):
    model, config = made(dataset, **{"quantizer.type": "rvq", "quantizer.levels": 2})
    train, held_out = steps(model, dataset, config, "train"), steps(model, dataset, config)
    train, held_out = (s._replace(indices=s.indices[:, [0, 0]]) for s in (train, held_out))
    rates = code_rates(train, held_out, dataset, config)
    first, second = rates["codebooks"]
    assert second["independent"] == pytest.approx(first["independent"])
    assert second["joint"] < 0.2 * second["independent"] and first["joint"] == first["independent"]
    assert rates["nominal_bits_per_second"] == pytest.approx(models.bits_per_second(config, 20 / 3), rel=0.2)
