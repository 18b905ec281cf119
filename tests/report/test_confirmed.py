from __future__ import annotations

import pytest

from raycal.report import answer, confirmed


@pytest.mark.parametrize("figures, value, words", [
    ({"low": 0.40, "high": 0.44}, 0.39, "beats"), ({"low": 0.40, "high": 0.44}, 0.45, "loses to"),
    ({"low": 0.40, "high": 0.44}, 0.42, "is no different from"),
    ({"low": "NaN", "high": "NaN"}, 0.42, "cannot be compared with"),
    ({"low": 0.40, "high": 0.44}, float("nan"), "cannot be compared with")])
def test_a_model_without_seeds_is_judged_by_the_interval_of_the_other(figures, value, words):
    assert confirmed.against(figures, value) == words


OPENING = {"baselines": {"cosmoothing": {"ridge": 0.3, "PCA 24": -0.1, "PCA 8": 0.42, "factor analysis 24": 0.5},
                         "cosmoothing_sizes": {"PCA": 8, "factor analysis": 24}},
           "winner": {"metrics": {"test/cosmoothing_r2": {"mean": 0.42, "low": 0.4, "high": 0.44}}}}


def test_hidden_neurons_are_said_model_by_model_at_the_winners_and_at_their_best_size():
    assert confirmed.hidden_neurons(OPENING) == [
        "the winner beats ridge: co-smoothing R2 0.3000", "the winner beats PCA 24: co-smoothing R2 -0.1000",
        "the winner is no different from PCA 8: co-smoothing R2 0.4200, its best size on validation",
        "the winner loses to factor analysis 24: co-smoothing R2 0.5000, its best size on validation"]


def test_of_a_model_with_codes_nothing_is_said_of_hidden_neurons(made):
    one = made().confirm().test()
    assert confirmed.hidden_neurons(one.study.user_attrs["test"][0]) == []


def test_the_report_says_the_same(made):
    one = made().confirm().test()
    opened = dict(one.study.user_attrs["test"][0])
    opened["baselines"] |= OPENING["baselines"]
    opened["winner"]["metrics"] |= OPENING["winner"]["metrics"]
    one.study.set_user_attr("test", [opened])
    said = " ".join(answer.headline(one.read()))
    assert all(f"There {line}." in said for line in confirmed.hidden_neurons(OPENING))
