"""What a confirmation concludes from its trainings; the trainings themselves are in test_later_verbs.py."""
from __future__ import annotations

import json
import math

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from raycal.errors import UserError
from raycal.report.confirmed import confirmation
from raycal.search.confirm import chosen, comparison, fresh_seeds, judged, outcome_of
from raycal.search.study import plain


def study_of(values, direction="minimize", seed=0):
    """A study of complete trials of these values; None stands for one that was stopped."""
    study = optuna.create_study(direction=direction)
    for value in values:
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        study.add_trial(create_trial(state=state, values=None if value is None else [value],
                                     user_attrs={"config": {"training.seed": seed}, "seed": seed}))
    return study


def record_of(table, search, direction="minimize", metric="val/nmse"):
    """The record of {number: values a seed}; search: the values the search gave, in order."""
    study = study_of(search, direction)
    seeds = list(range(1, 1 + len(next(iter(table.values())))))
    outcomes = {(n, s): {"value": v, "epoch": 10 + s, "reason": "" if math.isfinite(v) else "diverged"}
                for n, values in table.items() for s, v in zip(seeds, values)}
    return judged(study, [study.trials[n] for n in table], seeds, outcomes, metric)


def test_the_default_and_the_best_complete_trials_are_chosen():
    study = study_of([0.5, 0.3, None, 0.2, 0.4, 0.6])
    assert [t.number for t in chosen(study, 2)] == [0, 3, 1]
    assert [t.number for t in chosen(study_of([0.1, 0.3, 0.2]), 5)] == [0, 2, 1], "the default once, and first"
    assert [t.number for t in chosen(study_of([0.5, 0.3, 0.8], "maximize"), 1)] == [0, 2]
    with pytest.raises(UserError, match="no trial of this run is complete"):
        chosen(study_of([None, None]), 2)


def test_seeds_are_fresh_and_the_first_stay_the_same_when_more_are_asked():
    assert fresh_seeds(study_of([0.1]), 3) == [1, 2, 3] and fresh_seeds(study_of([0.1], seed=2), 3) == [1, 3, 4]
    assert fresh_seeds(study_of([0.1], seed=2), 5)[:3] == [1, 3, 4]
    assert fresh_seeds(study_of([0.1]), 2, used=[1, 2]) == [3, 4]


def test_the_winner_is_the_best_mean_whatever_the_search_said():
    record = record_of({0: [0.30, 0.32, 0.31], 2: [0.27, 0.29, 0.28], 1: [0.33, 0.31, 0.32]}, [0.3, 0.2, 0.25])
    assert record["winner"] == "2" and record["default"] == "0" and record["seeds"] == [1, 2, 3]
    assert record["trials"]["2"]["mean"] == pytest.approx(0.28) and record["trials"]["2"]["epochs"] == [11, 12, 13]
    assert record["winners_curse"] == pytest.approx(0.25 - 0.28)
    assert record["difference"]["mean"] == pytest.approx(-0.03)
    assert record["difference"]["high"] == pytest.approx(record["difference"]["low"]), "the seeds' share drops out"
    assert record["verdict"] == "trial 2 beats the default: its nmse is lower by 0.0300 [0.0300, 0.0300] over 3 seeds"


@pytest.mark.parametrize("direction, good", [("minimize", -0.02), ("maximize", 0.02)])
def test_beats_is_said_only_where_the_whole_interval_is_on_the_better_side(direction, good):
    base = [0.30, 0.31, 0.29, 0.30]
    sure, unsure = (record_of({0: base, 1: [b + good + e for b, e in zip(base, errors)]}, [0.3, 0.3], direction)
                    for errors in ((0.001, -0.001, 0.002, 0.0), (0.04, -0.04, 0.03, -0.03)))
    assert sure["winner"] == unsure["winner"] == "1"
    assert "beats the default" in sure["verdict"]
    assert ("lower" if direction == "minimize" else "higher") in sure["verdict"]
    assert "is not shown to beat the default" in unsure["verdict"] and "holds 0" in unsure["verdict"]
    assert unsure["difference"]["low"] < 0 < unsure["difference"]["high"]


def test_a_default_with_the_best_mean_is_not_beaten():
    record = record_of({0: [0.30, 0.31], 1: [0.32, 0.33]}, [0.3, 0.2])
    assert record["winner"] == "0" and record["difference"]["mean"] == 0.0
    assert record["verdict"] == "none beats the default: of the 2 confirmed it has the best mean nmse"
    assert record["winners_curse"] == pytest.approx(0.3 - 0.305)


def test_what_diverges_on_a_seed_is_not_confirmed_and_is_not_averaged_over_the_rest():
    record = record_of({0: [0.30, 0.31], 1: [0.01, math.nan]}, [0.3, 0.01])
    assert record["winner"] == "0" and math.isnan(record["trials"]["1"]["mean"])
    assert record["trials"]["1"]["failed"] == ["diverged"]
    default = record_of({0: [0.30, math.nan], 1: [0.2, 0.2]}, [0.3, 0.2])
    assert default["winner"] == "1" and "cannot be compared" in default["verdict"] and "diverged" in default["verdict"]
    none = record_of({0: [math.nan, 0.1], 1: [math.nan, 0.1]}, [0.3, 0.2])
    assert none["winner"] is None and "none is confirmed" in none["verdict"]
    for one in (record, default, none):
        assert confirmation(json.loads(json.dumps(plain(one))))[-1].strip() == one["verdict"]


def test_the_lines_hold_the_search_value_the_curse_and_what_came_later():
    record = record_of({0: [0.30, 0.32, 0.31], 2: [0.27, 0.29, 0.285]}, [0.3, 0.2, 0.25])
    text = "\n".join(confirmation(json.loads(json.dumps(plain(record))), searched=5))
    assert "nmse over 3 fresh seeds" in text and "the search said 0.2500   winner, its curse -0.0317: the search flattered it" in text
    assert "2 complete trials came after it and are not confirmed" in text


def test_an_outcome_counts_only_where_the_training_came_to_its_end():
    event = {"kind": "epoch", "epoch": 9, "best_epoch": 7, "best_value": 0.2, "done": True, "ended_by": "patience"}
    assert outcome_of(event) == {"value": 0.2, "epoch": 7, "epochs": 9, "reason": ""}
    assert math.isnan(outcome_of({**event, "ended_by": "diverged"})["value"])
    assert outcome_of({"kind": "oom", "message": "too large"})["reason"] == "oom"


def test_a_test_that_the_winner_loses_is_told_as_lost():
    lost = {"mean": 0.02, "low": 0.01, "high": 0.03}
    assert "trial 3 loses to the default" in comparison(3, "test/nmse", "minimize", lost, 5)
    assert "trial 3 beats the default: its r is higher by 0.0200" in comparison(3, "test/r", "maximize", lost, 5)
    assert "cannot be compared" in comparison(3, "test/nmse", "minimize", dict.fromkeys(lost, math.nan), 5)
    assert comparison(0, "test/nmse", "minimize", lost, 5) == "the winner is the default itself"
