from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycal.config import Config
from raycal.training import kl

SHARE = st.floats(0.0, 1.0)


def settings(**values):
    return Config().replace({f"kl.{name}": value for name, value in values.items()}).kl


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.25, 0.5, 0.99, 1.0])
def test_each_shape_is_its_closed_form(progress):
    warmup, u = 0.5, min(1.0, progress / 0.5)
    expected = {"constant": 1.0, "linear": u, "cosine": math.sin(math.pi * u / 2) ** 2,
                "sigmoid": 1.0 if u == 1 else 0.5 * (1 + math.tanh(kl.STEEPNESS * (u - 0.5) / 2)),
                "cyclical": min(1.0, (4 * progress - math.floor(4 * progress)) / 0.5) if progress < 1 else 1.0,
                "step": float(progress >= 0.5)}
    for kind, share in expected.items():
        given_settings = settings(schedule=kind, weight=3.0, warmup=warmup, cycles=4)
        assert kl.weight(given_settings, progress) == pytest.approx(3.0 * share, abs=1e-12), kind


@given(kind=st.sampled_from(sorted(kl.SHAPES)), progress=st.floats(-1.0, 2.0), warmup=SHARE,
       cycles=st.integers(1, 20))
def test_no_shape_leaves_0_to_1(kind, progress, warmup, cycles):
    assert 0.0 <= kl.SHAPES[kind](progress, warmup, cycles) <= 1.0


@given(kind=st.sampled_from(["linear", "cosine", "sigmoid", "step"]), warmup=SHARE,
       at=st.lists(SHARE, min_size=2, max_size=2).map(sorted))
def test_a_warm_up_never_falls_and_ends_at_the_whole_weight(kind, warmup, at):
    shape = kl.SHAPES[kind]
    assert shape(at[0], warmup, 1) <= shape(at[1], warmup, 1)
    assert shape(1.0, warmup, 1) == 1.0


def test_asking_again_changes_nothing_and_no_schedule_holds_a_state():
    given_settings = settings(schedule="linear", weight=0.2, warmup=0.3)
    assert [kl.weight(given_settings, 0.15) for _ in range(100)] == [pytest.approx(0.1)] * 100
    assert kl.weight(given_settings, 0.9) == 0.2  # the fault of multiplying its own output leaves 1e-13 here


def test_the_controller_is_its_closed_form():
    assert kl.target([], 8.0) == 1.0
    assert kl.target([8.0] * 5, 8.0) == 1.0
    assert kl.target([4.0, 4.0, 6.0], 8.0) == pytest.approx(math.exp(kl.GAIN * (-0.5 - 0.5 - 0.25)))
    assert kl.target([0.0] * 100, 8.0) == kl.LOWEST
    assert kl.target([4.0, 80.0], 8.0) == 1.0  # never above the most, whatever the rate
    assert kl.target([5.0], 0.0) == 1.0  # no rate is low enough


@given(st.lists(st.floats(0.0, 100.0), max_size=12), st.floats(0.1, 50.0))
def test_the_controller_lowers_the_weight_when_the_rate_is_below_the_target_and_raises_it_above(rates, wanted):
    share = kl.target(rates, wanted)
    assert kl.LOWEST <= kl.target([*rates, wanted / 2], wanted) <= share <= kl.target([*rates, 2 * wanted], wanted) <= 1


def test_the_controller_reaches_its_target_on_a_model_whose_rate_falls_with_the_weight():
    rates: list[float] = []
    for _ in range(60):
        rates.append(20.0 * (1.0 - math.log(kl.target(rates, 30.0))))  # 20 nats at the whole weight
    assert rates[-1] == pytest.approx(30.0, rel=1e-3)
