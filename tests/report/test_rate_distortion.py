from __future__ import annotations

import io
import math
import warnings

import optuna
import pytest
from optuna.trial import TrialState

from raycal.config import Config
from raycal.report.rate_distortion import OTHERS, STYLES, TOP, Point, draw_rate_distortion, front, points, style

BASELINES = {"PCA 8": {"nmse": 0.5, "bits_per_second": math.nan}, "PCA 32": {"nmse": 0.2, "bits_per_second": "nan"},
             **{f"{name} at {rate:g} bits/s": {"nmse": 1 / rate, "bits_per_second": 0.9 * rate, "asked": rate}
                for name in ("transform code", "k-means", "residual k-means") for rate in (8.0, 2.0, 4.0)}}


def point(number, nmse, rate, kind="ema", nominal=None):
    return Point(number, kind, nmse, rate, nominal or 2 * rate)


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def saved(figure) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(out)
    return out.getvalue()


def test_complete_trials_with_finite_figures_are_points(told):
    study, config = optuna.create_study(), {"quantizer.type": "grvq", "quantizer.groups": 2}
    metrics = {"val/nmse": 0.5, "val/bits_per_second": 3.0}
    study.add_trials([told(values=[0.5], metrics=metrics, config=Config().replace(config).flat()),
                      told(values=[0.5], metrics={**metrics, "val/nmse": "nan"}, config=Config().flat()),
                      told(TrialState.PRUNED, reports=(0.5,), metrics=metrics, config=Config().flat())])
    assert points(study, lambda c: 10.0 * c.quantizer.groups) == [Point(0, "grvq", 0.5, 3.0, 20.0)]


def test_the_front_holds_what_nothing_beats():
    found = [point(0, 0.9, 1), point(1, 0.5, 3), point(2, 0.6, 4), point(3, 0.5, 5), point(4, 0.2, 9), point(5, 0.7, 1)]
    assert [p.number for p in front(found)] == [5, 1, 4]
    assert front([]) == []


def test_classical_codes_are_curves_by_rate_and_pca_levels():
    figure = draw_rate_distortion([point(0, 0.5, 3.0)], BASELINES)
    drawn = lines(figure)
    assert drawn["transform code"].get_xdata() == pytest.approx([1.8, 3.6, 7.2])
    assert drawn["k-means"].get_ydata() == pytest.approx([0.5, 0.25, 0.125])
    assert set(drawn["PCA 8 (no rate)"].get_ydata()) == {0.5} and set(drawn["PCA 32 (no rate)"].get_ydata()) == {0.2}
    assert saved(figure).startswith(b"\x89PNG")


def test_every_type_has_a_marker_and_a_colour_of_its_own():
    kinds = [*STYLES, "entropy_coded", "new"]
    assert len({style(k, kinds)[0] for k in kinds}) == len({style(k, kinds)[1] for k in kinds}) == len(kinds)
    assert style("entropy_coded", kinds) == OTHERS[0]
    figure = draw_rate_distortion([point(i, 0.5, 1.0 + i, kind) for i, kind in enumerate(kinds)], {})
    assert [c.get_label() for c in figure.axes[0].collections[:10]] == kinds


def test_winner_and_default_carry_their_code_length():
    found = [point(0, 0.9, 2.0), point(1, 0.5, 3.0)]
    lengths = {"winner": {"independent_bits_per_second": 4.5}, "default": {"independent_bits_per_second": 2.5}}
    figure = draw_rate_distortion(found, BASELINES, {"winner": 1, "default": 0}, lengths)
    assert lines(figure)["code length"].get_xdata() == [4.5]
    assert {t.get_text() for t in figure.axes[0].texts} == {"winner", "default"}
    alone = draw_rate_distortion(found, BASELINES, {"winner": 0, "default": 0}, {})
    assert [t.get_text() for t in alone.axes[0].texts] == ["winner = default"]


def test_what_the_axes_cannot_hold_is_said():
    found = [point(0, 0.5, 2.0), point(1, 30.0, 3.0), point(2, 0.99, 0.0)]
    axis = draw_rate_distortion(found, {}).axes[0]
    assert "2 trials, 1 with NMSE over 1.25 at the edge, 1 that use one code alone" in axis.get_title(loc="left")
    assert axis.get_ylim() == (0.0, pytest.approx(TOP * 1.02))
    assert saved(draw_rate_distortion([point(0, 0.99, 0.0)], BASELINES)), "a run of which nothing has a rate"
