"""Whole recordings held out: nothing of them reaches the weights that neurons share."""
from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from raycal import animals, api, inference
from raycal.config import Config
from raycal.errors import UserError
from raycal.metrics import cosmoothing
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate

SETTINGS = {"model.width": 16, "windows.length": 16, "windows.batch": 16, "windows.min_steps": 4, "windows.stride": 16,
            "vae.latents": 4, "vae.identity": 8, "training.epochs": 1, "training.device": "cpu"}
CONFIG = Config().replace({"model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2",
                           **SETTINGS})


@pytest.fixture(scope="module")
def sessions():
    torch.set_num_threads(1)
    return [simulate(n, 2000, rate=5.0, noise=0.1, seed=seed, population=5, id=f"a{seed}").session
            for seed, n in ((1, 16), (2, 12), (3, 9))]


def trained(sessions, out, **settings):
    return api.train("vae", sessions, settings={**SETTINGS, **settings}, out=str(out))


def test_the_last_or_the_named_one_is_held_out_and_it_is_said(sessions):
    said: list[str] = []
    plain, nothing = animals.prepared(sessions, CONFIG, said.append)
    assert nothing is None and not said and plain.n_neurons == (16, 12, 9)
    assert plain.fingerprint == prepare(sessions, CONFIG.sessions, 16).fingerprint
    rest, held = animals.prepared(sessions, CONFIG.replace({"sessions.split": "animals"}), said.append)
    assert (rest.n_neurons, held.n_neurons) == ((16, 12), (9,)) and said[-1].startswith("held out     a3: ")
    rest, held = animals.prepared(sessions, CONFIG.replace({"sessions.held_out": ["a3", "a1"]}), said.append)
    assert (rest.n_neurons, held.n_neurons) == ((12,), (16, 9)) and said[-1].startswith("held out     a1, a3: ")
    assert rest.fingerprint == held.fingerprint != plain.fingerprint
    assert set(held.recordings[0].pieces) == {"train", "validation"}


def test_no_frame_of_it_moves_a_weight_and_its_figures_stand_beside_classical_ones(sessions, tmp_path):
    model = trained(sessions, tmp_path / "one", **{"sessions.split": "animals"})
    other = dataclasses.replace(sessions[2], traces=sessions[2].traces[::-1].copy())
    again = trained([*sessions[:2], other], tmp_path / "two", **{"sessions.split": "animals"})
    alone = trained(sessions[:2], tmp_path / "three")
    assert model.sessions == ("a1", "a2")
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]) and torch.equal(value, alone.model.state_dict()[name])

    found = json.loads((tmp_path / "one" / "held_out.json").read_text())
    dataset = prepare([sessions[2]], model.config.sessions, 16, log=lambda _: None)
    sizes = cosmoothing.best_sizes(dataset)
    assert found["a3"]["classical"] == pytest.approx(cosmoothing.baselines(dataset, 4, sizes=sizes))
    exported = (tmp_path / "one" / "model.pt").read_bytes()
    assert found["a3"]["model"] == pytest.approx(animals.of_model(dataset, exported)["a3"])
    assert found["a3"]["model"] > 0.2 and not (tmp_path / "three" / "held_out.json").exists()
    assert inference.load(tmp_path / "one").config.sessions.split == "animals"


@pytest.mark.parametrize("settings, words", [
    ({"sessions.held_out": ["a4"]}, "sessions.held_out: no session 'a4', did you mean 'a[123]'.* given are a1, a2, a3"),
    ({"sessions.held_out": ["a1", "a2", "a3"]}, "holding out a1, a2, a3 leaves no session to train on")])
def test_what_cannot_be_held_out_is_refused(settings, words, sessions):
    with pytest.raises(UserError, match=words.replace(", did", ".*did")):
        animals.prepared(sessions, CONFIG.replace(settings))
    with pytest.raises(UserError, match="holding out a1 leaves no session to train on; give more recordings"):
        animals.prepared(sessions[:1], CONFIG.replace({"sessions.split": "animals"}))
