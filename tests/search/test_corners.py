from __future__ import annotations

import dataclasses

import optuna
import pytest

from raycal.config import Config
from raycal.errors import UserError
from raycal.search import space as spaces
from raycal.search.corners import corners, extremes
from raycal.search.space import Space


def test_every_parameter_is_at_its_extremes_with_the_rest_as_by_default(space):
    found = {c.name: c.config for c in corners(space)}
    assert found[""] == space.base
    assert found["quantizer.codebook_size=512"] == space.base.replace({"quantizer.codebook_size": 512})
    assert found["optimizer.lr=0.0001"] == space.base.replace({"optimizer.lr": 1e-4})
    assert found["quantizer.type=vq"] == space.base.replace({"quantizer.type": "vq"})


def test_all_largest_is_there_for_every_type_of_quantizer(space):
    largest = {c.config.quantizer.type: c.config for c in corners(space) if c.name.startswith("all largest")}
    assert set(largest) == {"ema", "vq"}
    assert all(c.quantizer.codebook_size == 512 and c.optimizer.lr == 1e-2 for c in largest.values())
    assert largest["ema"].quantizer.decay == 0.99 and largest["vq"].quantizer.decay == space.base.quantizer.decay


def test_a_parameter_that_the_default_lacks_is_reached_by_the_choice_that_brings_it(space):
    other = dataclasses.replace(space, base=space.base.replace({"quantizer.type": "vq"}))
    found = {c.name: c.config for c in corners(other)}
    assert found["quantizer.decay=0.8"].quantizer.type == "ema" and found["quantizer.decay=0.8"].quantizer.decay == 0.8


@pytest.mark.parametrize("name", spaces.names())
def test_corners_of_a_shipped_space_hold_every_end_of_every_parameter(name):
    import numpy as np

    space = spaces.load(name)
    configs = [c.config for c in corners(space)]
    assert len(configs) == len(set(configs)) and configs[0] == space.base
    for parameter, distribution in space.distributions(np.random.default_rng(0)).items():
        seen = {c.get(parameter) for c in configs}
        assert set(extremes(distribution)) <= seen, parameter


def test_a_corner_that_cannot_be_built_is_named_with_what_is_wrong():
    """Random draws miss the very end of a range; a sampler that learns that large is good does not."""
    def propose(trial, base):
        size = trial.suggest_int("quantizer.codebook_size", 8, 4096)
        width = trial.suggest_int("model.width", 8, 512)
        return base.replace({**trial.params, "windows.length": 2 if (size, width) == (4096, 512) else 32})

    space = Space("odd", Config(), propose)
    with pytest.raises(UserError, match="--space odd: 1 of its corners cannot be built") as error:
        corners(space)
    assert "all largest: windows.length=2: must be from 4" in str(error.value)


def test_extremes_are_all_choices_or_both_ends():
    d = optuna.distributions
    assert extremes(d.CategoricalDistribution(("a", "b", "c"))) == ["a", "b", "c"]
    assert extremes(d.FloatDistribution(0.1, 0.9)) == [0.1, 0.9] and extremes(d.IntDistribution(2, 8)) == [2, 8]
