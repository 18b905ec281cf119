"""The sealed blocks of a search of a model without codes: classical models of hidden neurons stand beside the winner."""
from __future__ import annotations

import json

import pytest

from raycal import animals, cli
from raycal.config import Config
from raycal.metrics import cosmoothing
from raycal.search.study import read_study
from raycal.sessions.agreement import agree, sketch, some, with_validation
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
@pytest.mark.timeout(1200)  # a search, a confirmation and a test; workers of Ray wait on a busy machine
def test_the_winner_of_a_vae_stands_beside_ridge_pca_and_factor_analysis(ray_session, tmp_path, capsys):
    """On blocks of the animal that it was trained on, and on those of one that was held out."""
    space, run = tmp_path / "small.py", tmp_path / "run"
    for seed, n in ((1, 14), (2, 12)):
        npz.write(simulate(n, 1500, rate=5.0, seed=seed, population=3, id=f"a{seed}").session, tmp_path / f"{seed}.npz")
    space.write_text(SPACE)
    assert cli.main(["--space", str(space), "--sessions", str(tmp_path / "*.npz"), "--trials", "2", "--pruner", "none",
                     "--split", "animals", "--out", str(run), "--confirm-top", "1", "--confirm-seeds", "2"]) == 0
    searched = json.loads((run / "summary.json").read_text())
    assert cli.main(["test", str(run), "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    opening, = json.loads((run / "test_receipt.json").read_text())
    latents = read_study(str(run)).trials[opening["winner"]["number"]].user_attrs["config"]["vae.latents"]

    sessions, settings = [read_one(tmp_path / f"{k}.npz") for k in (1, 2)], Config().sessions
    agreement = agree([sketch(s, settings) for s in sessions], settings, 16, log=lambda _: None)

    def of(i, cut, parts):
        return assemble(some(cut, slice(i, i + 1)), [record(sessions[i], settings, cut, i, parts, lambda _: None)])

    (before, opened), (held_before, held) = ([of(i, agreement, ("train", "validation")),
                                              of(i, with_validation(agreement), ("train", "test"))] for i in (0, 1))
    sizes = cosmoothing.best_sizes(before)
    assert opening["baselines"]["cosmoothing_sizes"] == sizes
    expected = cosmoothing.baselines(opened, latents, "test", sizes)
    assert opening["baselines"]["cosmoothing"] == pytest.approx(expected) and f"PCA {latents}" in expected
    assert all(f"{name}: co-smoothing R2 {r2:.4f}" in printed for name, r2 in expected.items())

    assert searched["sessions"] == ["a1"] and list(searched["held_out"]) == list(opening["held_out"]) == ["a2"]
    searched_latents = searched["best"]["params"].get("vae.latents", 2)
    assert searched["held_out"]["a2"]["classical"] == pytest.approx(
        cosmoothing.baselines(held_before, searched_latents, sizes=cosmoothing.best_sizes(held_before)))
    exported = (run / "best" / "model.pt").read_bytes()
    assert searched["held_out"]["a2"]["winner"] == pytest.approx(animals.of_model(held_before, exported)["a2"], abs=1e-6)
    there = opening["held_out"]["a2"]
    assert there["sizes"] == cosmoothing.best_sizes(held_before) and len(there["winner"]["values"]) == 2
    assert there["classical"] == pytest.approx(cosmoothing.baselines(held, latents, "test", there["sizes"]))
    assert "held out, a2: co-smoothing R2" in printed and "held out     a2\n" in printed
