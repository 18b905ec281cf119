from __future__ import annotations

import math

import pytest

from raycal.report import answer, classical
from raycal.search.keeper import FACTS


def test_rows_are_winner_default_and_the_codes_at_the_winners_rate(made):
    run = made().read()
    found = answer.rows(run)
    names = ["winner", "default", "transform code", "residual k-means", "k-means", "PCA 8"]
    assert [r.name.split(",")[0] for r in found] == names
    rate = run.winner.user_attrs["metrics"]["val/bits_per_second"]
    assert found[2].searched.mean == pytest.approx(0.7 * math.exp(-rate / 40)) and f"{rate:.4g} bits/s" in found[2].name
    assert found[0].searched.mean == min(t.values[0] for t in run.complete)
    assert all(math.isnan(r.confirmed.mean) and math.isnan(r.tested.mean) for r in found)


def test_a_code_that_takes_more_bits_is_not_set_against_the_winner():
    baselines = {"transform code at 20 bits/s": {"nmse": 0.5, "asked": 20.0},
                 "transform code at 40 bits/s": {"nmse": 0.2, "asked": 40.0}}
    assert classical.at_rate(baselines, "transform code", 30.0).nmse == 0.5
    assert classical.at_rate(baselines, "transform code", 40.0).nmse == 0.2
    assert classical.at_rate(baselines, "transform code", 10.0) is None


def test_a_search_alone_claims_nothing_and_says_what_to_run(made):
    run = made().read()
    said = " ".join(answer.headline(run))
    assert "looks better than the default" in said and "beats the default" not in said and "one seed each" in said
    assert answer.next_step(run)[1] == f"raycal confirm {run.path}"


@pytest.mark.parametrize("winner, words", [((0.36, 0.37, 0.35), "beats the default"),
                                           ((0.36, 0.60, 0.30), "is not shown to beat the default")])
def test_the_winner_beats_the_default_only_where_the_paired_interval_says_so(made, winner, words):
    one = made().confirm().test(winner=(0.36, 0.37, 0.35))
    opened = dict(one.study.user_attrs["test"][0])
    opened["winner"]["metrics"]["test/nmse"]["values"] = list(winner)
    one.study.set_user_attr("test", [opened])
    said = answer.headline(one.read())[0]
    assert f"{words}: " in said and "sealed test blocks over 3 seeds" in said
    assert answer.next_step(one.read()) is None


def test_classical_generators_are_set_beside_a_generative_model_in_every_column(made):
    one = made()
    drawn = {"Gaussian": {"generation": 0.1}, "autoregression": {"generation": 3.0}}
    one.study.set_user_attr(FACTS, {**one.study.user_attrs[FACTS], "objective": "generation", "generators": drawn})
    run = one.read()
    found = answer.rows(run)
    assert [(r.name, r.searched.mean) for r in found if r.classical] == [("Gaussian", 0.1), ("autoregression", 3.0)]
    said = " ".join(answer.headline(run))
    assert "Beside classical generators of the same blocks, fitted on train, it is below autoregression (3.0000), " \
        "is not below Gaussian (0.1000)." in said
    one.confirm().test()
    opened = dict(one.study.user_attrs["test"][0])
    opened["baselines"]["generators"] = {"Gaussian": {"generation": 0.7}, "autoregression": {"generation": 0.8}}
    opened["winner"]["metrics"]["test/generation"] = {"mean": 0.65, "low": 0.6, "high": 0.75, "values": [0.6, 0.7]}
    one.study.set_user_attr("test", [opened])
    found = answer.rows(one.read())
    assert [(r.confirmed.mean, r.tested.mean) for r in found if r.classical] == [(0.1, 0.7), (3.0, 0.8)]
    said = " ".join(answer.headline(one.read()))
    assert "There the winner is no different from the Gaussian: generation score 0.7000." in said
    assert "There the winner beats the autoregression: generation score 0.8000." in said


def test_models_that_predict_hidden_neurons_stand_beside_a_vae_in_words_and_figures(made_latents):
    one = made_latents()
    run = one.read()
    assert [(r.name, r.searched.mean) for r in answer.rows(run) if r.classical] \
        == [("ridge", 0.35), ("PCA 5", 0.1), ("factor analysis 5", 0.9)]
    said = " ".join(answer.headline(run))  # the best reaches 0.37
    assert "is above ridge (0.3500) and PCA 5 (0.1000), is not above factor analysis 5 (0.9000)" in said
    one.confirm((0.01, 0.05, -0.06))
    said = " ".join(answer.headline(one.read()))
    assert "beats PCA 5 (0.1000)" in said and "is no different from ridge (0.3500)" in said
    assert "loses to factor analysis 5 (0.9000)" in said
    one.test()
    run = one.read()
    said = " ".join(answer.headline(run))
    assert said.count("beats ridge") == 1 and "There the winner loses to factor analysis 2" in said
    tested = {r.name: r.tested.mean for r in answer.rows(run) if r.classical}
    assert tested["ridge"] == 0.2 and tested["factor analysis 2"] == 0.5 and math.isnan(tested["factor analysis 5"])


def test_classical_codes_win_in_words_and_by_the_figures_of_the_same_blocks(made):
    one = made().confirm()
    run = one.read()
    model = run.confirm["trials"][run.confirm["winner"]]["mean"]
    said = " ".join(answer.headline(run))
    code = answer.rows(run)[2]
    assert (code.searched.mean < model) == ("Classical coding of the same blocks wins" in said)
    one.test(winner=(0.01, 0.02, 0.01))
    said = " ".join(answer.headline(one.read()))
    assert "The model beats transform code" in said and "wins" not in said
    tested = answer.rows(one.read())[2].tested.mean
    assert tested == pytest.approx(1.1 * code.searched.mean)


def test_a_second_opening_is_marked(made):
    one = made().confirm().test().test(again=True)
    assert "only the first opening was a test" in " ".join(answer.headline(one.read()))


def test_overtuning_is_told_from_the_confirmed_leaders(made):
    one = made()
    run = one.read()
    assert f"raycal confirm {run.path}" in answer.overtuning(run)
    one.confirm((0.05, 0.05, 0.05))
    assert "0.0500 worse" in answer.overtuning(one.read())
    way = [t.number for t in one.read().incumbents() if str(t.number) in one.study.user_attrs["confirm"]["trials"]]
    assert len(way) > 1
    record = one.study.user_attrs["confirm"]
    table = record["trials"]
    table[str(way[-1])] = {**table[str(way[-1])], "mean": table[str(way[0])]["mean"] + 0.1}
    one.study.set_user_attr("confirm", {**record, "trials": table})
    assert answer.overtuning(one.read()).count("Overtuning: the search ended on trial") == 1


def test_no_complete_trial_is_said(made):
    run = made(trials=1).read()
    assert run.winner.number == 0 and "No configuration beats the default" in answer.headline(run)[0]
