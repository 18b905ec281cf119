from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from raycal.config import Config
from raycal.errors import UserError
from raycal.generative import behavior_of
from raycal.inference import load
from raycal.overlap import cover, shares
from raycal.sessions.prepare import prepare
from raycal.training import checkpoint
from raycal.training.loop import train


@pytest.fixture(scope="module")
def trained(vae):
    return load(vae[0])


@pytest.fixture(scope="module")
def sessions(vae):
    return vae[1]


def test_latents_are_a_frames_and_of_every_frame(trained, sessions):
    for session in sessions:
        z = trained.latents(session)
        assert z.shape == (1501, 5) and z.dtype == np.float32 and np.isfinite(z).all()
        assert np.array_equal(trained.encode(session)[0], z)
        assert np.array_equal(trained.code_frames(session), np.arange(1501))


def test_latents_are_the_windows_posterior_means_by_their_shares(trained, sessions):
    session, entry = sessions[1], trained.entry(sessions[1])
    x = ((session.traces - entry["center"].numpy()) / entry["spread"].numpy()).T
    want, windows = np.zeros((1501, 5)), cover(session.segments, 17, 9)
    for w, share in zip(windows, shares(windows, session.segments)):
        with torch.no_grad():
            mean = trained.model.posterior(torch.tensor(x[None, :, w.start:w.start + 17]), 1).mean[0].numpy()
        want[w.start:w.start + 17] += share[:, None] * mean
    np.testing.assert_allclose(trained.latents(session), want, atol=1e-5)


def test_borders_of_windows_leave_no_step(trained, sessions):
    """A latent of whole windows jumps where windows lie end to end; blended, it goes from one to the next."""
    z = trained.latents(sessions[0])[:, 3:]
    spread = z.std(0)
    assert (np.abs(np.diff(z, axis=0)).max(0) < 1.5 * spread).all()
    length, seen = 17, trained._seen(sessions[0])
    apart = np.concatenate([values[w.seen:] for w, values in trained._windows(
        seen, lambda p: trained.model.encode(p.traces, p.session, p.valid))])[:, 3:]
    assert (np.abs(np.diff(apart, axis=0)).max(0) > 2 * np.abs(np.diff(z, axis=0)).max(0)).all()
    assert np.flatnonzero(np.abs(np.diff(apart, axis=0)).max(1) > 1e-6)[0] == length - 1


def test_reconstruction_is_what_the_latents_decode_to(trained, sessions):
    for session in sessions:
        again = trained.reconstruct(session)
        assert again.shape == session.traces.shape and np.isfinite(again).all()
        np.testing.assert_allclose(again, trained.decode(trained.latents(session), session), rtol=1e-5, atol=1e-5)
        error = ((again - session.traces) ** 2).sum()
        assert error < 0.92 * ((session.traces - session.traces.mean(0)) ** 2).sum()


def test_segments_are_kept_apart_and_holes_reach_nothing(trained, sessions):
    cut = dataclasses.replace(sessions[0], segments=((0, 700), (705, 715), (720, 1501)))
    other = cut.traces.copy()
    other[:700] += 1.0
    other[700:705] = 1e4
    a, b = trained.latents(cut), trained.latents(dataclasses.replace(cut, traces=other))
    assert np.array_equal(a[705:], b[705:], equal_nan=True) and not np.array_equal(a[:700], b[:700])
    assert np.isnan(a[700:705]).all() and np.isnan(a[715:720]).all() and np.isfinite(a[705:715]).all()
    assert [len(x) for x in trained.encode(cut)] == [700, 10, 781]
    assert np.isnan(trained.reconstruct(cut)[715:720]).all()
    holes = np.random.default_rng(0).random(cut.traces.shape) < 0.1
    filled = dataclasses.replace(cut, traces=np.where(holes, np.float32(50.0), cut.traces), valid=~holes)
    unknown = dataclasses.replace(cut, traces=np.where(holes, np.float32(np.nan), cut.traces))
    assert np.array_equal(trained.latents(filled), trained.latents(unknown), equal_nan=True)


def test_decoding_applies_gain_and_bias_and_the_sessions_unit(vae, sessions):
    """Twice as large a gain makes twice the traces about the bias; a bias of 1 is one sd of the file's unit."""
    trained = load(vae[0])
    session, entry = sessions[0], trained.entry(sessions[0])
    z, reading = np.random.default_rng(0).normal(size=(50, 5)), trained.model.readings.gain_bias
    plain, bias = trained.decode(z, "s12"), reading.bias.detach().clone()
    with torch.no_grad():
        reading.bias[1] += 1.0
    np.testing.assert_allclose(trained.decode(z, "s12") - plain, np.broadcast_to(entry["spread"], (50, 12)), rtol=1e-3)
    with torch.no_grad():
        reading.bias[:] = torch.stack((1.0 + 2.0 * bias[0], bias[1]))  # a gain is 1 + this
        reading.weight[0] *= 2.0
        biases = reading(trained.model.identities(0))[:, 1].numpy()
    about = biases * entry["spread"].numpy() + entry["center"].numpy()
    np.testing.assert_allclose(trained.decode(z, session) - about, 2.0 * (plain - about), rtol=1e-3, atol=1e-4)


def test_latents_of_frames_are_not_those_of_codes(trained, sessions):
    with pytest.raises(UserError, match="a vae writes no codes .*latents.session. returns"):
        trained.codes(sessions[0])


@pytest.mark.parametrize("arguments,said", [
    ((np.zeros((4, 3)), "s12"), r"latents of shape \(4, 3\): give \(frames, 5\)"),
    ((np.zeros(5), "s12"), r"latents of shape \(5,\)"),
    ((np.zeros((4, 5)), "s13"), "session 's13': the model was not trained on it.*knows s12, s9"),
    ((np.zeros((4, 5)), "s12", np.zeros((3, 2))), r"behavior of shape \(3, 2\): give \(4, 2\).*running, stimulus"),
])
def test_what_does_not_fit_is_said(arguments, said, trained):
    with pytest.raises(UserError, match=said):
        trained.decode(*arguments)


def test_a_file_of_it_holds_latents_and_traces_frame_by_frame(trained, sessions):
    arrays, metrics = trained.apply(sessions[0])
    assert set(arrays) == {"latents", "reconstruction", "times"}
    assert arrays["latents"].shape == (1501, 5)
    assert metrics["nmse"] < 0.92


def test_a_sample_is_what_standard_normal_latents_decode_to(trained, sessions):
    """Latents of frames are independent, those of a window are drawn anew every 17 frames."""
    drawn = trained.sample("s12", frames=40, draws=3, seed=5)
    assert drawn.shape == (3, 40, 12) and drawn.dtype == np.float32
    z = np.random.default_rng(5).standard_normal((3, 40, 5), np.float32)
    for k, first in ((0, 0), (20, 17), (39, 34)):
        want = trained.decode(np.concatenate((z[1, [k], :3], z[1, [first], 3:]), 1), "s12")
        np.testing.assert_allclose(drawn[1, k], want[0], rtol=1e-5)
    assert np.array_equal(drawn, trained.sample(sessions[0], frames=40, draws=3, seed=5))
    assert not np.array_equal(drawn, trained.sample("s12", frames=40, draws=3, seed=6))


def test_samples_lie_about_the_recording_in_its_unit(vae):
    """A gain of 3 in the file, and an offset, are found in samples."""
    trained = load(vae[0])
    for session in vae[1]:
        drawn = trained.sample(session, frames=2000)[0]
        away = (drawn.mean(0) - session.traces.mean(0)) / session.traces.std(0)
        assert np.abs(away).max() < 0.6
        assert (drawn.std(0) < 2.0 * session.traces.std(0)).all()
    entry = trained.entry(vae[1][0])
    before = trained.sample("s12", frames=20)
    entry["center"], entry["spread"] = 3.0 * entry["center"] + 7.0, 3.0 * entry["spread"]
    np.testing.assert_allclose(trained.sample("s12", frames=20), 3.0 * before + 7.0, rtol=1e-4)


def test_behaviour_that_is_told_takes_part_and_nan_is_not_told(trained, sessions):
    session = sessions[0]
    under, without = trained.sample(session, session), trained.sample(session, frames=1501)
    assert under.shape == (1, 1501, 12) and np.isfinite(under).all()
    assert not np.allclose(under, without, rtol=1e-3)
    assert np.array_equal(under, trained.sample(session, session.behavior)), "neither smoothed nor resampled"
    assert np.array_equal(without, trained.sample(session, np.full((1501, 2), np.nan)))
    other = trained.sample("s9", session)
    assert other.shape == (1, 1501, 9), "the neurons of one animal, the behaviour of another"


def test_behaviour_is_told_as_in_training(tmp_path, sessions):
    config = Config().replace({
        "model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2", "model.width": 16,
        "windows.length": 16, "windows.min_steps": 1, "windows.stride": 400, "vae.latents": 3, "vae.identity": 8,
        "training.epochs": 1, "training.device": "cpu", "sessions.resample": 2.5, "sessions.smooth_behavior": 0.6})
    state: dict = {}
    dataset = prepare(sessions[:1], config.sessions, 16, log=lambda _: None)
    for _ in train(config, dataset, save=state.update):
        pass
    checkpoint.save(tmp_path / "model.pt", checkpoint.export(state))
    trained, prepared = load(tmp_path), dataset.recordings[0]
    told = behavior_of(trained, sessions[0], trained.entry(sessions[0]))
    first, last = prepared.pieces["train"][0]
    np.testing.assert_allclose(told[:last - 8], prepared.behavior[:last - 8], atol=1e-4)
    assert trained.sample("s12", sessions[0]).shape == (1, len(told), 12) and len(told) == 750
    assert trained.latents(sessions[0]).shape == (1501, 3) and np.isfinite(trained.reconstruct(sessions[0])).all()


@pytest.mark.parametrize("options,said", [
    ({}, "draws=1, frames=0: give at least one draw, and behavior or at least one frame"),
    ({"frames": 5, "draws": 0}, "draws=0"), ({"behavior": np.zeros((4, 2)), "frames": 5}, "leave frames out"),
    ({"behavior": np.zeros((4, 3))}, r"behavior of shape \(4, 3\): give \(4, 2\)"),
])
def test_samples_that_cannot_be_are_said(options, said, trained):
    with pytest.raises(UserError, match=said):
        trained.sample("s12", **options)


def test_behaviour_that_is_not_there_is_said(trained, sessions):
    blind = dataclasses.replace(sessions[0], behavior=np.full((1501, 2), np.nan, np.float32))
    with pytest.raises(UserError, match="'s12': has none of the behaviours running, stimulus"):
        trained.sample("s12", blind)
