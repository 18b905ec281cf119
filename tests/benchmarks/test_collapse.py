from __future__ import annotations

import importlib
import pathlib

import pytest
import torch

import raycal
from raycal import api
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate

BENCHMARKS = pathlib.Path(raycal.__file__).parents[1] / "benchmarks"
SMALL = {"vae.latents": 6, "vae.identity": 12, "model.width": 16, "windows.length": 16, "windows.min_steps": 12,
         "training.epochs": 6, "optimizer.lr": 1e-2, "kl.weight": 100.0}


@pytest.fixture
def collapse(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("collapse")


@pytest.fixture
def small(collapse):
    torch.set_num_threads(1)
    config = api.configure("vae", {**collapse.BASE, **SMALL}, {})[1]
    session = simulate(20, 2000, rate=5.0, noise=0.1, seed=1).session
    return prepare([session], config.sessions, 16, log=lambda _: None), config


def test_too_much_weight_collapses_the_posterior_and_free_bits_under_it_do_not(collapse, small):
    dataset, config = small
    gone, kept = (collapse.trained(dataset, config.replace(collapse.ROWS[name])) for name in ("constant", "free bits"))
    assert gone["val/rate"] < 0.1 and gone["val/active_units"] == 0 and abs(gone["val/cosmoothing_r2"]) < 0.05
    assert kept["val/rate"] > 0.5 and kept["val/active_units"] == 6 and kept["val/cosmoothing_r2"] > 0.15
    assert gone["weight"] == kept["weight"] == 100.0, "both under the same weight"


def test_the_target_lowers_the_weight_of_a_posterior_that_goes(collapse, small):
    dataset, config = small
    held = collapse.trained(dataset, config.replace({**collapse.ROWS["target"], "kl.target": 3.0}))
    assert held["weight"] < 20.0
