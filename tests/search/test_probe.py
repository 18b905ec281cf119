from __future__ import annotations

import pytest

from raycal.config import Config
from raycal.search.probe import derived, stopped_after

CONFIG = Config().replace({"training.epochs": 27, "search.keep": 5})
STEP = {"step": 0.01, "steps": 30.0, "judging": 0.2}


def test_the_average_trial_of_successive_halving_by_hand():
    """Rungs 3, 9, 27: 3 epochs for all, 6 more for one in three, 18 more for one in nine."""
    assert stopped_after("asha", 27) == (3, pytest.approx(3 + 6 / 3 + 18 / 9))
    assert stopped_after("hyperband", 27) == stopped_after("asha", 27)
    assert stopped_after("none", 27) == (27, 27) and stopped_after("median", 27) == (3, 15)
    assert stopped_after("asha", 1) == (1, 1.0)


def test_the_average_trial_is_as_long_as_optunas_pruner_lets_it_be():
    """Trials whose rank is settled at the first epoch: the share that passes a rung is what the estimate says."""
    import numpy as np
    import optuna

    from raycal.search.study import make_pruner

    study = optuna.create_study(pruner=make_pruner("asha", 27), sampler=optuna.samplers.RandomSampler(seed=1))
    rng, lengths = np.random.default_rng(1), []
    for _ in range(400):
        trial, value = study.ask(), rng.random()
        for epoch in range(1, 28):
            trial.report(value, epoch)
            if trial.should_prune():
                break
        lengths.append(epoch)
        study.tell(trial, value)
    assert np.mean(lengths) == pytest.approx(stopped_after("asha", 27)[1], rel=0.25)


def test_the_duration_follows_from_the_steps():
    found = derived(CONFIG, [STEP, STEP], trials=21, trainings=9, slots=2)
    epoch = 0.01 * 30 + 0.2
    assert found["epoch"] == (epoch,) * 3
    assert found["search"] == pytest.approx((epoch * (27 + 20 * 7) / 2, epoch * (27 + 20 * 3) / 2, epoch * 21 * 27 / 2))
    assert found["confirm"] == (9, pytest.approx(epoch * 27 * 5)), "five rounds of two"


def test_the_range_widens_with_what_the_corners_cost():
    slow = {**STEP, "step": 0.1}
    expected, low, high = derived(CONFIG, [STEP, STEP, STEP, slow, slow], 21, 0, 1)["search"]
    plain = derived(CONFIG, [STEP] * 5, 21, 0, 1)["search"]
    assert low == pytest.approx(plain[1]) and expected > plain[0] and high > plain[2]
    assert derived(CONFIG, [STEP], 0, 0, 4)["search"] == (0.0, 0.0, 0.0), "nothing is left to train"
