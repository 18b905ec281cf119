from __future__ import annotations

import numpy as np
import pytest

from raycal.report import parameters, plots


@pytest.fixture
def run(made):
    return made().read()


def numbers(figure):
    """The trials that a figure names."""
    return {int(t.split(":")[0].split(",")[0].split()[1]) for trace in figure.data if trace.text is not None
            for t in trace.text if t and t.startswith("trial ")}


def test_no_stopped_trial_stands_beside_complete_ones(run):
    stopped = {t.number for t in run.ended_early}
    assert stopped
    for figure in (plots.anytime(run), plots.rate_distortion(run), parameters.parallel(run),
                   *(drawn for _, drawn in parameters.slices(run))):
        assert numbers(figure) and not numbers(figure) & stopped
    drawn = {trace.name: trace for trace in plots.learning_curves(run).data}
    assert {int(t.split()[1]) for t in drawn["stopped early"].text} == stopped


def test_the_anytime_curve_is_the_running_minimum_over_training_time(run):
    curve = next(t for t in plots.anytime(run).data if t.name == "best so far")
    assert list(curve.y) == np.minimum.accumulate(curve.y).tolist() and curve.y[-1] == run.winner.values[0]
    assert curve.x[-1] == pytest.approx(sum(t.user_attrs["seconds"] for t in run.trials))


def test_the_front_holds_what_nothing_else_betters_in_both():
    rng = np.random.default_rng(0)
    points = [tuple(p) for p in rng.uniform(size=(200, 2))]
    front = plots.lower_front(points)
    for p in points:
        dominated = any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)
        assert (p in front) != dominated


def test_the_rate_plot_holds_the_classical_curves(run):
    drawn = {trace.name: trace for trace in plots.rate_distortion(run).data}
    assert {"transform code", "residual k-means", "k-means", "winner", "default", "front of the trials"} <= set(drawn)
    assert list(drawn["transform code"].x) == sorted(drawn["transform code"].x) and len(drawn["transform code"].x) >= 3


def order(made, how):
    one = made("ordered", trials=1)
    for k in range(8):
        final = 0.2 + 0.1 * k
        first = {"same": 1 + final, "reversed": 2 - final}[how]
        trial = one.study.ask()
        trial.set_user_attr("config", {"training.epochs": 9, "search.pruner": "asha"})
        trial.set_user_attr("objective_by_epoch", [[1, first], [2, final]])
        trial.set_user_attr("best_epoch", 2)
        one.study.tell(trial, final)
    return one.read()


@pytest.mark.parametrize("how, rho", [("same", 1.0), ("reversed", -1.0)])
def test_rank_correlation_is_one_where_the_first_epoch_orders_as_the_last_and_minus_one_reversed(made, how, rho):
    run = order(made, how)
    run.__dict__["trials"] = [t for t in run.trials if t.number]  # trial 0 has a course of its own
    assert dict(plots.agreement(run))[1] == pytest.approx(rho)
    assert plots.rungs(run) == [1, 3] and "the first rung (epoch 1)" in plots.said_of_agreement(run)


def test_rank_correlation_of_what_is_maximised_has_the_same_sign(made_latents):
    """Its trials get better by number at epoch 2 and are equal before it, so only the first epoch says nothing."""
    assert plots.agreement(made_latents().read()) == [(2, pytest.approx(1.0))]


def test_what_cannot_be_drawn_is_none_and_said(made):
    run = made(trials=3).read()
    assert plots.rank_correlation(run) is None and "takes at least 5" in plots.said_of_agreement(run)
    assert parameters.importance(run) is None and plots.overtuning(run) is None


def test_a_parameter_that_matters_in_its_branch_is_found_and_noise_is_not(made):
    run = made(trials=120, stopped=False).read()
    found = {i.parameter: i for i in parameters.importances(run)}
    assert set(found) == {"quantizer.type", "quantizer.codebook_size", "optimizer.lr", "quantizer.decay"}
    assert sum(i.share for i in found.values()) == pytest.approx(1.0)
    having = sum("quantizer.decay" in t.params for t in run.complete)
    assert found["quantizer.decay"].trials == having < len(run.complete)
    assert found["optimizer.lr"].share > found["quantizer.codebook_size"].share


def test_where_few_ran_to_their_end_all_are_compared_at_the_first_rung(made):
    one = made(trials=40)
    run = one.read()
    run.__dict__["trials"] = [t for t in run.trials if t.number % 4 == 3 or t.number < 4]  # 3 complete, 10 stopped
    compared = parameters.basis(run)
    assert len(compared.trials) == 13 and "first rung" in compared.words and "until epoch 1" in compared.words
    for t in compared.trials:
        assert compared.value(t) == t.user_attrs["objective_by_epoch"][0][1], "all by the same epoch"
    assert len(parameters.basis(one.read()).trials) == 30


def test_trials_without_a_parameter_pass_below_its_axis(run):
    names = parameters.varied(run)
    lacking = {t.number for t in run.complete if "quantizer.decay" not in t.params}
    for trace in parameters.parallel(run).data:
        for x, y, text in zip(trace.x, trace.y, trace.text):
            if x is not None and names[x] == "quantizer.decay":
                number = int(text.split(":")[0].split()[1])
                assert (y == parameters.ABSENT) == (number in lacking) == ("absent" in text)


def test_each_band_of_the_parallel_coordinates_is_a_fifth(run):
    sizes = [sum(v is None for v in trace.x) for trace in parameters.parallel(run).data if trace.name != "default"]
    assert sizes == [6] * 5 and sum(sizes) == len(run.complete)


def test_the_split_is_drawn_as_it_was_cut(run):
    bars = {trace.name: trace for trace in plots.split(run).data}
    assert list(bars["validation"].base[:2]) == [48.0, 128.0] and list(bars["validation"].x[:2]) == [10.0, 10.0]
    assert set(bars) == {"train", "validation", "test"}
