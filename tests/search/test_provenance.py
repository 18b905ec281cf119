from __future__ import annotations

import optuna

from raycal.search.connection import Slots
from raycal.search.provenance import note, of_trial


def slots(count=2, use_gpu=False):
    return Slots(count, 1, {"CPU": 1.0}, use_gpu)


def test_surroundings_are_noted_where_they_change_with_the_first_trial_trained_in_them():
    study = optuna.create_study()
    study.enqueue_trial({})
    note(study, slots())
    study.add_trial(optuna.trial.create_trial(value=1.0))
    note(study, slots(3))
    assert [e["from_trial"] for e in study.user_attrs["environments"]] == [0], "what waits was trained nowhere yet"
    note(study, slots(use_gpu=True))
    first, second = study.user_attrs["environments"]
    assert second["from_trial"] == 1 and of_trial(study, 0) == first["environment"]
    assert of_trial(study, 1)["device"] == "cuda" and of_trial(study, 0)["device"] == "cpu"
    assert {"torch", "numpy", "ray", "python", "processor"} <= set(first["environment"])
    assert study.user_attrs["slots"] == [2, 3, 2]


def test_trials_from_before_surroundings_were_noted_have_none():
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=1.0))
    note(study, slots())
    assert of_trial(study, 0) == {} and of_trial(study, 1)["device"] == "cpu"
