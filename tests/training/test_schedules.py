from __future__ import annotations

import math

import pytest

from raycal.config import Optimizer
from raycal.training.schedules import TAIL, cosine_plateau, learning_rate, plateau, warmup

STEPS = 200


def rates(schedule: str, history=(), **settings) -> list[float]:
    settings = Optimizer(schedule=schedule, lr=1e-3, **settings)
    return [learning_rate(settings, at, STEPS, history) for at in range(STEPS)]


def test_warmup_is_linear_and_never_zero():
    assert [warmup(at, 4) for at in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup(0, 0) == 1.0


def test_constant():
    assert rates("constant", warmup=0.0) == [1e-3] * STEPS


def test_cosine_closed_form():
    got = rates("cosine", warmup=0.1, final=0.05)
    assert got[:20] == pytest.approx([1e-3 * (i + 1) / 20 for i in range(20)])
    want = [1e-3 * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (i - 20) / 179))) for i in range(20, STEPS)]
    assert got[20:] == pytest.approx(want)
    assert got[-1] == pytest.approx(5e-5)


def test_cosine_plateau_is_a_cosine_and_then_holds_its_last_value():
    turn = 1.0 - TAIL
    assert [cosine_plateau(p, 0.1) for p in (0.0, turn / 3, turn / 2)] == pytest.approx([1.0, 0.775, 0.55])
    assert [cosine_plateau(p, 0.1) for p in (turn, turn + TAIL / 2, 1.0, 1.5)] == pytest.approx([0.1] * 4)
    got = rates("cosine_plateau", warmup=0.1, final=0.05)
    assert got[:20] == pytest.approx([1e-3 * (i + 1) / 20 for i in range(20)])
    want = [0.05 + 0.95 * math.cos(0.5 * math.pi * min(1.0, (i - 20) / 179 / turn)) ** 2 for i in range(20, STEPS)]
    assert got[20:] == pytest.approx([1e-3 * share for share in want])
    tail = [rate for rate in got[20:] if rate == got[-1]]
    assert got[-1] == pytest.approx(5e-5) and len(tail) == pytest.approx(TAIL * 180, abs=1)


def test_step_closed_form():
    got = rates("step", warmup=0.0)
    assert got[0] == 1e-3 and got[98] == 1e-3
    assert got[110] == pytest.approx(1e-4) and got[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "cosine_plateau", "step", "plateau"])
@pytest.mark.parametrize("warm", [0.0, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("final", [0.0, 0.05, 1.0])
def test_never_negative_and_never_rising_after_warmup(schedule, warm, final):
    settings = Optimizer(schedule=schedule, warmup=warm, final=final)
    got = [learning_rate(settings, at, STEPS, [1.0] * (at // 10)) for at in range(3 * STEPS)]  # past its end too
    after = got[math.ceil(warm * STEPS):]
    assert min(got) >= 0.0
    assert max(got) <= settings.lr
    assert all(b <= a for a, b in zip(after, after[1:]))


def test_plateau_halves_after_each_run_without_improvement():
    assert plateau([], patience=3) == 1.0
    assert plateau([5, 4, 3, 2, 1], patience=3) == 1.0
    assert plateau([1, 2, 2], patience=3) == 1.0
    assert plateau([1, 2, 2, 2], patience=3) == 0.5
    assert plateau([1] + [2] * 6, patience=3) == 0.25
    assert plateau([1, 2, 2, 0.5, 2, 2, 2], patience=3) == 0.5
    assert plateau([1] * 100, final=0.05, patience=3) == 0.05


def test_plateau_does_not_compound_when_it_is_asked_again():
    history = [1.0] * 6
    assert {learning_rate(Optimizer(schedule="plateau", lr=1e-3), 150, STEPS, history) for _ in range(5)} == {5e-4}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "cosine_plateau", "step", "plateau"])
def test_one_step_runs(schedule):
    assert 0.0 < learning_rate(Optimizer(schedule=schedule, lr=1e-3), 0, 1) <= 1e-3
