from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from raycal.errors import UserError
from raycal.search.sampler import make_sampler
from raycal.search.study import OVER, REJECTIONS, best_trial, make_pruner, plain, read_study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def trials(record, *states):
    return record.study.get_trials(deepcopy=False, states=states or None)


def expensive(config):
    """Bits/s that grow with the codebook: 5 for the default's 32 entries."""
    return math.log2(config.quantizer.codebook_size)


def test_the_default_is_trial_0_and_never_stopped(run, complete):
    record = run.open({"search.pruner": "median"})
    number, config = record.ask()
    assert (number, config) == (0, run.space.base)
    for _ in range(6):  # better ones overtake it in other slots
        complete(record, [0.1] * 9)
    assert not any(record.epoch(0, e, 1.0, 1.0) for e in range(1, 10))
    record.finish(0, TrialState.COMPLETE, [1.0], {"ended_by": "epochs", "best_epoch": 1})
    again = run.open({"search.pruner": "median"})
    assert trials(again)[0].state == TrialState.COMPLETE and trials(again)[0].params == run.space.default()


@pytest.mark.parametrize("pruner", ["asha", "median", "hyperband"])
def test_a_bad_trial_is_stopped_at_its_first_look_also_after_reopening(run, complete, pruner):
    record = run.open({"search.pruner": pruner, "training.epochs": 18})
    for value in (0.5, 0.4, 0.3, 0.35, 0.32, 0.31):
        complete(record, [value] * 18)
    record = run.open({"search.pruner": pruner, "training.epochs": 18})
    stopped = []
    for _ in range(12):  # hyperband has a bracket that looks only late
        number, _ = record.ask()
        epoch = next((e for e in range(1, 19) if record.epoch(number, e, 9.0, 9.0)), None)
        record.finish(number, TrialState.PRUNED if epoch else TrialState.COMPLETE, [9.0], {"reason": "stopped early"})
        stopped.append(epoch)
    assert min(e for e in stopped if e) == 2  # of 18 epochs
    if pruner != "hyperband":
        assert stopped == [2] * 12
    assert trials(record, TrialState.PRUNED)[0].value == 9.0  # its last report


def test_a_good_trial_is_not_stopped(run, complete):
    record = run.open({"search.pruner": "asha"})
    for value in (0.5, 0.4, 0.6):
        complete(record, [value] * 9)
    number, _ = record.ask()
    assert not any(record.epoch(number, e, 0.01, 0.01) for e in range(1, 10))


def test_a_late_bad_epoch_does_not_stop_a_trial_that_has_shown_a_good_one(run, complete):
    record = run.open({"search.pruner": "asha"})
    for value in (0.5, 0.4, 0.6):
        complete(record, [value] * 9)
    number, _ = record.ask()
    assert not any(record.epoch(number, e, 0.01 if e == 1 else 50.0, 0.01) for e in range(1, 10))
    assert record.history[number][9] == 50.0


def test_first_look_is_at_a_ninth_of_the_epochs():
    for epochs, first in ((27, 3), (9, 1), (3, 1), (100, 12)):
        assert make_pruner("asha", epochs)._min_resource == first
    assert isinstance(make_pruner("none", 9), optuna.pruners.NopPruner)


def test_trials_of_a_dead_driver_wait_and_come_back_the_same(run, complete):
    record = run.open()
    complete(record, 1.0)
    (a, first), (b, second) = record.ask(), record.ask()
    record.epoch(a, 1, 0.7, 0.7)
    record.note_best(a, {"val/nmse": 0.7})
    record = run.open()  # nobody told the old one
    assert [t.state for t in trials(record)[1:]] == [TrialState.WAITING] * 2
    assert record.ask() == (a, first) and record.ask() == (b, second)
    assert trials(record)[a].intermediate_values == {1: 0.7}
    assert record.best_metrics(a) == {"val/nmse": 0.7} and record.best_metrics(b) == {}
    assert not record.epoch(a, 2, 0.6, 0.6)
    assert trials(record)[a].intermediate_values == {1: 0.7, 2: 0.6}


def test_abandoned_trials_wait_for_the_next_start(run):
    record = run.open()
    asked = [record.ask(), record.ask()]
    record.abandon()
    assert [t.state for t in trials(record)] == [TrialState.WAITING] * 2
    record = run.open()
    assert [record.ask(), record.ask()] == asked


def test_a_torn_journal_opens_at_its_last_full_line(run, complete):
    record = run.open()
    complete(record, 1.0)
    with open(run.folder.journal, "ab") as f:
        f.write(b'{"op_code": 4, "worker_id": "x", "tri')
    record = run.open()
    assert [t.value for t in trials(record)] == [1.0]
    complete(record, 2.0)
    assert [t.value for t in trials(run.open())] == [1.0, 2.0]


def test_reopening_does_not_propose_the_first_random_trials_again(run, complete):
    for sampler in ("random", "tpe"):  # tpe begins with random trials
        record = run.open({"search.sampler": sampler})
        for _ in range(4):
            complete(record, 1.0)
    rates = [t.params["optimizer.lr"] for t in trials(record)]
    assert len(set(rates)) == len(rates) == 8


def test_the_same_run_seed_proposes_the_same_trials(run, tmp_path, space):
    other = type(run)(tmp_path / "other", space)
    first, second = run.open(), other.open()
    assert [first.ask() for _ in range(5)] == [second.ask() for _ in range(5)]
    third = type(run)(tmp_path / "third", space)
    assert [third.open({"training.seed": 1}).ask() for _ in range(2)][1] != second.ask()
    other.folder.unlock()
    third.folder.unlock()


def test_only_the_wanted_number_of_trials_trains(run, complete):
    record = run.open(wanted=3)
    complete(record, 1.0)
    record.ask()
    last, _ = record.ask()
    assert record.ask() is None
    record.finish(last, TrialState.FAIL, None, {"reason": "error", "message": "boom"})
    assert record.ask() is None, "a failed trial has cost its training"
    assert run.open(wanted=4).ask() is not None


def test_a_closed_record_starts_nothing(run):
    record = run.open()
    record.closed = True
    assert record.ask() is None


def test_proposals_over_the_rate_limit_are_pruned_untrained_and_do_not_count(run):
    record = run.open({"search.sampler": "tpe"}, wanted=12, rate=expensive, rate_limit=5.0)
    while (asked := record.ask()) is not None:
        number, config = asked
        assert config.quantizer.codebook_size <= 32
        record.finish(number, TrialState.COMPLETE, [1.0], {"ended_by": "epochs"})
    rejected = [t for t in trials(record) if t.user_attrs.get("reason") == OVER]
    assert rejected and len(record.trained()) == 12
    for trial in rejected:
        excess = math.log2(trial.params["quantizer.codebook_size"]) - 5.0
        assert trial.state == TrialState.PRUNED and trial.constraints == {"rate": pytest.approx(excess)}
        assert excess > 0 and not trial.intermediate_values
    for trial in record.trained():
        assert trial.constraints["rate"] <= 0


def test_a_rate_limit_that_hardly_anything_meets_is_met_by_a_random_draw(run):
    record = run.open(rate=expensive, rate_limit=3.2, wanted=2)  # codebooks of 8 and 9 of 8..512
    record.ask()
    number, config = record.ask()
    assert config.quantizer.codebook_size <= 9
    assert len(record.trained()) == 0 and number <= 60


def test_an_impossible_rate_limit_ends_the_search_saying_so(run):
    record = run.open(rate=expensive, rate_limit=0.5)
    with pytest.raises(UserError, match=r"search.rate_limit=0.5: none of 10 000 random configurations"):
        record.ask()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_best_that_is_not_finite_never_completes(run, value):
    record = run.open()
    number, _ = record.ask()
    assert not record.epoch(number, 1, value, value)
    record.finish(number, TrialState.COMPLETE, [value], {"ended_by": "epochs", "best_epoch": 0})
    trial = trials(record)[0]
    assert trial.state == TrialState.PRUNED and trial.user_attrs["reason"] == "no finite objective"
    assert trial.value is None and best_trial(record.study) is None


def test_a_finished_trial_carries_its_facts(run):
    record = run.open()
    number, config = record.ask()
    for epoch, value in ((1, 0.9), (2, 0.5), (3, 0.7)):
        record.epoch(number, epoch, value, min(value, 0.5 if epoch > 1 else 1.0))
    record.finish(number, TrialState.COMPLETE, [np.float32(0.5)],
                  {"best_epoch": np.int64(2), "metrics": {"val/nmse": np.float32(0.5), "val/r": math.nan}})
    facts = trials(run.open())[0].user_attrs
    assert facts["objective_by_epoch"] == [[1, 0.9], [2, 0.5], [3, 0.7]]
    assert facts["best_epoch"] == 2 and facts["metrics"] == {"val/nmse": 0.5, "val/r": "nan"}
    assert facts["config"] == config.flat() and facts["seconds"] >= 0


def test_epochs_and_ends_of_unknown_trials_change_nothing(run):
    record = run.open()
    assert not record.epoch(5, 1, 1.0, 1.0)
    record.note_best(5, {})
    record.finish(5, TrialState.COMPLETE, [1.0], {})
    assert len(trials(record)) == 1  # the default, waiting


def test_the_best_is_the_lowest_or_the_highest_complete_trial(run, complete):
    record = run.open(directions=("maximize",))
    for value in (0.2, 0.9, 0.9, 0.4):
        complete(record, value)
    number, _ = record.ask()
    record.epoch(number, 1, 5.0, 5.0)
    record.finish(number, TrialState.PRUNED, None, {"reason": "stopped early"})
    assert best_trial(record.study).number == 1, "the earlier of two equal ones, and no stopped trial"
    with pytest.raises(UserError, match="this run was searched for"):
        run.open(directions=("minimize",))


def test_a_pareto_study_reports_and_stops_nothing(run):
    record = run.open(directions=("minimize", "maximize"), rate=expensive, rate_limit=1.0)
    assert record.pareto
    for values in ([0.3, 0.1], [0.2, 0.05], [0.5, 0.9], [0.6, 0.2]):
        number, _ = record.ask()
        assert not record.epoch(number, 1, values[0], values[0])
        record.finish(number, TrialState.COMPLETE, values, {"best_epoch": 1})
    assert not any(t.intermediate_values for t in trials(record))
    assert {t.number for t in record.study.best_trials} == {0, 1, 2}
    assert best_trial(record.study).number == 1


def test_a_pareto_trial_that_diverges_is_pruned(run):
    record = run.open(directions=("minimize", "maximize"))
    number, _ = record.ask()
    record.finish(number, TrialState.PRUNED, None, {"reason": "diverged"})
    assert trials(record)[0].state == TrialState.PRUNED and best_trial(record.study) is None


@pytest.mark.parametrize("name, kind", [("tpe", "TPESampler"), ("random", "RandomSampler"), ("gp", "GPSampler"),
                                        ("nsga2", "NSGAIISampler")])
def test_samplers_by_name(name, kind):
    assert type(make_sampler(name, 0)).__name__ == kind


def test_a_study_can_be_read_beside_its_driver_and_a_missing_one_is_named(run, complete, tmp_path):
    record = run.open()
    complete(record, 0.5)
    assert [t.value for t in read_study(str(run.path)).trials] == [0.5]
    with pytest.raises(UserError, match="no run there"):
        read_study(str(tmp_path / "nothing"))


def test_plain_leaves_only_what_json_holds():
    assert plain({1: (np.float32(0.5), np.int64(2)), "x": [math.inf, math.nan, True, None, "word"]}) == \
        {"1": [0.5, 2], "x": ["inf", "nan", True, None, "word"]}


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_run_that_is_reopened_before_every_trial_proposes_what_the_undisturbed_one_does(run, tmp_path, space, complete,
                                                                                         sampler):
    other = type(run)(tmp_path / "other", space)
    settings = {"search.sampler": sampler}

    def ask_and_tell(record):
        number, config = record.ask()
        record.finish(number, TrialState.COMPLETE, [abs(math.log10(config.optimizer.lr) + 3)], {"ended_by": "epochs"})

    record = run.open(settings)
    for n in range(16):
        ask_and_tell(record)
        ask_and_tell(other.open(settings))
        if n == 12:  # dies between the suggestions of one trial
            broken = other.open(settings)
            broken.study.ask().suggest_categorical("quantizer.type", ["ema", "vq"])
    assert [t.params for t in trials(other.open(settings))] == [t.params for t in trials(record)]
    other.folder.unlock()


def test_proposals_over_the_rate_limit_are_counted_across_restarts(run):
    record = run.open(rate=expensive, rate_limit=3.2)
    for _ in range(REJECTIONS):  # and the driver dies
        trial = record.study.ask()
        record.space.propose(trial)
        trial.set_user_attr("reason", OVER)
        record.study.tell(trial, state=TrialState.PRUNED)
    assert run.open(rate=expensive, rate_limit=3.2).ask()[0] == REJECTIONS
