"""The space of generative models."""
import numpy as np
import optuna
import pytest

from raycal.models import build
from raycal.search import space as spaces


@pytest.fixture(scope="module")
def space():
    return spaces.load("diffusion")


def test_every_draw_is_a_model_that_can_be_built(space):
    rng, cores = np.random.default_rng(0), set()
    for _ in range(40):
        _, config = space.draw(rng)
        build(config, [6, 9], 2)
        cores.add((config.diffusion.core, config.diffusion.prior))
    assert len(cores) == 6


def test_what_the_issue_of_it_is_is_searched(space):
    searched = space.suggested(np.random.default_rng(0))
    assert searched >= {f"diffusion.{name}" for name in (
        "target", "times", "prior", "depth", "heads", "sampler", "evaluations", "guidance_dropout", "weighting")}
    assert searched >= {"model.width", "optimizer.ema", "optimizer.lr", "windows.batch"}
    assert not {"windows.length", "diffusion.guidance"} & searched


def test_optuna_takes_its_conditions(space):
    """A name has one distribution, whatever else was proposed."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.default())
    assert space.propose(study.ask()) == space.base
    for _ in range(30):
        trial = study.ask()
        config = space.propose(trial)
        assert ("diffusion.heads" in trial.params) == (config.diffusion.core == "unet")
        study.tell(trial, 1.0)
