"""The sealed blocks of a search of a model without codes: classical models of hidden neurons stand beside the winner."""
from __future__ import annotations

import json

import pytest

from raycal import cli
from raycal.config import Config
from raycal.metrics import cosmoothing
from raycal.search.study import read_study
from raycal.sessions.agreement import agree, sketch, with_validation
from raycal.sessions.prepare import assemble, record
from raycal.sessions.readers import npz, read_one
from raycal.sessions.simulate import simulate

SPACE = """from raycal.config import Config

BASE = Config().replace({"model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2",
                         "model.width": 16, "windows.length": 16, "windows.min_steps": 4, "windows.stride": 32,
                         "vae.latents": 2, "vae.identity": 8, "training.epochs": 2})


def propose(trial, base):
    trial.suggest_int("vae.latents", 2, 9)
    return base.replace(trial.params)
"""


@pytest.mark.slow
def test_the_winner_of_a_vae_stands_beside_ridge_pca_and_factor_analysis(ray_session, tmp_path, capsys):
    place, space, run = tmp_path / "s.npz", tmp_path / "small.py", tmp_path / "run"
    npz.write(simulate(n_neurons=14, n_frames=1500, rate=5.0, seed=3).session, place)
    space.write_text(SPACE)
    assert cli.main(["--space", str(space), "--sessions", str(place), "--trials", "2", "--pruner", "none", "--out",
                     str(run), "--confirm-top", "1", "--confirm-seeds", "2"]) == 0
    assert cli.main(["test", str(run), "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    opening, = json.loads((run / "test_receipt.json").read_text())
    latents = read_study(str(run)).trials[opening["winner"]["number"]].user_attrs["config"]["vae.latents"]

    session, settings = read_one(place), Config().sessions
    agreement = agree([sketch(session, settings)], settings, 16, log=lambda _: None)
    before, opened = (assemble(cut, [record(session, settings, cut, 0, parts, lambda _: None)]) for cut, parts in (
        (agreement, ("train", "validation")), (with_validation(agreement), ("train", "test"))))
    sizes = cosmoothing.best_sizes(before)
    assert opening["baselines"]["cosmoothing_sizes"] == sizes
    expected = cosmoothing.baselines(opened, latents, "test", sizes)
    assert opening["baselines"]["cosmoothing"] == pytest.approx(expected) and f"PCA {latents}" in expected
    assert "co-smoothing R2" in printed and all(f"{name}: co-smoothing R2 {r2:.4f}" in printed
                                                for name, r2 in expected.items())
