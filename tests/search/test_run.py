"""Whole searches with real Ray, real Train workers and real files: small, and judged by what they leave."""
from __future__ import annotations

import json
import pathlib

import numpy as np
import optuna
import pytest

import raycal
from raycal.sessions.readers import npz
from raycal.sessions.simulate import simulate


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two small recordings of different size, as files."""
    folder = tmp_path_factory.mktemp("recordings")
    for n, seed in ((8, 1), (11, 2)):
        npz.write(simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=seed).session, folder / f"s{seed}.npz")
    return str(folder / "*.npz")


@pytest.fixture(scope="module")
def finished(ray_session, recordings, tmp_path_factory):
    """A finished search of four trials: (summary, run folder)."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    space = tmp_path_factory.mktemp("space") / "tiny.py"
    space.write_text(TINY)
    summary = raycal.search(str(space), [recordings], trials=4, pruner="none", confirm_top=0, out=str(folder),
                            quiet=True)
    return summary, folder


TINY = (pathlib.Path(__file__).parents[1] / "tiny.py").read_text()


def study_of(folder) -> optuna.Study:
    from raycal.search.study import read_study

    return read_study(str(folder))


def test_every_trial_is_in_the_study_which_anyone_can_open(finished):
    summary, folder = finished
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 4
    assert summary["trials"]["complete"] == 4 and not summary["interrupted"]
    assert study.trials[0].params["quantizer.codebook_size"] == 16, "the default configuration is trial 0"
    for trial in study.trials:
        assert trial.value == min(v for _, v in trial.user_attrs["objective_by_epoch"])
        assert len(trial.user_attrs["objective_by_epoch"]) == 3


def test_the_summary_holds_what_other_tools_read(finished):
    summary, folder = finished
    stored = json.loads((folder / "summary.json").read_text())
    assert {"space", "objective", "direction", "trials", "best", "default", "sessions", "fingerprints",
            "seconds"} <= set(stored)
    for entry in (stored["best"], stored["default"]):
        assert {"number", "value", "epoch", "params", "metrics"} <= set(entry)
    assert stored["best"]["value"] == min(t.value for t in study_of(folder).trials)
    assert stored["best"]["value"] == pytest.approx(stored["best"]["metrics"]["val/nmse"])
    assert stored["ridge"]["running"]["r2"] > stored["ridge"]["running"]["null_high"]


def test_the_run_leaves_its_pictures_and_what_the_codes_cost(finished):
    summary, folder = finished
    stored = json.loads((folder / "summary.json").read_text())
    names = ["codes.png", "latents.png", "rate-distortion.png"]
    assert sorted(p.name for p in (folder / "figures").glob("*.png")) == names
    assert len(list((folder / "figures").glob("events.*"))) == 1
    for role, entry in (("winner", stored["best"]), ("default", stored["default"])):
        cost = stored["code_length"][role]
        assert cost["entropy_bits_per_second"] == pytest.approx(entry["metrics"]["val/bits_per_second"], rel=1e-5)
        assert 0 < cost["joint_bits_per_second"] == cost["independent_bits_per_second"], "there is one codebook"
    asked = {f["asked"] for name, f in stored["baselines"].items() if name.startswith("transform code")}
    rates = [t.user_attrs["metrics"]["val/bits_per_second"] for t in study_of(folder).trials]
    assert len(asked) >= 4 and min(asked) <= min(r for r in rates if r > 0) * 1.001 and max(asked) >= max(rates)
    assert set(stored["quantizers"]) == {t.params["quantizer.type"] for t in study_of(folder).trials}


def test_the_best_model_reconstructs_as_well_as_the_search_said(finished, recordings):
    """The exported model, applied to the validation frames anew, gives the value the study holds."""
    from raycal.config import Config
    from raycal.sessions.prepare import prepare
    from raycal.training.evaluate import evaluate

    summary, folder = finished
    model, sessions = raycal.load(folder / "best"), raycal.read(recordings)
    dataset = prepare(sessions, Config().sessions, 16)
    assert evaluate(model.model, dataset, model.config)["val/nmse"] == pytest.approx(summary["best"]["value"], rel=1e-5)
    again = model.reconstruct(sessions[0])
    assert again.shape == sessions[0].traces.shape and np.isfinite(again).all()


def test_every_trial_has_one_event_file_and_config_yaml_reproduces_the_run(finished):
    _, folder = finished
    for number in range(4):
        assert len(list((folder / "trials" / f"{number:04d}").glob("events.*"))) == 1
    from raycal.cli import main

    assert main(["--config", str(folder / "config.yaml"), "--print-config"]) == 0


def test_more_trials_go_on_where_the_search_ended(finished, recordings, tmp_path):
    import shutil

    _, folder = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    from raycal.cli import main

    assert main(["--resume", str(copy), "--more", "2", "-q"]) == 0
    before, after = study_of(folder).trials, study_of(copy).trials
    assert len(after) == 6 and [t.params for t in after[:4]] == [t.params for t in before]
    assert len({json.dumps(t.params, sort_keys=True) for t in after}) == 6, "no proposal is made twice"


def test_resuming_on_other_data_is_refused_before_a_slot_starts(finished, tmp_path, monkeypatch, capsys):
    from raycal.cli import main
    from raycal.search import connection

    _, folder = finished
    npz.write(simulate(n_neurons=9, n_frames=1500, rate=5.0, seed=3).session, tmp_path / "other.npz")
    monkeypatch.setattr(connection.Cluster, "grow", lambda *_: pytest.fail("a slot was started"))
    assert main(["--resume", str(folder), "--sessions", str(tmp_path / "other.npz")]) == 2
    assert "fingerprint" in capsys.readouterr().err


def test_a_trial_takes_two_train_workers_with_ddp(ray_session, recordings, tmp_path):
    """DDP inside a slot: the workers train as one and the study sees one trial."""
    (tmp_path / "tiny.py").write_text(TINY)
    summary = raycal.search(str(tmp_path / "tiny.py"), [recordings], trials=2, workers_per_trial=2, confirm_top=0,
                            quiet=True, out=str(tmp_path / "run"))
    assert summary["trials"]["failed"] == 0 and summary["best"]["metrics"]["val/nmse"] < 1.5


def test_the_run_is_mirrored_to_storage_and_resumes_from_there(ray_session, recordings, tmp_path, monkeypatch):
    from raycal.cli import main

    (tmp_path / "tiny.py").write_text(TINY)
    remote = (tmp_path / "bucket").as_uri()
    assert main(["--space", str(tmp_path / "tiny.py"), "--sessions", recordings, "--trials", "1", "-q",
                 "--no-confirm", "--out", str(tmp_path / "here"), "--storage", remote]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["--resume", f"{remote}/here", "--more", "1", "-q"]) == 0
    assert len(study_of(tmp_path / "runs" / "here").trials) == 2
    assert len(study_of(tmp_path / "bucket" / "here").trials) == 2, "the copy grew with the run"


def test_failing_trials_are_recorded_with_their_traceback_and_others_go_on(ray_session, recordings, tmp_path, capsys):
    space = tmp_path / "tiny.py"
    # A batch smaller than the two workers of a trial cannot be shared out: the trainer itself raises.
    space.write_text(TINY.replace('trial.suggest_float("optimizer.lr", 1e-3, 1e-2, log=True)',
                                  'trial.suggest_categorical("windows.batch", [32, 1])'))
    summary = raycal.search(str(space), [recordings], trials=5, workers_per_trial=2, confirm_top=0,
                            out=str(tmp_path / "run"), settings={"search.sampler": "random"})
    failed = [t for t in study_of(tmp_path / "run").trials if t.state.name == "FAIL"]
    assert summary["trials"]["failed"] == len(failed) >= 1 and summary["trials"]["complete"] >= 1
    assert "windows.batch=1 cannot feed 2 workers" in failed[0].user_attrs["message"]
    assert "windows.batch=1 cannot feed 2 workers" in capsys.readouterr().out


@pytest.mark.data
@pytest.mark.slow
def test_six_worms_are_searched_together(ray_session, data_dir, tmp_path):
    summary = raycal.search("grvq", [str(data_dir / "worms" / "*.h5")], trials=3, epochs=9, out=str(tmp_path / "run"),
                            confirm_top=0, quiet=True)
    assert len(summary["sessions"]) == 6 and summary["best"]["value"] < 0.95
    assert {"velocity", "head_angle"} <= set(summary["ridge"]) and "pumping" not in summary["ridge"]
