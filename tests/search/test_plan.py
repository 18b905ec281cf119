from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import optuna
import pytest

from raycal import models
from raycal.config import Config
from raycal.errors import UserError
from raycal.search.plan import Plan, check_decodable, check_search, enqueue, make_plan
from raycal.search.space import Space
from raycal.sessions.agreement import sketch
from raycal.sessions.session import Session
from raycal.sessions.split import longest_window, split


def session(n_frames=1200, id="a", rate=10.0):
    rng = np.random.default_rng(len(id) + n_frames)
    return Session.build(id=id, traces=rng.normal(size=(n_frames, 4)).astype(np.float32), rate=rate,
                         behavior=np.arange(n_frames), behavior_names=("x",))


def test_recordings_held_out_come_last_and_are_agreed_on_with_the_others():
    base = {"model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2"}
    space = Space("plain", Config().replace({**base, "windows.length": 16, "sessions.held_out": ["b"]}),
                  lambda trial, base: base)
    sessions = [session(1200, "a"), session(1400, "b"), session(1300, "c")]
    plan, said = planned(space, sessions)
    assert [s.id for s in plan.sketches] == ["a", "c"] and [s.id for s in plan.held_out] == ["b"]
    assert (len(plan.agreement.splits), len(plan.held_agreement.splits)) == (2, 1)
    assert any(line.startswith("held out     b: ") for line in said)
    assert plan.held_agreement.splits[0].pieces == split(sessions[1], space.base.sessions, 16).pieces
    whole, _ = planned(dataclasses.replace(space, base=space.base.replace({"sessions.held_out": []})), sessions)
    assert whole.held_out == () and whole.agreement.fingerprint != plan.agreement.fingerprint


def windowed(choices=(16, 32, 64), length=32, **settings):
    def propose(trial, base):
        trial.suggest_categorical("windows.length", list(choices))
        trial.suggest_int("quantizer.codebook_size", 8, 512, log=True)
        return base.replace(trial.params)

    base = {"windows.length": length, "quantizer.codebook_size": 64, **settings}
    return Space("windowed", Config().replace(base), propose)


def planned(space, sessions):
    said = []
    return make_plan(space, space.base, [sketch(s, space.base.sessions) for s in sessions], said.append), said


@pytest.mark.parametrize("objective, keys, directions", [
    ("nmse", ("val/nmse",), ("minimize",)), ("correlation", ("val/r",), ("maximize",)),
    ("val/nmse, behavior_r2", ("val/nmse", "val/behavior_r2"), ("minimize", "maximize"))])
def test_an_objective_becomes_a_metric_and_a_direction(objective, keys, directions):
    plan, _ = planned(windowed(**{"search.objective": objective, "search.pruner": "none"}), [session()])
    assert (plan.objectives, plan.directions) == (keys, directions)


@pytest.mark.parametrize("objective, message", [
    ("nsme", "did you mean 'nmse'"), ("zebra", "use one of nmse, correlation"), ("nmse,", "no such yardstick"),
    ("val/loss", "coefficients that the search changes"), ("train/loss", "coefficients that the search changes"),
    ("nmse,loss", "coefficients that the search changes")])
def test_an_objective_that_is_no_yardstick_is_refused_before_anything_is_read(objective, message):
    with pytest.raises(UserError, match=message):
        check_search(windowed(), Config().replace({"search.objective": objective, "search.pruner": "none"}))


def test_gp_is_refused_for_a_conditional_space_and_beside_a_pruner(space):
    gp = {"search.sampler": "gp", "search.pruner": "none"}
    with pytest.raises(UserError, match="--sampler gp: the space small .*use --sampler tpe"):
        check_search(space, space.base.replace(gp))
    held = dataclasses.replace(space, fixed={"quantizer.type": "vq"})
    check_search(held, space.base.replace(gp))
    with pytest.raises(UserError, match="--sampler gp with --pruner asha"):
        check_search(held, space.base.replace({"search.sampler": "gp"}))


def test_a_pareto_search_is_refused_beside_a_pruner(space):
    two = {"search.objective": "nmse,correlation"}
    with pytest.raises(UserError, match="nmse,correlation with --pruner asha.*--pruner none"):
        check_search(space, space.base.replace(two))
    check_search(space, space.base.replace({**two, "search.pruner": "none"}))


def test_a_space_that_fits_is_left_alone():
    space = windowed()
    plan, said = planned(space, [session(6000)])
    assert plan.config == space.base and plan.space.limits == {} and said == []
    assert plan.agreement.window >= 64


@pytest.mark.parametrize("default, kept", [(64, 32), (32, 32), (16, 16)])
def test_windows_that_do_not_fit_the_tightest_session_are_left_out_and_said(default, kept):
    space, sessions = windowed(length=default, **{"sessions.gap": 1.0}), [session(6000, "long"), session(680, "short")]
    fits = longest_window(sessions[1], space.base.sessions)
    assert 32 <= fits < 64
    plan, said = planned(space, sessions)
    assert said[0] == (f"windows of up to 64 frames narrowed to 32: the shortest block (session short) holds {fits}")
    assert plan.config.windows.length == plan.space.default()["windows.length"] == kept
    rng = np.random.default_rng(0)
    assert {plan.space.draw(rng)[1].windows.length for _ in range(50)} == {16, 32}
    assert plan.agreement.window >= 32


def test_a_recording_too_short_for_the_smallest_window_is_refused_with_the_fix():
    with pytest.raises(UserError, match=r"session short: too few frames.*windows of 16\nfix: --set windows.length="):
        planned(windowed(**{"sessions.gap": 1.0}), [session(6000, "long"), session(200, "short")])


def test_only_the_first_session_narrows_when_only_it_is_used():
    space = windowed(**{"sessions.gap": 1.0, "sessions.mode": "first_only"})
    plan, said = planned(space, [session(6000, "long"), session(680, "short")])
    assert plan.space.limits == {} and len(plan.agreement.splits) == 1


def test_a_window_is_judged_at_the_rate_the_sessions_are_brought_to():
    slow = windowed(length=32, **{"sessions.resample": 5.0, "sessions.gap": 1.0})
    plan, said = planned(slow, [session(6000)])
    assert plan.space.limits == {} and said == [] and plan.rate_limit == pytest.approx(6 * 8 / 32 * 5)
    assert longest_window(session(1100), slow.base.sessions) > 64  # at its own 10 Hz; half as many frames at 5 Hz
    plan, said = planned(slow, [session(1100)])
    assert said == ["windows of up to 64 frames narrowed to 32: the shortest block (session a) holds 34"]


def test_judging_by_a_behaviour_that_never_changes_is_refused():
    plan, _ = planned(windowed(**{"search.objective": "behavior_r2"}), [session(6000)])
    check_decodable(plan, [(), ("x",)])
    with pytest.raises(UserError, match="nothing to decode .x: constant or not observed.*\nfix: give recordings"):
        check_decodable(plan, [(), ()])


def test_the_rate_limit_is_the_rate_of_the_default():
    plan, _ = planned(windowed(), [session(6000)])
    assert plan.rate_limit == pytest.approx(6 * 8 / 32 * 10)  # log2 64 bits, 8 codes of 4 frames in 32, 10 Hz
    assert plan.rate(plan.config) == models.bits_per_second(plan.config, 10.0) == plan.rate_limit


def test_a_rate_limit_of_the_user_is_kept_and_a_pareto_search_has_none():
    assert planned(windowed(**{"search.rate_limit": 12.0}), [session(6000)])[0].rate_limit == 12.0
    two = windowed(**{"search.objective": "nmse,correlation", "search.pruner": "none"})
    assert planned(two, [session(6000)])[0].rate_limit == 0.0


def test_a_rate_limit_that_nothing_meets_is_refused_with_the_least_there_is():
    with pytest.raises(UserError, match=r"rate_limit=1 bits/s: nothing meets it.* least takes 7\.5, the default 15"):
        planned(windowed(**{"search.rate_limit": 1.0}), [session(6000)])


def plan_of(space, **settings):
    config = space.base.replace(settings)
    return Plan(dataclasses.replace(space, base=config), config, (), None, ("val/nmse",), ("minimize",), lambda c: 0.0, 0.0)


def waiting(record):
    return [t.system_attrs["fixed_params"] for t in record.study.get_trials(deepcopy=False)]


def test_the_default_comes_first_then_the_spaces_own_points(run, space):
    space = dataclasses.replace(space, first=({"optimizer.lr": 3e-3}, {"optimizer.lr": 99.0, "quantizer.type": "vq"},
                                              {"quantizer.typo": 1, "quantizer.type": "vq"}))
    study = optuna.create_study()
    enqueue(study, plan_of(space), print)
    enqueue(study, plan_of(space), print)  # a driver that died in between does it again
    points = waiting(SimpleNamespace(study=study))
    assert points == [space.default(), {"optimizer.lr": 3e-3}, {"quantizer.type": "vq"}]


def test_a_warm_start_tries_the_best_complete_trials_of_another_run_first(run, space, complete):
    record = run.open()
    for value in (0.5, 0.3, 0.4, 0.9, 0.8, 0.7):
        complete(record, value)
    number, _ = record.ask()
    record.epoch(number, 1, 0.01, 0.01)
    record.finish(number, optuna.trial.TrialState.PRUNED, None, {"reason": "diverged"})
    earlier = [record.study.trials[n].params for n in (1, 2, 5, 4)]  # the best, without the default: it comes anyway
    study, said = optuna.create_study(), []
    enqueue(study, plan_of(space, **{"search.warm_start": str(run.path)}), said.append)
    assert waiting(SimpleNamespace(study=study)) == [space.default(), *earlier]
    assert said == [f"warm start: the 5 best configurations of {run.path} are tried first"]
    first, second = study.ask(), study.ask()
    assert space.propose(first) == space.base and space.propose(second) == space.base.replace(earlier[0])


def test_a_warm_start_from_no_run_is_refused(space, tmp_path):
    with pytest.raises(UserError, match="no run there"):
        enqueue(optuna.create_study(), plan_of(space, **{"search.warm_start": str(tmp_path)}), print)


def test_scores_of_windows_of_different_lengths_are_not_compared():
    """A space that searches the length is refused for generative models, unless it is held."""
    base = {"model.family": "diffusion", "search.objective": "generation", "model.downsample": 1}
    space = windowed(**base)
    with pytest.raises(UserError, match="--space windowed searches windows.length.*--set windows.length=32"):
        check_search(space, space.base)
    check_search(dataclasses.replace(space, fixed={"windows.length": 32}), space.base)
