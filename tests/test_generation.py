from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

import raycal
from raycal import cli
from raycal.config import Config
from raycal.errors import UserError
from raycal.sessions.readers import npz
from raycal.sessions.session import Session
from raycal.sessions.simulate import simulate

L = 16
SETTINGS = {"model.family": "diffusion", "search.objective": "generation", "model.width": 16, "model.downsample": 2,
            "diffusion.heads": 2, "diffusion.embedding": 16, "diffusion.evaluations": 4, "windows.length": L,
            "windows.min_steps": 2, "windows.batch": 16, "windows.stride": 64, "training.epochs": 1,
            "sessions.normalize": "robust", "training.device": "cpu"}


@pytest.fixture(scope="module")
def recordings():
    return [simulate(n_neurons=n, n_frames=1500, rate=5.0, seed=n, id=f"s{n}").session for n in (12, 9)]


@pytest.fixture(scope="module")
def folder(recordings, tmp_path_factory):
    """A trained model beside its recordings."""
    path = tmp_path_factory.mktemp("generated")
    for session in recordings:
        npz.write(session, path / f"{session.id}.npz")
    raycal.train(Config().replace(SETTINGS), recordings, out=str(path / "model"))
    return path


@pytest.fixture(scope="module")
def model(folder):
    return raycal.load(folder / "model")


def test_windows_have_the_shape_the_unit_and_the_means_of_their_recording(model, recordings):
    for session in recordings:
        windows = model.generate(300, session.id)
        assert windows.shape == (300, session.n_neurons, L) and windows.dtype == np.float32
        mean, sd = session.traces.mean(0), session.traces.std(0)
        assert np.abs((windows.mean((0, 2)) - mean) / sd).max() < 0.6
        np.testing.assert_allclose(windows.std((0, 2)) / sd, 1.0, atol=0.5)


def test_a_seed_gives_the_same_windows_and_another_gives_others(model):
    assert np.array_equal(model.generate(3, seed=1), model.generate(3, seed=1))
    assert not np.allclose(model.generate(3, seed=1), model.generate(3, seed=2))


def test_behaviour_is_cut_end_to_end_and_begun_again(model, recordings):
    from raycal import generation

    entry = generation.entry_of(model, "s12")
    given = generation.behavior_windows(model, entry, recordings[0], 100)
    y = (recordings[0].behavior - entry["behavior_center"].numpy()) / entry["behavior_spread"].numpy()
    whole = 1500 // L
    np.testing.assert_allclose(given[0], y[:L].T, rtol=1e-5)
    np.testing.assert_allclose(given[1], y[L:2 * L].T, rtol=1e-5)
    np.testing.assert_array_equal(given[whole], given[0])
    assert given.shape == (100, y.shape[1], L)


def test_behaviour_changes_what_is_drawn(model, recordings):
    with torch.no_grad():  # one epoch is too few to listen
        for p in model.model.network.read_out.parameters():
            p.add_(0.1)
    free, told = model.generate(4, seed=1), model.generate(4, behavior=recordings[0], seed=1)
    other = dataclasses.replace(recordings[0], behavior=recordings[0].behavior[::-1])
    assert not np.allclose(free, told) and not np.allclose(told, model.generate(4, behavior=other, seed=1))


def test_the_command_writes_windows_and_pictures(folder, recordings, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.main(["generate", "model", "--windows", "20", "--session", "s9", "--behaviour", "s9.npz", "--seed", "3",
                     "--out", "drawn"]) == 0
    assert "20 windows of s9: 9 neurons, 16 frames at 5 Hz, for the behaviour of s9.npz" in capsys.readouterr().out
    with np.load("drawn.npz") as found:
        expected = raycal.load("model").generate(20, "s9", recordings[1], seed=3)
        np.testing.assert_array_equal(found["windows"], expected)
        np.testing.assert_allclose(found["behavior"][0], recordings[1].behavior[:L].T, rtol=1e-4, atol=1e-5)
        assert found["session"] == "s9" and found["rate"] == 5.0
        assert list(found["neurons"]) == list(recordings[1].neurons)
        assert list(found["behavior_names"]) == list(recordings[1].behavior_names)
    assert cli.main(["generate", "model", "--windows", "20"]) == 0
    out = capsys.readouterr().out
    names = ("generated-traces", "generated-spectra", "generated-correlations")
    assert all((folder / "model" / "figures" / f"{name}.png").is_file() and f"{name}.png" in out for name in names)
    assert (folder / "model" / "generated.npz").is_file() and (folder / "model" / "generators.json").is_file()


@pytest.mark.parametrize("argv, words", [
    (["--session", "s8"], "session 's8': the model was not trained on it.*it knows s12, s9"),
    (["--windows", "0"], "--windows.*at least 1"), (["--behaviour", "gone.npz"], "gone.npz: no such file"),
    (["--behaviour", "blind.npz"], "session 'blind': has none of the behaviours running, stimulus"),
    (["--behaviour", "fast.npz"], "--behaviour: fast has 10 Hz, the model 5"),
    (["--behaviour", "brief.npz"], "--behaviour: brief has no 16 frames in a row"),
    (["--out", "nowhere/x.npz"], "--out nowhere/x.npz: cannot be written")])
def test_what_cannot_be_drawn_is_refused(argv, words, folder, recordings, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    session = recordings[0]
    npz.write(dataclasses.replace(session, id="blind", behavior=session.behavior[:, :0], behavior_names=(),
                                  behavior_units=()), folder / "blind.npz")
    for name, rate, segments in (("fast", 10.0, [(0, 1500)]), ("brief", 5.0, [(0, 12), (20, 35)])):
        cut = Session.build(id=name, traces=session.traces, rate=rate, segments=segments, behavior=session.behavior,
                            behavior_names=session.behavior_names)
        npz.write(cut, folder / f"{name}.npz")
    assert cli.main(["generate", "model", *argv]) == 2
    err = capsys.readouterr().err
    assert re.search(words, err), err


def test_a_model_of_codes_draws_nothing_and_a_generative_one_says_nothing(model, recordings, folder, tmp_path):
    coded = raycal.train("vq", recordings[:1], settings={"training.epochs": 1, "windows.length": 16,
                                                         "model.residual_blocks": 0, "model.width": 16})
    with pytest.raises(UserError, match="a vqvae model draws no windows"):
        coded.generate(3)
    for call in (model.encode, model.reconstruct, model.codes, model.apply):
        with pytest.raises(UserError, match="draws new windows and says nothing of given ones"):
            call(recordings[0])
    out = tmp_path / "out"
    assert cli.main(["apply", str(folder / "model"), "--sessions", str(folder / "s9.npz"), "--out", str(out)]) == 2
    assert not out.exists()
