from __future__ import annotations

import copy
import math
import pickle

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from raycal.search.parcel import Parcel
from raycal.search.scheduler import TEARS, Asker, Halter, Referee, Stopper


class Heard:
    """A listener that writes down what it hears."""

    def __init__(self):
        self.words = []

    def on_start(self, number, config):
        self.words.append(("start", number))

    def on_epoch(self, number, event):
        self.words.append(("epoch", number, event["epoch"]))

    def on_end(self, number, event, trial):
        self.words.append(("end", number, trial.state))


@pytest.fixture
def referee(run):
    return make(run.open())


def make(record, objectives=("val/nmse",), **options):
    referee = Referee(record, lambda number, config: {"config": config.flat()}, list(objectives), [Heard()], **options)
    referee.heard = referee._listeners[0].words
    return referee


def ended(referee, number):
    return referee.record.study.get_trials(deepcopy=False)[number]


def result(number, event):
    """What Tune hands on of a trainable's result."""
    return {"number": number, "event": Parcel(event)}


def test_a_full_trial_is_complete_with_the_value_and_metrics_of_its_best_epoch(referee, event):
    started = referee.start()
    assert started["number"] == 0 and started["payload"]["config"]["training.epochs"] == 9
    assert not referee.epoch(0, event(1, 0.9))
    assert not referee.epoch(0, event(2, 0.4))
    referee.end(0, event(3, 0.6, best=(2, 0.4), done=True))
    trial = ended(referee, 0)
    assert trial.state == TrialState.COMPLETE and trial.value == 0.4
    facts = trial.user_attrs
    assert (facts["ended_by"], facts["best_epoch"], facts["epochs"]) == ("epochs", 2, 3) and "reason" not in facts
    assert facts["metrics"] == {"val/nmse": 0.4, "at": 2.0}
    assert facts["objective_by_epoch"] == [[1, 0.9], [2, 0.4], [3, 0.6]]
    assert referee.heard == [("start", 0), ("epoch", 0, 1), ("epoch", 0, 2), ("epoch", 0, 3),
                             ("end", 0, TrialState.COMPLETE)]


def test_patience_ends_a_trial_as_complete(referee, event):
    referee.start()
    referee.end(0, event(1, 0.4, done=True, ended_by="patience"))
    assert ended(referee, 0).state == TrialState.COMPLETE and ended(referee, 0).user_attrs["ended_by"] == "patience"


def test_a_diverged_trial_is_pruned_with_its_reason_and_what_it_had_shown(referee, event):
    referee.start()
    referee.epoch(0, event(1, 0.8))
    referee.end(0, event(2, math.nan, best=(1, 0.8), done=True, ended_by="diverged"))
    trial = ended(referee, 0)
    assert trial.state == TrialState.PRUNED and trial.value == 0.8
    assert trial.user_attrs["reason"] == "diverged" and trial.user_attrs["metrics"]["at"] == 1.0
    assert trial.user_attrs["objective_by_epoch"] == [[1, 0.8], [2, "nan"]]


def test_a_model_that_copies_its_train_windows_is_pruned_with_that_reason(referee, event):
    referee.start()
    referee.epoch(0, event(1, 0.8))
    referee.end(0, event(2, 0.1, best=(1, 0.8), done=True, ended_by="memorised"))
    trial = ended(referee, 0)
    assert (trial.state, trial.value, trial.user_attrs["reason"]) == (TrialState.PRUNED, 0.8, "memorised")


def test_a_trial_that_diverges_at_once_is_pruned_without_a_value(referee, event):
    referee.start()
    referee.end(0, event(1, math.nan, best=(0, math.nan), done=True, ended_by="diverged"))
    trial = ended(referee, 0)
    assert (trial.state, trial.value, trial.user_attrs["metrics"]) == (TrialState.PRUNED, None, {})


def test_a_full_trial_whose_best_is_nan_does_not_complete(referee, event):
    referee.start()
    referee.end(0, event(1, math.nan, best=(0, math.nan), done=True))
    assert ended(referee, 0).state == TrialState.PRUNED


@pytest.mark.parametrize("kind, state", [("oom", TrialState.PRUNED), ("error", TrialState.FAIL),
                                         ("hang", TrialState.FAIL)])
def test_trouble_is_told_with_its_reason_and_message(referee, event, kind, state):
    referee.start()
    referee.epoch(0, event(1, 0.5))
    referee.end(0, {"kind": kind, "message": "Traceback ...\nValueError: thirteen", "memory": 123})
    facts = ended(referee, 0).user_attrs
    assert ended(referee, 0).state == state and facts["reason"] == kind
    assert facts["message"].endswith("ValueError: thirteen") and facts["memory"] == 123
    assert facts["best_epoch"] == 1


def test_a_trial_torn_from_its_slot_goes_on_in_another(run, event):
    mended = []
    referee = make(run.open(wanted=1), mend=mended.append)
    asker = Asker(referee)
    started = asker.suggest("a")["payload"].content
    assert started["reported"] == 0
    for epoch in (1, 2, 3):
        referee.epoch(0, event(epoch, 1.0 / epoch))
    lost = {"kind": "lost", "message": "the pool of slots died"}
    asker.on_trial_complete("a", result(0, lost))
    assert mended == [lost] and ended(referee, 0).state == TrialState.RUNNING
    again = asker.suggest("b")
    assert again["number"] == 0 and again["payload"].content == {**started, "reported": 2}
    assert asker.suggest("c") is None, "the search is not over: the trial may be torn off once more"
    asker.on_trial_complete("b", result(0, event(4, 0.2, done=True)))
    assert ended(referee, 0).value == 0.2 and asker.suggest("d") == Searcher.FINISHED
    assert referee.heard == [("start", 0), *(("epoch", 0, n) for n in (1, 2, 3, 4)), ("end", 0, TrialState.COMPLETE)]


def test_no_more_is_suggested_than_slots_stand_and_what_ends_the_wait_ends_the_search(run, event):
    referee, room = make(run.open(wanted=9)), [1]
    asker = Asker(referee, lambda: room[0] or 1 // 0)
    assert asker.suggest("a")["number"] == 0 and asker.suggest("b") is None
    room[0] = 2
    assert asker.suggest("b")["number"] == 1 and asker.suggest("c") is None
    assert len(referee.record.study.get_trials(deepcopy=False)) == 2, "what has no slot is not proposed yet"
    room[0] = 1
    asker.on_trial_complete("a", result(0, event(1, 0.5, done=True)))
    assert asker.suggest("c") is None, "a node left"
    room[0] = 0
    assert asker.suggest("c") == Searcher.FINISHED and isinstance(referee.error, ZeroDivisionError)


def test_a_trial_that_never_gets_on_fails(referee, event):
    referee.start()
    referee.epoch(0, event(1, 0.5))
    for _ in range(TEARS):
        referee.end(0, None)
        assert referee.start()["number"] == 0
    referee.end(0, None)
    assert ended(referee, 0).state == TrialState.FAIL and "actor died" in ended(referee, 0).user_attrs["message"]


def test_without_a_slot_the_search_ends_and_its_trials_wait(referee):
    referee.start()
    referee.guarded(lambda: referee.end(0, {"kind": "no slot", "message": "no slot is left: CUDA error"}))
    assert referee.record.closed and "no slot is left: CUDA error" in str(referee.error)
    referee.record.abandon()
    assert ended(referee, 0).state == TrialState.WAITING


def test_what_is_heard_again_changes_nothing(referee, event):
    referee.start()
    for epoch, value in ((1, 0.5), (2, 0.4), (2, 7.0), (1, 7.0)):
        referee.epoch(0, event(epoch, value))
    assert referee.record.history[0] == {1: 0.5, 2: 0.4}
    assert referee.heard == [("start", 0), ("epoch", 0, 1), ("epoch", 0, 2)]


def test_a_verdict_of_the_pruner_outlives_the_driver(run, complete, event):
    record = run.open({"search.pruner": "asha"})
    for value in (0.5, 0.4, 0.3):
        complete(record, [value] * 9)
    referee = make(record)
    number = referee.start()["number"]
    assert referee.epoch(number, event(1, 9.0))  # and the driver dies before Tune has stopped the trial
    again = make(run.open({"search.pruner": "asha"}))
    started = again.start()
    assert (started["number"], started["payload"]["reported"]) == (number, 0)
    assert again.epoch(number, event(1, 9.0))


def test_the_end_of_a_trial_is_told_once(referee, event):
    referee.start()
    referee.end(0, event(1, 0.5, done=True))
    referee.end(0, None)
    assert ended(referee, 0).state == TrialState.COMPLETE
    assert [w for w in referee.heard if w[0] == "end"] == [("end", 0, TrialState.COMPLETE)]


def test_trials_that_a_closing_search_cuts_off_wait_for_a_resume(run, referee, event):
    for _ in range(3):
        referee.start()
    referee.epoch(0, event(1, 0.5))
    referee.record.closed = True
    referee.end(0, event(1, 0.5))
    referee.end(1, None)  # it had posted nothing yet
    referee.end(2, event(9, 0.3, done=True))
    referee.record.abandon()
    states = [ended(referee, n).state for n in range(3)]
    assert states == [TrialState.WAITING, TrialState.WAITING, TrialState.COMPLETE]


def test_a_resumed_trial_keeps_the_metrics_of_a_best_epoch_from_before(run, referee, event):
    referee.start()
    referee.epoch(0, event(1, 0.2))
    again = make(run.open())
    assert again.start()["number"] == 0
    again.end(0, event(2, 0.6, best=(1, 0.2), done=True))
    assert ended(again, 0).value == 0.2 and ended(again, 0).user_attrs["metrics"]["at"] == 1.0


def test_a_pareto_trial_is_told_both_objectives_of_the_same_epoch(run, event):
    referee = make(run.open(directions=("minimize", "maximize")), ("val/nmse", "val/r"))
    referee.start()
    referee.epoch(0, event(1, 0.2, **{"val/r": 0.7}))
    referee.end(0, event(2, 0.6, best=(1, 0.2), done=True, **{"val/r": 0.9}))
    assert ended(referee, 0).values == [0.2, 0.7]
    referee.start()
    referee.end(1, event(1, 0.2, done=True))  # without the second one
    assert ended(referee, 1).state == TrialState.PRUNED


def test_tune_hears_suggestions_and_its_words_reach_the_study(run, event):
    referee = make(run.open(wanted=2))
    asker, stopper = Asker(referee), Stopper(referee)
    config = asker.suggest("a")
    assert config["number"] == 0
    assert stopper.on_trial_result(None, None, result(0, event(1, 0.5))) == TrialScheduler.CONTINUE
    last = event(2, 0.4, done=True)
    assert stopper.on_trial_result(None, None, result(0, last)) == TrialScheduler.CONTINUE
    asker.on_trial_complete("a", result(0, last))
    asker.on_trial_complete("a", result(0, last))
    assert ended(referee, 0).value == 0.4
    asker.suggest("b")
    asker.on_trial_complete("b", result(1, {"kind": "error", "message": "ValueError"}))
    assert ended(referee, 1).state == TrialState.FAIL
    assert asker.suggest("c") == Searcher.FINISHED


def test_tune_is_told_to_stop_a_bad_trial_and_the_study_hears_that_it_did(run, complete, event):
    record = run.open()
    for value in (0.5, 0.4, 0.3):
        complete(record, [value] * 9)
    referee = make(record)
    asker, stopper = Asker(referee), Stopper(referee)
    number = asker.suggest("a")["number"]
    bad = result(number, event(1, 9.0))
    assert stopper.on_trial_result(None, None, bad) == TrialScheduler.STOP
    asker.on_trial_complete("a", bad)
    assert ended(referee, number).state == TrialState.PRUNED
    assert ended(referee, number).user_attrs["reason"] == "stopped early"


def test_the_halter_closes_the_record_when_time_is_over(referee):
    over, wound_up = [], []
    halter = Halter(referee, lambda: bool(over), lambda: wound_up.append(1))
    assert not halter("a", {}) and not halter.stop_all() and not referee.record.closed
    over.append(1)
    assert not halter.stop_all() and not halter.stop_all(), "running trials end by themselves, saved"
    assert wound_up == [1] and referee.record.closed and referee.start() is None
    referee.error = ValueError()
    assert halter.stop_all()


def test_nothing_of_the_driver_travels_when_tune_pickles(referee):
    for made in (Asker(referee), Stopper(referee), Halter(referee, lambda: True)):
        assert vars(pickle.loads(pickle.dumps(made))) == {}


def test_tune_keeps_nothing_of_a_job_whose_trial_has_ended(referee, event):
    asker = Asker(referee)
    given = copy.deepcopy(asker.suggest("a"))  # as Tune does
    assert given["payload"].content["config"]["training.epochs"] == 9
    last = Parcel(event(1, 0.5, done=True))
    asker.on_trial_complete("a", {"event": last})
    assert ended(referee, 0).state == TrialState.COMPLETE and ended(referee, 0).value == 0.5
    assert given["payload"].content == last.content == {}


def test_a_trainable_that_was_lost_tells_tune_nothing_and_its_trial_goes_on(referee):
    asker = Asker(referee)
    asker.suggest("a")
    asker.on_trial_complete("a", error=True)
    assert asker.suggest("b")["number"] == 0
