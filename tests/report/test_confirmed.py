from __future__ import annotations

import pytest

from raycal.report import answer, confirmed, sections
from raycal.report.blocks import Table
from raycal.search.keeper import FACTS


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


def test_classical_generators_are_said_one_by_one_and_less_is_better():
    figures = {"mean": 1.2, "low": 1.1, "high": 1.3}
    opening = {"winner": {"metrics": {"test/generation": figures}},
               "baselines": {"generators": {name: {"generation": v} for name, v in
                                            (("Gaussian", 1.25), ("autoregression", 1.4), ("copy", 1.0))}}}
    assert confirmed.generators(opening) == [
        "the winner is no different from the Gaussian: generation score 1.2500",
        "the winner beats the autoregression: generation score 1.4000",
        "the winner loses to the copy: generation score 1.0000"]
    assert confirmed.generators({**opening, "winner": {"metrics": {}}}) == []
    whole = {"when": "monday", "seeds": [1, 2], "verdict": "so", "epochs": {"winner": 3, "default": 3},
             "winner": {"number": 1, **opening["winner"]}, "default": {"number": 0, **opening["winner"]},
             "baselines": {**opening["baselines"], "classical": {}, "ridge": {}}}
    said = confirmed.openings([whole])
    assert f"  {'generation score':<16} {'1.2000 [1.1000, 1.3000]':<28} 1.2000 [1.1000, 1.3000]" in said
    assert [line.strip() for line in said if "Gaussian" in line] == confirmed.generators(opening)[:1]


def test_recordings_held_out_are_said_after_the_others():
    figures = {"mean": 0.42, "low": 0.4, "high": 0.44, "values": [0.41, 0.43]}
    opening = {"held_out": {"worm": {"winner": figures, "default": {**figures, "low": 0.3}, "sizes": {"PCA": 8},
                                     "classical": {"ridge": 0.41, "PCA 8": 0.3}}}}
    assert confirmed.held_out(opening) == [
        "held out, worm: co-smoothing R2 0.4200 [0.4000, 0.4400], of the default 0.4200 [0.3000, 0.4400]",
        "the winner is no different from ridge there: co-smoothing R2 0.4100",
        "the winner beats PCA 8 there: co-smoothing R2 0.3000, its best size on validation"]
    assert confirmed.held_out({}) == []


def test_of_a_model_with_codes_nothing_is_said_of_hidden_neurons(made):
    one = made().confirm().test()
    assert confirmed.hidden_neurons(one.study.user_attrs["test"][0]) == []


def test_the_report_says_the_same(made):
    one = made().confirm().test()
    opened = dict(one.study.user_attrs["test"][0])
    opened["baselines"] |= OPENING["baselines"]
    opened["winner"]["metrics"] |= OPENING["winner"]["metrics"]
    opened["held_out"] = {"worm": {"winner": OPENING["winner"]["metrics"]["test/cosmoothing_r2"], "sizes": {},
                                   "classical": {"ridge": 0.3}}}
    one.study.set_user_attr("test", [opened])
    said = " ".join(answer.headline(one.read()))
    assert all(f"There {line}." in said for line in confirmed.hidden_neurons(OPENING))
    assert "There held out, worm: co-smoothing R2 0.4200" in said and "beats ridge there" in said


def test_the_page_has_a_table_of_recordings_held_out(made):
    one = made()
    one.study.set_user_attr(FACTS, {**one.study.user_attrs[FACTS], "held_out": {
        "worm": {"winner": 0.41, "default": 0.4, "classical": {"ridge": 0.39, "PCA 8": 0.3}},
        "fly": {"winner": 0.5, "classical": {"ridge": 0.6, "PCA 4": 0.2}}}})
    table, = [b for b in sections.answer(one.read()) if isinstance(b, Table) and "held out" in b.title]
    assert list(table.head) == ["", "winner", "default", "ridge", "PCA 8", "PCA 4"]
    assert table.rows == [("worm", "0.4100", "0.4000", "0.3900", "0.3000", "-"),
                        ("fly", "0.5000", "-", "0.6000", "-", "0.2000")]
