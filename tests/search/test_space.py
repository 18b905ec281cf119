from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from raycal import api
from raycal.config import Config
from raycal.errors import UserError
from raycal.search import space as spaces
from raycal.search.space import Space


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def windowed(suggest):
    def propose(trial, base):
        suggest(trial)
        return base.replace(trial.params)

    return Space("windowed", Config().replace({"windows.length": 32}), propose)


@pytest.mark.parametrize("name", spaces.names())
def test_every_installed_space_holds_its_default_and_draws_that_stand(name, rng):
    space = spaces.load(name)
    default = space.default()
    assert space.base.replace(default) == space.base
    distributions = space.distributions(rng)
    assert set(default) <= set(distributions)
    for _ in range(50):
        params, config = space.draw(rng)
        assert all(config.get(k) == v for k, v in params.items())
    assert spaces.purpose(name)


def test_conditional_parameters_are_among_the_distributions(space, rng):
    assert "quantizer.decay" in space.distributions(rng)
    assert space.conditional(rng)
    held = dataclasses.replace(space, fixed={"quantizer.type": "vq"})
    assert not held.conditional(rng)
    assert "quantizer.decay" not in held.distributions(rng)


def test_held_settings_are_used_and_not_searched(space, rng):
    held = dataclasses.replace(space, fixed={"optimizer.lr": 0.5})  # outside the searched range: held is held
    assert "optimizer.lr" not in held.distributions(rng)
    for _ in range(20):
        params, config = held.draw(rng)
        assert config.optimizer.lr == 0.5 and "optimizer.lr" not in params
    assert "optimizer.lr" not in held.default()


def test_draws_fill_the_range_and_respect_steps(rng):
    def propose(trial, base):
        trial.suggest_int("quantizer.codebook_size", 8, 512, log=True)
        trial.suggest_int("windows.batch", 8, 40, step=8)
        trial.suggest_float("model.dropout", 0.0, 0.5, step=0.25)
        return base.replace(trial.params)

    space = Space("steps", Config(), propose)
    draws = [space.draw(rng)[0] for _ in range(400)]
    assert {d["windows.batch"] for d in draws} == {8, 16, 24, 32, 40}
    assert {d["model.dropout"] for d in draws} == {0.0, 0.25, 0.5}
    sizes = np.array([d["quantizer.codebook_size"] for d in draws])
    assert sizes.min() >= 8 and sizes.max() <= 512
    assert 0.4 < np.mean(sizes < 64) < 0.6  # 64 is the middle of a log range


@pytest.mark.parametrize("suggest, expected", [
    (lambda t: t.suggest_categorical("windows.length", [16, 32, 64]), (16, 64)),
    (lambda t: t.suggest_int("windows.length", 16, 4096), (16, 4096)),
    (lambda t: None, (32, 32))])
def test_window_range_reaches_the_ends_of_the_space(suggest, expected, rng):
    assert windowed(suggest).windows(rng) == expected


@pytest.mark.parametrize("suggest, expected", [
    (lambda t: t.suggest_categorical("windows.length", [16, 32, 64]), {16, 32}),
    (lambda t: t.suggest_int("windows.length", 38, 64), {38, 39, 40})])
def test_a_limit_narrows_the_windows_that_are_proposed(suggest, expected, rng):
    space = dataclasses.replace(windowed(suggest), limits={"windows.length": 40})
    assert {space.draw(rng)[1].windows.length for _ in range(100)} == expected


def test_default_outside_the_searched_range_names_value_and_fix(space):
    far = dataclasses.replace(space, base=space.base.replace({"optimizer.lr": 0.5}))
    with pytest.raises(UserError, match=r"optimizer\.lr=0\.5 .*outside the range.*\n?.*--set"):
        far.default()


def test_unknown_space_names_the_nearest_and_the_installed():
    with pytest.raises(UserError, match="'grqv'.*did you mean 'grvq'"):
        spaces.load("grqv")
    with pytest.raises(UserError, match="installed: .*grvq"):
        spaces.load("zebra")


def test_space_file_is_loaded_by_path(space_file, rng):
    space = spaces.load(space_file)
    assert space.name == "tiny" and space.source == space_file
    assert space.default() == {"quantizer.type": "ema", "quantizer.codebook_size": 16, "optimizer.lr": 3e-3}


@pytest.mark.parametrize("text, message", [
    ("x = 1", "needs BASE"), ("1 / 0", "ZeroDivisionError"), ("import nothing_of_this_name", "ModuleNotFoundError"),
    ("from raycal.config import Config\nBASE = Config()\ndef propose(t, b):\n    t.suggest_int('model.widht', 4, 8)\n"
     "    return b", "unknown setting 'model.widht'; did you mean 'model.width'")])
def test_file_that_is_no_space_says_what_is_wrong(text, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        api.configure(str(path), {}, {})
    assert "mine.py" in str(caught.value)


def test_missing_space_file_is_named():
    with pytest.raises(UserError, match="nowhere.py: no such file"):
        spaces.load("nowhere.py")
