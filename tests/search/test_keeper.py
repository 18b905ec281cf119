from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from optuna.trial import TrialState

from raycal.search.keeper import Keeper

FACTS = {"space": "small", "objective": "nmse", "sessions": ["a"], "fingerprints": {"a": "0123"}, "seconds": 10.0}


class Search:
    """Trials as a search runs them: started, trained to a file of weights, told, kept."""

    def __init__(self, run, keep=2, directions=("minimize",), after=lambda: None):
        self.record = run.open(directions=directions)
        self.folder = run.folder
        self.keeper = Keeper(run.folder, self.record.study, FACTS, keep, after)

    def trial(self, *values, state=TrialState.COMPLETE, keep=True, **facts):
        number, config = self.record.ask()
        self.keeper.on_start(number, config)
        folder = self.folder.trial(number)
        for name in ("model.pt", "checkpoint.pt", ".checkpoint.pt.half", "events.out.tfevents.9"):
            (folder / name).write_text(f"{name} of {number}")
        self.record.epoch(number, 1, values[0], values[0])
        self.record.finish(number, state, values, {"best_epoch": 1, "metrics": {"val/nmse": values[0]}, **facts})
        if keep:
            self.keeper.on_end(number, {}, self.record.study.get_trials()[number])
        return number

    def names(self, pattern):
        return sorted(str(p.relative_to(self.folder.path)) for p in self.folder.path.glob(pattern))

    def best(self):
        return (self.folder.path / "best" / "model.pt").read_text()


def test_a_started_trial_has_its_settings_beside_it(run, space):
    search = Search(run)
    number, config = search.record.ask()
    search.keeper.on_start(number, config)
    assert search.names("trials/0000/*") == ["trials/0000/config.yaml"]
    assert (search.folder.trial(0) / "config.yaml").read_text() == config.to_yaml()


def test_best_is_the_best_complete_trial_whatever_its_place(run):
    search = Search(run)
    for value, best in ((0.5, 0), (0.3, 1), (0.4, 1), (0.3, 1)):
        search.trial(value)
        assert search.best() == f"model.pt of {best}"
    search.trial(0.01, state=TrialState.PRUNED, reason="diverged")
    assert search.best() == "model.pt of 1"
    assert search.names("best/*") == ["best/config.yaml", "best/metrics.json", "best/model.pt"]
    metrics = json.loads((search.folder.path / "best" / "metrics.json").read_text())
    assert metrics["trial"] == 1 and metrics["state"] == "complete" and metrics["metrics"] == {"val/nmse": 0.3}


def test_only_the_best_few_and_the_default_keep_their_weights(run):
    search = Search(run, keep=2)
    for value in (0.9, 0.5, 0.4, 0.6, 0.3):
        search.trial(value)
    search.trial(0.01, state=TrialState.PRUNED, reason="stopped early")
    assert search.names("trials/*/model.pt") == [f"trials/000{n}/model.pt" for n in (0, 2, 4)]
    assert search.names("trials/*/*checkpoint.pt*") == [], "what a killed worker half wrote goes, too"
    assert len(search.names("trials/*/events.*")) == len(search.names("trials/*/metrics.json")) == 6


def test_running_trials_keep_their_checkpoint(run):
    search = Search(run)
    search.trial(0.5)
    number, config = search.record.ask()
    search.keeper.on_start(number, config)
    (search.folder.trial(number) / "checkpoint.pt").write_text("half way")
    search.trial(0.4)
    assert search.names("trials/*/checkpoint.pt") == ["trials/0001/checkpoint.pt"]


def test_the_folder_is_complete_after_every_trial(run):
    calls = []
    search = Search(run, after=lambda: calls.append(search.names("summary.json")))
    search.trial(0.5)
    search.trial(0.4)
    assert calls == [["summary.json"]] * 2
    summary = json.loads((search.folder.path / "summary.json").read_text())
    assert {"space", "objective", "direction", "trials", "best", "default", "sessions", "fingerprints",
            "seconds"} <= set(summary)
    assert summary["trials"] == {"complete": 2, "pruned": 0, "failed": 0, "over_rate_limit": 0}
    assert summary["best"]["number"] == 1 and summary["default"]["number"] == 0
    assert summary["seconds"] >= 10.0, "seconds of earlier starts count"
    rows = list(csv.DictReader((search.folder.path / "leaderboard.csv").read_text().splitlines()))
    assert [r["trial"] for r in rows] == ["1", "0"]
    assert not [p for p in search.folder.path.rglob(".*")]


def test_numbers_that_json_lacks_do_not_break_the_summary(run):
    search = Search(run)
    search.trial(0.5)
    search.keeper.add({"ridge": {"speed": {"r2": np.float32(0.5), "null": math.nan}}})
    assert math.isnan(search.keeper.write()["ridge"]["speed"]["null"])
    text = (search.folder.path / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["ridge"] == {"speed": {"r2": 0.5, "null": "nan"}}


def test_a_best_that_a_dead_driver_did_not_copy_is_copied_at_the_next_write(run):
    search = Search(run)
    search.trial(0.5)
    search.trial(0.1, keep=False)  # told, and then the driver died
    assert search.best() == "model.pt of 0"
    again = Search(run)
    again.keeper.write()
    assert again.best() == "model.pt of 1"
    assert json.loads((again.folder.path / "best" / "metrics.json").read_text())["trial"] == 1


def test_what_a_dead_driver_left_of_finished_trials_is_tidied(run):
    search = Search(run)
    search.trial(0.5)
    search.trial(0.1, keep=False)  # told, and then the driver died
    assert search.names("trials/*/checkpoint.pt") == ["trials/0001/checkpoint.pt"]
    Search(run).keeper.tidy()
    assert search.names("trials/*/checkpoint.pt") == []
    assert search.names("trials/*/metrics.json") == ["trials/0000/metrics.json", "trials/0001/metrics.json"]


def test_a_pareto_search_keeps_the_front_best_and_the_rest(run):
    search = Search(run, keep=1, directions=("minimize", "maximize"))
    for values in ([0.5, 0.5], [0.4, 0.4], [0.3, 0.1], [0.9, 0.2]):
        search.trial(*values)
    assert search.best() == "model.pt of 2"
    assert search.names("pareto/*") == ["pareto/0000", "pareto/0001"]
    assert search.names("pareto/*/*") == [f"pareto/000{n}/{f}" for n in (0, 1)
                                          for f in ("config.yaml", "metrics.json", "model.pt")]
    search.trial(0.35, 0.45)  # dominates trial 1
    assert search.names("pareto/*") == ["pareto/0000", "pareto/0004"]
    assert search.names("trials/*/model.pt") == [f"trials/000{n}/model.pt" for n in (0, 2, 4)]
    assert search.names("pareto/.*") == []
