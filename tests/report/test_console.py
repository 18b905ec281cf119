from __future__ import annotations

import math

import pytest
from optuna.trial import TrialState

from raycal.report.console import Progress, closing
from raycal.report.leaderboard import summary


@pytest.fixture
def progress():
    return Progress(total=10, done=0, objective="nmse", minimize=True)


def numbered(trial, number):
    trial.number = number
    return trial


def test_a_line_a_trial_says_value_epoch_seconds_and_who_leads(progress, told, capsys):
    with progress:
        for number, value in ((0, 0.5), (1, 0.4), (2, 0.45)):
            progress.on_start(number, None)
            progress.on_end(number, {}, numbered(told(values=[value]), number))
    assert capsys.readouterr().out.splitlines() == [
        "trial   0  nmse 0.5000 at epoch 2  1.5 s  (default)", "trial   1  nmse 0.4000 at epoch 2  1.5 s  best so far",
        "trial   2  nmse 0.4500 at epoch 2  1.5 s"]


def test_a_stopped_trial_says_why_and_never_leads(progress, told, capsys):
    progress.on_end(0, {}, numbered(told(values=[0.5]), 0))
    progress.on_end(1, {}, numbered(told(TrialState.PRUNED, [0.1], (0.1,), reason="stopped early"), 1))
    progress.on_end(2, {}, numbered(told(TrialState.PRUNED, reason="oom", memory=3 * 2**29, batch=64), 2))
    assert capsys.readouterr().out.splitlines()[1:] == ["trial   1  stopped early at epoch 3  1.5 s",
                                                        "trial   2  oom at epoch 3, peak 1.50 GiB, batch 64  1.5 s"]
    assert "best 0.5000 (trial 0)" in progress._line() and "stopped early 2" in progress._line()


def test_a_failed_trial_shows_its_message_as_it_is(progress, told, capsys):
    message = "Traceback (most recent call last):\n  [bold]x[/bold]\nValueError: thirteen\n"
    progress.on_end(3, {}, numbered(told(TrialState.FAIL, reason="error", message=message), 3))
    assert capsys.readouterr().out == f"trial   3  error at epoch 3  1.5 s\n{message}"


def test_counts_and_the_running_default_are_on_the_line(progress):
    progress.on_start(0, None)
    progress.on_epoch(0, {"epoch": 1, "best_value": 0.7})
    assert progress._line().startswith(
        "running 1  done 0  stopped early 0  failed 0  of 10   nmse best -, default 0.7000")


def test_trials_of_an_earlier_start_set_the_mark(told, capsys):
    progress = Progress(total=10, done=2, objective="correlation", minimize=False)
    progress.seen(0, 0.5)
    progress.seen(1, 0.8)
    progress.seen(2, None)
    progress.on_end(3, {}, numbered(told(values=[0.7]), 3))
    assert "best so far" not in capsys.readouterr().out
    assert "best 0.8000 (trial 1), default 0.5000" in progress._line()


def test_quiet_prints_nothing(told, capsys):
    progress = Progress(5, 0, "nmse", True, quiet=True)
    with progress:
        progress.on_end(1, {}, numbered(told(values=[0.7]), 1))
        progress.say("words")
    Progress.printer(True)("more words")
    assert capsys.readouterr().out == ""


def test_long_lines_are_not_broken_and_not_read_as_markup(capsys):
    Progress.printer(False)("[red]" + "x" * 300)
    assert capsys.readouterr().out == "[red]" + "x" * 300 + "\n"


def facts(**more):
    return {"space": "vq", "objective": "nmse", "sessions": ["a"], "fingerprints": {}, "seconds": 61.0,
            "folder": "runs/vq-1", "interrupted": False, **more}


def test_the_closing_block_sets_the_winner_beside_the_default_and_ends_with_what_to_run(study):
    ridge = {"velocity": {"r2": 0.25, "null": -0.01}, "unseen": {"r2": math.nan, "null": "nan"}}
    text = closing(summary(study, facts(ridge=ridge)))
    lines = text.splitlines()
    assert len(lines) <= 20
    assert lines[0] == "2 trials complete, 1 stopped early, 1 failed in 61 s"
    assert lines[1].split() == ["winner", "default"]
    assert lines[2].split() == ["trial", "1", "(epoch", "2)", "0", "(epoch", "2)"]
    assert any(x.split() == ["NMSE", "0.3000", "0.5000"] for x in lines)
    assert any(x.split() == ["correlation", "0.8000", "-"] for x in lines)
    assert "ridge on raw traces 0.2500, shifted (null) -0.0100" in text
    assert "tensorboard --logdir runs/vq-1" in text and "next         raycal confirm runs/vq-1" in text
    assert "raycal.load" in text and "one seed each" in lines[-1]


CONFIRMED = {"metric": "val/nmse", "direction": "minimize", "seeds": [1, 2, 3], "default": "0", "winner": "1",
             "searched": 2, "winners_curse": -0.02, "difference": {"mean": -0.1, "low": -0.15, "high": -0.05},
             "trials": {n: {"mean": m, "low": m - 0.01, "high": m + 0.01, "search_value": s, "failed": []}
                        for n, m, s in (("0", 0.42, 0.5), ("1", 0.32, 0.3))}, "verdict": "trial 1 beats the default"}


def test_what_is_confirmed_stands_in_the_block_and_the_test_comes_next(study):
    study.set_user_attr("confirm", CONFIRMED)
    text = closing(summary(study, facts()))
    assert "default      0.4200 [0.4100, 0.4300]   the search said 0.5000\n" in text
    assert "trial 1      0.3200 [0.3100, 0.3300]   the search said 0.3000   winner, its curse -0.0200" in text
    assert "difference   -0.1000 [-0.1500, -0.0500]" in text and "trial 1 beats the default" in text
    assert text.splitlines()[-1] == "next         raycal test runs/vq-1" and "one seed each" not in text


def test_blocks_that_were_opened_twice_are_no_test_any_more_and_the_search_goes_on(study):
    study.set_user_attr("confirm", CONFIRMED)
    study.set_user_attr("test", [{"when": "monday"}])
    once = closing(summary(study, facts()))
    assert "the sealed blocks were opened monday" in once and "only the first" not in once
    assert once.splitlines()[-1] == "next         python run_search.py --resume runs/vq-1 --more 20"
    study.set_user_attr("test", [{"when": "monday"}, {"when": "tuesday"}])
    assert "opened 2 times (first monday): only the first opening was a test" in closing(summary(study, facts()))


def test_classical_codes_at_the_winners_rate_stand_below_it_and_who_wins_is_said(study):
    whole = summary(study, facts())
    whole["best"]["metrics"]["val/bits_per_second"] = 55.25
    whole["baselines"] = {"PCA 8": {"nmse": 0.1, "asked": math.nan},
                          "transform code at 55.25 bits/s": {"nmse": 0.25, "asked": 55.25},
                          "residual k-means at 55.25 bits/s": {"nmse": 0.4, "asked": 55.25},
                          "transform code at 80 bits/s": {"nmse": 0.15, "asked": 80.0}}
    text = closing(whole)
    rows = [line.split() for line in text.splitlines() if "the winner" in line]
    assert [row[:3] for row in rows] == [["transform", "code", "0.2500"], ["residual", "k-means", "0.4000"]]
    assert rows[0][-3:] == ["loses", "to", "it"] and rows[1][-2:] == ["beats", "it"] and "55.25 bits/s" in text
    assert len(text.splitlines()) <= 20


def test_classical_generators_stand_below_a_generative_winner_and_who_wins_is_said(study):
    whole = summary(study, facts())
    whole["best"]["metrics"] = {"val/generation": 1.5, "val/c2st": 0.8, "val/copied": 0.0, "val/evaluations": 16.0}
    whole["generators"] = {"Gaussian": {"generation": 1.25}, "autoregression": {"generation": 2.5}}
    text = closing(whole)
    rows = [line.split() for line in text.splitlines() if "the winner" in line]
    assert [row[:2] for row in rows] == [["Gaussian", "1.2500"], ["autoregression", "2.5000"]]
    assert rows[0][-3:] == ["loses", "to", "it"] and rows[1][-2:] == ["beats", "it"]
    assert "generation score          1.5000" in text and "C2ST, AUC                 0.8000" in text


def test_a_confirmed_winner_is_set_beside_generators_by_its_interval(study):
    whole = summary(study, facts())
    whole["best"]["metrics"] = {"val/generation": 1.2}
    whole["generators"] = {"a": {"generation": 1.1}, "b": {"generation": 1.25}, "c": {"generation": 1.4}}
    entry = {"mean": 1.25, "low": 1.2, "high": 1.3, "search_value": 1.2, "failed": []}
    best = str(whole["best"]["number"])
    whole["confirm"] = {"metric": "val/generation", "direction": "minimize", "seeds": [1, 2], "winner": None,
                        "default": "0", "trials": {best: entry}, "verdict": "", "searched": 1}
    lines = [line for line in closing(whole).splitlines() if "generation score: the winner" in line]
    said = [line.split("the winner ")[1] for line in lines]
    assert said == [f"{words} it over fresh seeds" for words in ("loses to", "is no different from", "beats")]


def test_what_the_codes_cost_a_coder_stands_below_what_they_measure(study):
    whole = summary(study, facts())
    whole["best"]["metrics"]["val/bits_per_second"] = 50.0
    cost = {"independent_bits_per_second": 55.5, "conditional_bits_per_second": 41.25,
            "joint_bits_per_second": 47.75, "codebooks": [{}, {}]}
    whole["code_length"] = {"winner": cost, "default": {**cost, "independent_bits_per_second": 60.5}}
    row, = (line for line in closing(whole).splitlines() if line.startswith("bits/s, coded"))
    assert row.split()[2:4] == ["55.5", "60.5"]
    assert row.endswith("the winner's given the step before 41.25, the level before 47.75")
    whole["code_length"] = {"winner": {**cost, "codebooks": [{}]}}
    assert "level" not in closing(whole) and len(closing(whole).splitlines()) <= 20


def test_several_types_of_quantizer_are_set_side_by_side(study, told):
    lines = closing(summary(study, facts())).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("best of each"))
    assert [line.split() for line in lines[at + 1:at + 3]] == [
        ["ema", "0.3000", "-", "-", "1"], ["vq", "0.5000", "-", "-", "0"]]
    study.add_trial(told(TrialState.PRUNED, reports=(0.7,), reason="stopped early", metrics={"val/nmse": 0.7},
                         config={"quantizer.type": "fsq"}))
    assert "stopped early at epoch 2" in closing(summary(study, facts()))
    whole = summary(study, facts())
    whole["quantizers"] = {"vq": whole["quantizers"]["vq"]}
    assert "best of each" not in closing(whole), "one type is no comparison"


def test_an_interrupted_search_says_how_to_go_on(study):
    text = closing(summary(study, facts(interrupted=True)))
    assert text.splitlines()[-1] == "next         python run_search.py --resume runs/vq-1"


def test_a_search_that_no_trial_completed_says_so(told):
    import optuna

    study = optuna.create_study()
    study.add_trial(told(TrialState.FAIL, reason="error"))
    text = closing(summary(study, facts()))
    assert "no trial completed, so there is no winner" in text and "best model" not in text


def test_a_default_that_has_not_trained_is_shown_as_absent(study):
    whole = summary(study, facts())
    whole["default"] = {"number": 0, "epoch": None, "metrics": {}}
    assert closing(whole).splitlines()[2].split() == ["trial", "1", "(epoch", "2)", "-"]
