from __future__ import annotations

import csv

import optuna
from optuna.trial import TrialState

from raycal.report.leaderboard import best_of_each, entry, leaderboard, summary

FACTS = {"space": "vq", "objective": "nmse", "sessions": ["a"], "fingerprints": {"a": "01"}, "seconds": 3.0}


def rows(study):
    return list(csv.DictReader(leaderboard(study).splitlines()))


def test_complete_trials_lead_then_stopped_then_failed_ones(study):
    table = rows(study)
    assert [(r["rank"], r["trial"], r["state"]) for r in table] == [
        ("1", "1", "complete"), ("2", "0", "complete"), ("3", "2", "pruned"), ("4", "4", "fail")]
    assert table[0]["value"] == "0.3" and table[0]["best_epoch"] == "2" and table[0]["seconds"] == "1.5"
    assert [r["reason"] for r in table] == ["patience", "epochs", "diverged", "error"]


def test_parameters_that_a_trial_lacks_are_left_empty(study):
    table = rows(study)
    assert [r["quantizer.decay"] for r in table] == ["0.9", "", "", ""]
    assert table[0]["quantizer.type"] == "ema"


def test_the_highest_leads_where_the_objective_is_maximised(told):
    study = optuna.create_study(direction="maximize")
    study.add_trials([told(values=[v]) for v in (0.1, 0.9, 0.4)])
    assert [r["trial"] for r in rows(study)] == ["1", "2", "0"]
    assert summary(study, FACTS)["best"]["number"] == 1 and summary(study, FACTS)["direction"] == "maximize"


def test_a_summary_counts_what_trained_and_sets_the_winner_beside_the_default(study):
    whole = summary(study, FACTS)
    assert whole == {
        **FACTS, "direction": "minimize",
        "trials": {"complete": 2, "pruned": 1, "failed": 1, "over_rate_limit": 1},
        "best": {"number": 1, "value": 0.3, "epoch": 2, "params": {"quantizer.type": "ema", "quantizer.decay": 0.9},
                 "metrics": {"val/nmse": 0.3, "val/r": 0.8}, "state": "complete", "reason": "patience"},
        "default": {"number": 0, "value": 0.5, "epoch": 2, "params": {"quantizer.type": "vq"},
                    "metrics": {"val/nmse": 0.5}, "state": "complete", "reason": "epochs"},
        "quantizers": {
            "ema": {"number": 1, "value": 0.3, "epoch": 2, "state": "complete", "reason": "patience", "nmse": 0.3,
                    "bits_per_second": None, "usage": None},
            "vq": {"number": 0, "value": 0.5, "epoch": 2, "state": "complete", "reason": "epochs", "nmse": 0.5,
                   "bits_per_second": None, "usage": None}}}


def test_the_best_of_each_quantizer_is_a_complete_trial_where_there_is_one(told):
    study = optuna.create_study()
    fsq = {"config": {"quantizer.type": "fsq"}}  # held, so that no trial has it as a parameter
    figures = {"metrics": {"val/nmse": 0.6, "val/bits_per_second": 12.0, "val/usage": 0.5}}
    study.add_trials([told(values=[0.6], **figures), told(TrialState.PRUNED, reports=(0.1,), reason="stopped early",
                                                           **figures),
                      told(TrialState.PRUNED, reports=(0.4,), reason="stopped early", **figures, **fsq),
                      told(TrialState.PRUNED, reason="over rate limit"), told(TrialState.FAIL, reason="error")])
    found = best_of_each(study)
    assert {kind: (t["number"], t["state"], t["value"]) for kind, t in found.items()} == {
        "vq": (0, "complete", 0.6), "fsq": (2, "pruned", 0.4)}
    assert found["fsq"]["bits_per_second"] == 12.0 and found["fsq"]["usage"] == 0.5


def test_an_empty_study_has_no_winner():
    study = optuna.create_study()
    assert rows(study) == []
    whole = summary(study, FACTS)
    assert whole["best"] is None and whole["default"] is None and whole["trials"]["complete"] == 0


def test_a_stopped_trial_shows_its_last_report(told):
    shown = entry(told(TrialState.PRUNED, reports=(0.9, 0.7), reason="stopped early"))
    assert shown["value"] == 0.7 and shown["reason"] == "stopped early"
    assert entry(told(TrialState.FAIL, reason="error"))["value"] is None
    assert entry(None) is None


def test_a_pareto_study_is_led_by_its_lowest_first_objective(told):
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.add_trials([told(values=v) for v in ([0.5, 0.9], [0.2, 0.1], [0.3, 0.5])])
    assert [r["trial"] for r in rows(study)] == ["1", "2", "0"]
    whole = summary(study, FACTS)
    assert whole["direction"] == ["minimize", "maximize"] and whole["best"]["number"] == 1
