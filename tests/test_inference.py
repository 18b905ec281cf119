from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from raycal.config import Config
from raycal.errors import UserError
from raycal.inference import load
from raycal.sessions.prepare import prepare
from raycal.sessions.resample import resample
from raycal.sessions.session import Session
from raycal.sessions.simulate import simulate
from raycal.sessions.smoothing import smoothed
from raycal.training import checkpoint
from raycal.training.loop import measure, train

CONFIG = Config().replace({
    "windows.length": 16, "windows.batch": 16, "windows.stride": 3, "model.width": 16, "model.residual_width": 8,
    "model.residual_blocks": 1, "quantizer.type": "grvq", "quantizer.groups": 2, "quantizer.codebook_size": 16,
    "quantizer.code_dim": 8, "optimizer.lr": 3e-3, "training.epochs": 6, "loss.behavior": 1.0,
    "training.device": "cpu"})


def recording(n: int, **changes) -> Session:
    session = simulate(n_neurons=n, n_frames=1501, rate=5.0, seed=n, n_latents=2, noise=0.1, id=f"s{n}").session
    return dataclasses.replace(session, **{"neurons": ("",) * n, **changes})


def train_to(folder, sessions, config=CONFIG):
    torch.set_num_threads(1)
    dataset, state = prepare(sessions, config.sessions, 16), {}
    for _ in train(config, dataset, save=state.update):
        pass
    checkpoint.save(folder / "model.pt", checkpoint.export(state))
    return dataset


@pytest.fixture(scope="module")
def sessions():
    return [recording(12), recording(9, neurons=tuple(f"cell{i}" for i in range(9)))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sessions):
    path = tmp_path_factory.mktemp("model")
    train_to(path, sessions)
    return path


@pytest.fixture(scope="module")
def trained(folder):
    return load(folder)


def test_shapes_and_units(trained, sessions):
    for session in sessions:
        again = trained.reconstruct(session)
        assert again.shape == session.traces.shape and again.dtype == np.float32 and np.isfinite(again).all()
        codes = trained.codes(session)
        frames = trained.code_frames(session)
        assert codes.shape == (len(frames), 2) and codes.dtype == np.int64 and codes.max() < 16
        assert (np.diff(frames) > 0).all() and frames[0] == 0 and frames[-1] >= 1501 - 4
        latents = trained.encode(session)
        assert [x.shape for x in latents] == [(len(codes), 8)]
        assert trained.decode_behavior(session).shape == (1501, 2)


def test_reconstruction_is_better_than_the_mean_in_the_files_unit(trained, sessions):
    for session in sessions:
        error = ((trained.reconstruct(session) - session.traces) ** 2).sum()
        assert error < 0.85 * ((session.traces - session.traces.mean(0)) ** 2).sum()


def test_behaviour_is_in_its_unit(trained, sessions):
    got, want = trained.decode_behavior(sessions[0]), sessions[0].behavior
    assert trained.behavior_names == ("running", "stimulus")
    for k in range(2):
        assert np.corrcoef(got[:, k], want[:, k])[0, 1] > 0.5
        assert 0.3 < got[:, k].std() / want[:, k].std() < 1.5


def test_weights_are_those_that_were_measured(trained, sessions):
    dataset = prepare(sessions, CONFIG.sessions, 16)
    found = measure(trained.model, dataset, trained.config).metrics
    assert {k: v for k, v in trained.metrics.items() if k.startswith("val/")} == found
    assert trained.fingerprint == dataset.fingerprint
    assert "s12 (12 neurons)" in str(trained) and "nmse" in str(trained)


def test_codes_of_a_window_are_those_of_the_model(trained, sessions):
    dataset = prepare(sessions, CONFIG.sessions, 16)
    center, spread = dataset.recordings[0].scalers["zscore"]
    window = torch.from_numpy(((sessions[0].traces[32:48] - center) / spread).T[None].copy())
    with torch.no_grad():
        want = trained.model.codes(window, 0)[0].numpy()
    first = int(np.flatnonzero(trained.code_frames(sessions[0]) == 32)[0])
    assert np.array_equal(trained.codes(sessions[0])[first:first + 4], want)


def test_segments_are_kept_apart(trained, sessions):
    """What happens in one segment changes nothing in another, and frames between segments are NaN."""
    cut = dataclasses.replace(sessions[0], segments=((0, 700), (705, 715), (720, 1501)))
    other = cut.traces.copy()
    other[:700] += 1.0
    a, b = trained.reconstruct(cut), trained.reconstruct(dataclasses.replace(cut, traces=other))
    assert np.array_equal(a[705:], b[705:], equal_nan=True) and not np.array_equal(a[:700], b[:700])
    assert np.isnan(a[700:705]).all() and np.isnan(a[715:720]).all() and np.isfinite(a[705:715]).all()
    assert len(trained.encode(cut)) == 3
    assert sum(map(len, trained.encode(cut))) == len(trained.codes(cut)) == len(trained.code_frames(cut))


def test_matched_by_content_id_or_labels(trained, sessions):
    first, second = sessions
    assert trained.entry(dataclasses.replace(first, traces=first.traces + 1))["id"] == "s12"
    renamed = dataclasses.replace(second, id="elsewhere", traces=second.traces + 1)
    assert trained.entry(renamed)["id"] == "s9"


def test_an_unknown_recording_is_refused_with_what_is_known(trained):
    with pytest.raises(UserError, match=r"'s10' \(10 neurons\).*s12 \(12 neurons\), s9 \(9 neurons\)"):
        trained.codes(recording(10))
    with pytest.raises(UserError, match="no read-in"):  # as many neurons, but which they are nobody knows
        trained.codes(dataclasses.replace(recording(12), id="other", traces=recording(12).traces + 1))


def test_a_model_of_one_session_takes_any_of_its_size(tmp_path):
    train_to(tmp_path, [recording(9)], CONFIG.replace({"training.epochs": 1}))
    other = dataclasses.replace(recording(9), id="other", traces=recording(9).traces + 1)
    assert load(tmp_path).reconstruct(other).shape == (1501, 9)


def test_neurons_left_out_come_back_as_nan(tmp_path):
    traces = recording(9).traces.copy()
    traces[:, 4] = 1.0
    session = dataclasses.replace(recording(9), traces=traces)
    train_to(tmp_path, [session], CONFIG.replace({"training.epochs": 1}))
    again = load(tmp_path).reconstruct(session)
    assert np.isnan(again[:, 4]).all() and np.isfinite(np.delete(again, 4, axis=1)).all()


def test_what_was_not_measured_reaches_nothing(trained, sessions):
    holes = np.random.default_rng(0).random(sessions[0].traces.shape) < 0.1
    a = np.where(holes, np.float32(np.nan), sessions[0].traces)
    b = np.where(holes, np.float32(50.0), sessions[0].traces)
    as_nan = dataclasses.replace(sessions[0], traces=a)
    as_mask = dataclasses.replace(sessions[0], traces=b, valid=~holes)
    got = trained.reconstruct(as_nan)
    assert np.isfinite(got).all() and np.array_equal(got, trained.reconstruct(as_mask))


@pytest.mark.parametrize("normalize", ["none", "minmax"])
def test_other_normalisations_come_back_in_the_files_unit(tmp_path, normalize):
    session = recording(12)
    dataset = train_to(tmp_path, [session], CONFIG.replace({"sessions.normalize": normalize, "training.epochs": 1}))
    center, spread = dataset.recordings[0].scalers[normalize]
    trained = load(tmp_path)
    window = torch.from_numpy(((session.traces[16:32] - center) / spread).T[None].copy())
    with torch.no_grad():
        latents = trained.model.encode(window, 0)
        out = trained.model.decode(trained.model.quantizer(latents).quantized, 0, 16)[0].T.numpy()
    np.testing.assert_allclose(trained.reconstruct(session)[16:32], out * spread + center, rtol=1e-4, atol=1e-5)


SEEN_OTHERWISE = {"sessions.resample": 2.5, "sessions.smooth": 0.5, "sessions.smooth_behavior": 0.4,
                  "sessions.select": "variance", "sessions.neurons": 8}


@pytest.fixture(scope="module")
def resampled(tmp_path_factory, sessions):
    """A model of recordings brought from 5 Hz to 2.5 Hz, smoothed, of their 8 neurons of most variance."""
    path = tmp_path_factory.mktemp("resampled")
    config = CONFIG.replace({**SEEN_OTHERWISE, "training.epochs": 10})
    train_to(path, sessions, config)
    return load(path)


def test_a_model_of_resampled_and_smoothed_traces_is_the_one_that_was_measured(resampled, sessions):
    dataset = prepare(sessions, resampled.config.sessions, 16)
    found = measure(resampled.model, dataset, resampled.config).metrics
    assert {k: v for k, v in resampled.metrics.items() if k.startswith("val/")} == found


def test_what_it_says_lies_on_the_frames_that_were_recorded(resampled, sessions):
    for session in sessions:
        again, kept = resampled.reconstruct(session), resampled.entry(session)["kept"]
        assert again.shape == session.traces.shape and again.dtype == np.float32 and len(kept) == 8
        assert np.isfinite(again[:, kept]).all() and np.isnan(np.delete(again, kept, axis=1)).all()
        smooth = smoothed(session.traces[:, kept], None, session.segments, 0.5 * 5.0)
        assert ((again[:, kept] - smooth) ** 2).sum() < 0.7 * ((smooth - smooth.mean(0)) ** 2).sum()
        behavior = resampled.decode_behavior(session)
        assert behavior.shape == (1501, 2) and np.isfinite(behavior).all()
        codes, frames = resampled.codes(session), resampled.code_frames(session)
        assert len(codes) == len(frames) == len(resampled.encode(session)[0]) == pytest.approx(1501 / 8, abs=2)
        assert (np.diff(frames) > 0).all() and frames[0] == 0 and np.median(np.diff(frames)) == 8


def test_a_recording_is_seen_as_it_was_prepared(resampled, sessions):
    """The frames of a piece that lie far from its borders reach the model as those of the prepared recording."""
    seen = resampled._seen(sessions[0])
    traces, _ = seen.normalized()
    recording = prepare(sessions, resampled.config.sessions, 16).recordings[0]
    center, spread = recording.scalers["zscore"]
    first, last = recording.pieces["train"][0]  # begins with the recording
    assert first == 0 and last > 60
    np.testing.assert_allclose(traces[:last - 8], ((recording.traces - center) / spread)[:last - 8], atol=2e-5)


def test_bringing_back_is_a_line_between_the_models_frames(resampled, sessions):
    session = dataclasses.replace(sessions[0], segments=((0, 700), (705, 706), (720, 1501)))
    at_its_rate = resampled.reconstruct(resample(session, 2.5))
    again = resampled.reconstruct(session)
    assert np.isnan(again[700:720]).all()  # between segments, and in one too short for a frame of the model
    kept = resampled.entry(session)["kept"]
    np.testing.assert_allclose(again[1:699:2][:, kept] + again[2:700:2][:, kept],
                               at_its_rate[:349, kept] + at_its_rate[1:350, kept], rtol=1e-4, atol=1e-4)
    assert [len(x) for x in resampled.encode(session)] == [88, 0, 98]
    frames = resampled.code_frames(session)
    assert len(frames) == 186 == len(resampled.codes(session)) and frames[88] == 720


def test_a_recording_of_another_rate_is_brought_to_that_of_training(resampled, sessions):
    session = sessions[0]
    fast = dataclasses.replace(session, traces=np.repeat(session.traces, 2, axis=0), rate=10.0, segments=((0, 3002),),
                               times=np.arange(3002) / 10.0, behavior=np.repeat(session.behavior, 2, axis=0))
    assert np.array_equal(resampled.codes(fast), resampled.codes(session))
    assert np.array_equal(resampled.code_frames(fast), 2 * resampled.code_frames(session))
    bare = dataclasses.replace(session, rate=float("nan"), times=np.arange(1501.0))  # frame numbers
    assert np.array_equal(resampled.codes(bare), resampled.codes(session))


def test_an_export_of_before_resampling_is_loaded_and_applied(folder, tmp_path, sessions, trained):
    state = checkpoint.load(folder / "model.pt")
    for name in ("resample", "smooth", "smooth_behavior", "select", "neurons", "features"):
        del state["config"][f"sessions.{name}"]
    for entry in state["data"]["sessions"]:
        for name in ("resample", "smooth", "recorded_rate"):
            del entry[name]
    checkpoint.save(tmp_path / "model.pt", state)
    assert np.array_equal(load(tmp_path).reconstruct(sessions[0]), trained.reconstruct(sessions[0]))


def test_a_run_folder_leads_to_its_best(folder, tmp_path, sessions):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.pt").write_bytes((folder / "model.pt").read_bytes())
    assert load(tmp_path).sessions == ("s12", "s9")


def test_no_model_is_said(tmp_path):
    with pytest.raises(UserError, match="holds no model.pt"):
        load(tmp_path)


def test_loading_needs_no_ray(folder):
    code = f"import sys, raycal; raycal.load({str(folder)!r}); assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True,
                   env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"})
