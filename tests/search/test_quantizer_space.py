"""The space that compares all quantizers at one rate."""
import numpy as np
import optuna
import pytest

from raycal.models import bits_per_second
from raycal.models.quantizers import QUANTIZERS
from raycal.search import space as spaces
from raycal.search.plan import Plan, enqueue


@pytest.fixture
def space():
    return spaces.load("quantizers")


def test_the_first_trials_are_one_of_each_type_near_the_rate_limit_and_under_it(space):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    enqueue(study, Plan(space, space.base, (), None, ("val/nmse",), ("minimize",), None, 0.0), print)
    configs = [space.propose(study.ask()) for _ in QUANTIZERS]
    assert configs[0] == space.base and {c.quantizer.type for c in configs} == set(QUANTIZERS)
    limit = bits_per_second(space.base, 10.0)
    for config in configs:
        assert 0.95 * limit <= bits_per_second(config, 10.0) <= limit
        changed = {k for k, v in config.flat().items() if space.base.flat()[k] != v}
        assert changed <= {"windows.length", "optimizer.lr", "quantizer.type", "quantizer.codebook_size",
                           "quantizer.groups", "quantizer.levels",
                           "quantizer.code_dim", "model.downsample"}  # nothing was left to chance


def test_every_type_has_room_under_the_limit(space):
    rng, limit = np.random.default_rng(0), bits_per_second(space.base, 10.0)
    under = {kind: 0 for kind in QUANTIZERS}
    for _ in range(1000):
        _, config = space.draw(rng)
        under[config.quantizer.type] += bits_per_second(config, 10.0) <= limit
    assert min(under.values()) > 5


def test_a_type_is_asked_only_for_what_it_reads(space):
    rng, asked = np.random.default_rng(0), {kind: set() for kind in QUANTIZERS}
    for _ in range(200):
        params, config = space.draw(rng)
        asked[config.quantizer.type] |= {p for p in params if p.startswith("quantizer.")}
    assert asked["fsq"] == {"quantizer.type", "quantizer.codebook_size"}
    assert asked["lfq"] == asked["fsq"] | {"quantizer.commitment", "quantizer.entropy"}
    assert "quantizer.decay" not in asked["vq"] | asked["simvq"] and "quantizer.revive" not in asked["simvq"]
    assert {k for k, names in asked.items() if "quantizer.levels" in names} == {"rvq", "grvq"}
