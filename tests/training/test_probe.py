from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from raycal.sessions.agreement import agree, sketch, with_validation
from raycal.sessions.prepare import assemble, record
from raycal.training.loop import train
from raycal.training.probe import probe


@pytest.fixture(scope="module")
def joined(small, recordings):
    """Train and validation as one, without a validation part."""
    agreement = with_validation(agree([sketch(s, small.sessions) for s in recordings], small.sessions, 16))
    return assemble(agreement, [record(s, small.sessions, agreement, i, ("train",)) for i, s in enumerate(recordings)])


def test_a_probe_steps_every_corner_and_names_what_cannot_be_trained(small, dataset):
    corners = [{}, {"model.width": 32}, {"windows.length": 512}, {"quantizer.type": "vq"}]
    epoch, = probe(small, dataset, corners=corners)
    default, wide, long, other = epoch.extras["corners"]
    assert epoch.done and epoch.extras["host"] > 2**26 and epoch.extras["gpu"] == 0
    assert "windows.length=512 does not fit" in long["error"]
    for found in (default, wide, other):
        assert found["step"] > 0
    assert default["judging"] > 0 and math.isnan(wide["judging"]), "the first alone is judged"


def test_the_steps_of_a_probe_are_those_of_an_epoch(small, dataset):
    from raycal.sessions.windows import WindowSampler

    epoch, = probe(small, dataset, corners=[{}, {"windows.batch": 8}])
    for found, batch in zip(epoch.extras["corners"], (16, 8)):
        windows = dataclasses.replace(small.windows, batch=batch)
        assert found["steps"] == WindowSampler(dataset, windows, "zscore").steps_per_epoch


def test_validation_frames_become_train_frames_and_nothing_is_left_to_choose_by(small, dataset, joined):
    for before, after in zip(dataset.recordings, joined.recordings):
        frames = {part: sum(b - a for a, b in before.pieces[part]) for part in ("train", "validation")}
        assert set(after.pieces) == {"train"} and len(after.traces) == sum(frames.values())
        assert not (after.scalers["zscore"][0] == before.scalers["zscore"][0]).all(), "scalers see both parts"
    assert joined.fingerprint == dataset.fingerprint


def test_a_training_of_known_length_ends_there_with_those_weights(small, joined):
    states: list = []
    epochs = list(train(small, joined, until=3, save=states.append))
    assert [e.epoch for e in epochs] == [1, 2, 3] and epochs[-1].ended_by == "epochs" and epochs[-1].best_epoch == 3
    assert not [name for e in epochs for name in e.metrics if name.startswith("val/")]
    last, best = states[-1]["model"], states[-1]["best"]["model"]
    assert all(torch.equal(best[name], last[name]) for name in last)


def test_the_learning_rate_keeps_the_course_of_the_whole_training(small, dataset):
    whole, cut = ([e.metrics["lr"] for e in train(small, dataset, until=until)] for until in (0, 3))
    assert cut == whole[:3]


