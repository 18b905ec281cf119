"""What a search does once its trials are over, where something of it cannot be done."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

import raycal
from raycal.config import Config
from raycal.search import ending
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate


def study_of(*figures):
    """Make a study of complete trials with (NMSE, bits/s)."""
    study = optuna.create_study()
    study.add_trials([create_trial(value=n, user_attrs={"metrics": {"val/nmse": n, "val/bits_per_second": r},
                                                        "config": Config().flat()}) for n, r in figures])
    return study


def folder_at(path):
    return SimpleNamespace(path=path, trial=lambda number: path / "trials" / f"{number:04d}")


@pytest.fixture
def plan():
    return SimpleNamespace(rate=lambda config: 12.0, rate_limit=12.0)


def test_classical_codes_are_asked_over_the_rates_of_the_trials(plan):
    study, between = study_of((0.5, 2.0), (0.4, 4.9), (0.9, 0.0)), np.geomspace(2.0, 12.0, ending.CURVE)
    rates = ending._rates(plan, study)
    assert rates[:2] == [12.0, 4.9], "the limit and the winner's, exactly"
    assert rates[2:] == pytest.approx(between[[0, 1, 3]]), "less two that are as good as asked already"
    plan.rate_limit = 0.0  # a Pareto search has none
    assert ending._rates(plan, study) == pytest.approx([4.9, *np.geomspace(2.0, 4.9, ending.CURVE)[:-1]])


def test_a_study_without_a_rate_asks_for_the_limit_or_nothing(plan):
    assert ending._rates(plan, optuna.create_study()) == [12.0]
    plan.rate_limit = 0.0
    assert ending._rates(plan, study_of((0.9, 0.0))) == []


def test_pictures_that_fail_say_why_and_cost_nothing_else(plan, tmp_path):
    (tmp_path / "figures").write_text("a file where the folder should be")
    said = []
    found = ending.Ending({"baselines": {}, "code_length": {}}, None)
    ending.draw(found, plan, study_of((0.5, 2.0)), folder_at(tmp_path), said.append)
    assert len(said) == 1 and "pictures failed" in said[0] and "FileExistsError" in said[0]


def test_what_is_drawn_of_a_winner_with_latents_comes_from_its_exported_model(vae, plan, tmp_path):
    folder, sessions = vae
    dataset = prepare(sessions, raycal.load(folder).config.sessions, 17, log=lambda _: None)
    portrait = ending._portrayed(dataset, (folder / "model.pt").read_bytes())
    study = optuna.create_study(direction="maximize")
    study.add_trial(create_trial(value=0.4, user_attrs={"metrics": {"val/cosmoothing_r2": 0.4},
                                                        "config": Config().flat()}))
    ending.draw(ending.Ending({"cosmoothing": {}}, portrait), plan, study, folder_at(tmp_path), pytest.fail)
    assert {p.stem for p in (tmp_path / "figures").glob("*.png")} == {"trajectories", "hidden-neurons", "kl-by-epoch"}


@pytest.mark.slow
def test_a_search_of_vaes_leaves_pictures_of_the_winner_and_what_is_classical(ray_session, tmp_path):
    sessions = [simulate(n_neurons=n, n_frames=1501, rate=5.0, seed=n, id=f"s{n}").session for n in (12, 9)]
    held = {"model.width": 16, "vae.latents": 3, "vae.identity": 8, "windows.length": 16, "windows.min_steps": 2,
            "windows.stride": 64, "vae.layers": 1, "vae.backbone": "convolution", "training.epochs": 2}
    found = raycal.search("vae", sessions, settings=held, trials=2, pruner="none", sampler="random", confirm_top=0,
                          out=str(tmp_path / "run"), quiet=True)
    assert set(found["cosmoothing"]) >= {"ridge", "PCA 3", "factor analysis 3"}
    pictures = {p.stem for p in (tmp_path / "run" / "figures").glob("*.png")}
    assert pictures == {"trajectories", "hidden-neurons", "kl-by-epoch"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Course of the latents" in page and "predict hidden neurons of the same blocks" in page
    assert raycal.load(tmp_path / "run").latents(sessions[0]).shape == (1501, 3)


def test_a_run_without_a_complete_trial_has_no_pictures(plan, tmp_path):
    ending.draw(ending.Ending({}, None), plan, optuna.create_study(), folder_at(tmp_path), pytest.fail)
    assert not list(tmp_path.iterdir())
