from __future__ import annotations

import dataclasses

import pytest
from optuna.trial import TrialState

from raycal.errors import UserError
from raycal.report.leaderboard import leaderboard, summary
from raycal.search.sameness import OUTSIDE
from raycal.search.study import open_study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def searched(run, complete):
    """A run of six complete trials and one that its driver left half way."""
    record = run.open()
    for value in (0.6, 0.5, 0.4, 0.3, 0.2, 0.1):
        complete(record, [value] * 3)
    number, _ = record.ask()
    record.epoch(number, 1, 0.7, 0.7)
    record.note_best(number, {"val/nmse": 0.7})
    run.folder.unlock()
    run.folder.lock()
    return run


def reopened(run, space, settings=None, **options):
    return open_study(run.folder, space.base.replace(settings or {}), ("minimize",), space, **options)


def changed(space, function=None, **settings):
    return dataclasses.replace(space, base=space.base.replace(settings), function=function or space.function)


def narrower(trial, base):
    kind = trial.suggest_categorical("quantizer.type", ["ema", "vq"])
    trial.suggest_int("quantizer.codebook_size", 8, 64, log=True)
    trial.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True)
    if kind == "ema":
        trial.suggest_float("quantizer.decay", 0.8, 0.99)
    return base.replace(trial.params)


def wider(trial, base):
    kind = trial.suggest_categorical("quantizer.type", ["ema", "vq", "fsq"])
    trial.suggest_int("quantizer.codebook_size", 8, 512, log=True)
    trial.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True)
    trial.suggest_int("model.width", 8, 128)
    if kind == "ema":
        trial.suggest_float("quantizer.decay", 0.8, 0.99)
    return base.replace(trial.params)


def test_the_same_space_goes_on_whatever_the_slots_the_length_and_the_sampler(searched, space):
    study = reopened(searched, space, {"search.trials": 50, "search.sampler": "tpe", "training.workers": 2,
                                       "search.pruner": "none", "training.save_every": 1.0})
    assert len(study.trials) == 7


def test_a_setting_that_came_with_a_later_raycal_was_at_its_default(searched, space):
    study = reopened(searched, space)
    known = study.user_attrs["space_of_trials"]
    older = {k: v for k, v in known["settings"].items() if not k.startswith(("vae.", "model.dropout"))}
    study.set_user_attr("space_of_trials", {**known, "settings": older})
    assert len(reopened(searched, space).trials) == 7
    with pytest.raises(UserError, match="model.dropout: 0.0 then, 0.5 now"):
        reopened(searched, changed(space, **{"model.dropout": 0.5}), {"model.dropout": 0.5})


@pytest.mark.parametrize("function, settings, words", [
    (narrower, {}, ["quantizer.codebook_size: 8 to 512 (log) then, 8 to 64 (log) now"]),
    (wider, {}, ["quantizer.type: one of ema, vq then, one of ema, vq, fsq now",
                 "model.width: not searched then, 8 to 128 now"]),
    (None, {"model.width": 8}, ["model.width: ", "then, 8 now"]),
    (None, {"training.epochs": 5}, ["training.epochs: 9 then, 5 now"]),
    (None, {"training.seed": 5}, ["training.seed: 0 then, 5 now"])])
def test_a_changed_space_is_refused_naming_what_changed(searched, space, function, settings, words):
    before = searched.folder.journal.read_bytes()
    with pytest.raises(UserError, match="--allow-space-change") as refusal:
        reopened(searched, changed(space, function, **settings))
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert searched.folder.journal.read_bytes()[:len(before)] == before


def test_what_still_fits_a_narrower_space_is_copied_with_its_number(searched, space):
    before = reopened(searched, space).trials
    study = reopened(searched, changed(space, narrower), allow_change=True)
    fits = [t.params["quantizer.codebook_size"] <= 64 for t in before]
    assert any(fits) and not all(fits)
    for old, new, fit in zip(before, study.trials, fits, strict=True):
        if fit:
            assert (new.params, new.state, new.values, new.user_attrs, new.intermediate_values) == \
                (old.params, old.state, old.values, old.user_attrs, old.intermediate_values)
            assert new.distributions["quantizer.codebook_size"].high == 64
        else:
            assert new.state == TrialState.FAIL and new.user_attrs["reason"] == OUTSIDE and not new.params
            assert new.user_attrs["earlier"]["params"] == old.params
    assert len(reopened(searched, changed(space, narrower)).trials) == 7, "it is the space of the run from here on"
    assert (searched.path / "study-1.journal").is_file() and not list(searched.path.glob(".*"))
    counted = summary(study, {})["trials"]
    assert counted["complete"] == sum(fits[:6]) and counted["failed"] == 0
    assert len(leaderboard(study).splitlines()) == 1 + sum(fits[:6])


def test_a_parameter_that_came_later_has_the_value_its_setting_had(searched, space):
    before = reopened(searched, space).trials
    study = reopened(searched, changed(space, wider), allow_change=True)
    for old, new in zip(before, study.trials, strict=True):
        assert new.params == {**old.params, "model.width": space.base.model.width} and new.state == old.state


def test_without_the_default_nothing_is_comparable(searched, space):
    before = searched.folder.journal.read_bytes()
    with pytest.raises(UserError, match="default configuration itself.*\n.*warm_start"):
        reopened(searched, changed(space, **{"model.width": 8}), allow_change=True)
    assert searched.folder.journal.read_bytes()[:len(before)] == before and not list(searched.path.glob(".*"))
