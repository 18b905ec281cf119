from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import optuna
import pytest

from raycal.errors import UserError
from raycal.report import page
from raycal.report.record import Run, course
from raycal.search.folder import RunFolder
from raycal.training import checkpoint


def derived(folder):
    """Every file that follows from the study and the checkpoints, with what it holds."""
    kept = [*folder.glob("*.csv"), *folder.glob("*.json"), *folder.glob("*.html"), *folder.glob("best/*"),
            *folder.glob("trials/*/*.json"), *folder.glob("trials/*/*.yaml")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept if p.name != "format.json"}


def test_what_was_derived_comes_back_from_study_and_checkpoints(a_copy):
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(a_copy / "study.journal"))))
    nothing = {"winner": None, "verdict": "none", "trials": {}, "seeds": []}
    study.set_user_attr("confirm", nothing)
    study.set_user_attr("test", [])
    (a_copy / "confirm.json").write_text(json.dumps(nothing, indent=1))
    (a_copy / "test_receipt.json").write_text("[]")
    page.write([str(a_copy)])
    before = derived(a_copy)
    assert {"report.html", "leaderboard.csv", "summary.json", "confirm.json", "test_receipt.json", "best/model.pt",
            "best/metrics.json", "trials/0000/metrics.json", "trials/0005/config.yaml"} <= set(before)
    for name in before:
        (a_copy / name).unlink()
    shutil.rmtree(a_copy / "best")
    page.write([str(a_copy)])
    after = derived(a_copy)
    assert set(after) == set(before)
    assert [name for name in before if after[name] != before[name]] == []


def test_value_epoch_metrics_and_checkpoint_are_of_one_epoch(searched):
    run = Run.read(str(searched))
    assert len(run.complete) == 6
    for trial in run.complete:
        epoch, value = min(course(trial), key=lambda at: (at[1], at[0]))
        assert trial.user_attrs["best_epoch"] == epoch
        assert trial.values[0] == value == trial.user_attrs["metrics"]["val/nmse"]
    kept = [t for t in run.complete if (searched / "trials" / f"{t.number:04d}" / "model.pt").is_file()]
    assert run.winner in kept and run.default in kept
    for trial in kept:
        state = checkpoint.load(searched / "trials" / f"{trial.number:04d}" / "model.pt")
        assert state["best"] == {"epoch": trial.user_attrs["best_epoch"], "value": trial.values[0]}
        assert {k: v for k, v in state["metrics"].items() if k.startswith("val/")} == {
            k: v for k, v in trial.user_attrs["metrics"].items() if k.startswith("val/")}
        counts = [c.numpy() for c in run.arrays(trial)["counts"]]
        used = np.mean([(c > 0).mean() for c in counts])
        assert used == pytest.approx(trial.user_attrs["metrics"]["val/usage"]), "the drawn codes are of that epoch, too"


def test_the_study_holds_the_split_the_command_and_the_baselines(searched):
    summary = Run.read(str(searched)).summary
    assert set(summary["splits"]) == {"mouse-8", "mouse-11"} and "transform code" in " ".join(summary["baselines"])
    for cut in summary["splits"].values():
        runs = sorted(run for part in cut["pieces"].values() for run in part)
        assert len(runs) == 9 and all(b[0] - a[1] >= cut["gap"] for a, b in zip(runs, runs[1:]))
    assert "pytest" in summary["environment"]["command"] and summary["environment"]["versions"]["torch"]


def test_a_run_that_is_searched_is_read_and_not_touched(a_copy):
    (a_copy / "leaderboard.csv").unlink()
    driver = RunFolder.existing(str(a_copy))
    driver.lock()
    try:
        assert Run.read(str(a_copy)).winner is not None
    finally:
        driver.unlock()
    assert not (a_copy / "leaderboard.csv").exists()


def test_steps_add_up_all_training_and_only_complete_trials_lead(made):
    run = made(trials=12).read()
    assert [s.trial.number for s in run.steps] == list(range(12))
    assert run.steps[-1].seconds == pytest.approx(sum(t.user_attrs["seconds"] for t in run.trials))
    lowest = math.inf
    for step in run.steps:
        if step.trial in run.complete:
            lowest = min(lowest, step.trial.values[0])
        assert step.best == lowest
    assert [t.number for t in run.incumbents()][-1] == run.winner.number
    assert all(t in run.complete for t in run.incumbents())


def test_the_winner_is_the_confirmed_one(made):
    one = made()
    best = one.read().winner.number
    one.confirm()
    record = dict(one.study.user_attrs["confirm"])
    other = next(n for n in record["trials"] if n not in ("0", str(best)))
    one.study.set_user_attr("confirm", {**record, "winner": other})
    assert one.read().winner.number == int(other)


def test_a_test_of_another_winner_is_not_shown_as_this_ones(made):
    one = made().confirm().test()
    assert one.read().tested(one.read().winner)["test/nmse"]["mean"] == pytest.approx(0.36)
    opened = dict(one.study.user_attrs["test"][0])
    one.study.set_user_attr("test", [{**opened, "winner": {**opened["winner"], "number": 77}}])
    assert one.read().tested(one.read().winner) == {}


def test_a_folder_without_a_run_and_a_study_without_facts_are_refused(tmp_path, made):
    with pytest.raises(UserError, match="no run there"):
        Run.read(str(tmp_path))
    one = made()
    one.study.set_user_attr("facts", {})
    optuna.delete_study(study_name="raycal", storage=one.study._storage)
    optuna.create_study(study_name="raycal", storage=one.study._storage)
    with pytest.raises(UserError, match="ended before the first trial"):
        Run.read(str(one.path))


def test_a_report_needs_no_ray(made, tmp_path):
    one = made(trials=6)
    code = ("import sys; from raycal.cli import main; assert main(['report', sys.argv[1]]) == 0;"
            "print([m for m in sys.modules if m == 'ray' or m.startswith('ray.')], file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, str(one.path)], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]" and done.stdout.strip() == str(one.path / "report.html")
