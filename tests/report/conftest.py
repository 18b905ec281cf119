"""Studies as a search leaves them, without one."""
from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial


@pytest.fixture
def told():
    """Make the frozen trial a search leaves; reports are its running bests by epoch."""
    def make(state=TrialState.COMPLETE, values=None, reports=(), params=None, **facts):
        params = params or {"quantizer.type": "vq"}
        known = {"quantizer.type": CategoricalDistribution(("vq", "ema")),
                 "quantizer.decay": FloatDistribution(0.8, 0.99), "optimizer.lr": FloatDistribution(1e-4, 1e-1)}
        return create_trial(state=state, values=values, params=params, distributions={k: known[k] for k in params},
                            user_attrs={"best_epoch": 2, "epochs": 3, "seconds": 1.5, "metrics": {}, **facts},
                            intermediate_values=dict(enumerate(reports, 1)))

    return make


@pytest.fixture
def study(told):
    """A default, a winner, one stopped, one over the rate limit, one crashed, one still running."""
    made = optuna.create_study(direction="minimize")
    made.add_trials([
        told(values=[0.5], ended_by="epochs", metrics={"val/nmse": 0.5}),
        told(values=[0.3], ended_by="patience", metrics={"val/nmse": 0.3, "val/r": 0.8},
             params={"quantizer.type": "ema", "quantizer.decay": 0.9}),
        told(TrialState.PRUNED, [0.2], (0.4, 0.2), reason="diverged"),
        told(TrialState.PRUNED, reason="over rate limit"),
        told(TrialState.FAIL, reason="error", message="ValueError: thirteen"),
        told(TrialState.RUNNING)])
    return made
