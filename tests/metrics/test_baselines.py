import dataclasses

import numpy as np
import pytest

from raycal import config
from raycal.metrics.baselines import baselines, ridge_on_traces
from raycal.metrics.classical import Classical
from raycal.metrics.decoding import r2
from raycal.metrics.ridge import fit_ridge
from raycal.sessions.prepare import prepare
from raycal.sessions.session import Session

SETTINGS = config.Sessions(gap=2.0)


def session(seed=0, id="a", noise=0.5, n_frames=3000):
    """Speed is a linear readout plus noise; "dice" has nothing to do with the traces; "half" is not always observed."""
    rng = np.random.default_rng(seed)
    latent = np.stack([np.convolve(c, np.ones(5) / 5**0.5, "same") for c in rng.normal(size=(3, n_frames))], axis=1)
    traces = latent @ rng.normal(size=(3, 12)) + 0.1 * rng.normal(size=(n_frames, 12))
    speed = 40 + 9 * (latent[:, 0] + noise * rng.normal(size=n_frames))
    half = np.where(np.arange(n_frames) % 300 < 200, speed, np.nan)
    behavior = np.stack([speed, rng.normal(size=n_frames), half, np.full(n_frames, np.nan)], axis=1)
    return Session.build(id=id, traces=traces, rate=10.0, behavior=behavior,
                         behavior_names=("speed", "dice", "half", "never"))


def test_ridge_reads_out_what_is_there_and_nothing_else():
    found = ridge_on_traces(prepare([session()], SETTINGS, 32))
    assert list(found) == ["speed", "dice", "half", "never"]
    assert found["speed"]["r2"] == pytest.approx(0.8, abs=0.05)  # 1 / (1 + 0.5 ** 2)
    assert found["half"]["r2"] == pytest.approx(0.8, abs=0.07)
    assert found["dice"]["r2"] < 0.02 and found["speed"]["null"] < 0.02
    assert found["speed"]["low"] < found["speed"]["r2"] < found["speed"]["high"]
    assert found["speed"]["null_high"] < found["speed"]["low"]
    assert all(np.isnan(v) for v in found["never"].values())
    assert all(isinstance(v, float) for figures in found.values() for v in figures.values())


def test_the_score_is_that_of_a_fit_on_raw_values_of_the_validation_part():
    dataset = prepare([session()], SETTINGS, 32)
    (recording,) = dataset.recordings
    speed, pieces = recording.behavior[:, :1], recording.pieces["validation"]
    fitted = fit_ridge(recording.traces, speed, recording.pieces["train"], gap=recording.gap)
    rows = np.concatenate([np.arange(*p) for p in pieces])
    expected = r2(speed[rows], fitted.predict(recording.traces, pieces)[rows], recording.behavior_center[0])
    found = ridge_on_traces(dataset)["speed"]
    assert found["r2"] == pytest.approx(expected.mean, abs=1e-4)
    assert found["r2_held_out"] == pytest.approx(expected.held_out[0], abs=1e-4)


def test_sessions_are_pooled_between_the_single_scores():
    a, b = session(0, "a", noise=0.2), session(1, "b", noise=1.0)
    one, two, both = (ridge_on_traces(prepare(s, SETTINGS, 32))["speed"] for s in ([a], [b], [a, b]))
    assert min(one["r2"], two["r2"]) < both["r2"] < max(one["r2"], two["r2"])
    assert min(one["null"], two["null"]) <= both["null"] <= max(one["null"], two["null"])


def test_no_behaviour_gives_no_figures():
    plain = session()
    bare = Session.build(id="bare", traces=plain.traces, rate=10.0)
    assert ridge_on_traces(prepare([bare], SETTINGS, 32)) == {}


@pytest.mark.data
def test_worms_decode_as_known(data_dir):
    from raycal.sessions.readers import read

    settings = config.Sessions(behavior=("velocity", "head_angle"))
    found = {s.id: ridge_on_traces(prepare([s], settings, 32)) for s in read(str(data_dir / "worms" / "*.h5"))}
    assert len(found) == 6
    for name in ("velocity", "head_angle"):  # single worms: velocity -0.5 to 0.6, head angle 0.2 to 0.8
        assert 0.2 < np.median([f[name]["r2"] for f in found.values()]) < 0.8


def test_classical_codes_spend_what_is_asked_and_more_bits_help():
    dataset = prepare([session(0, "a"), session(1, "b", n_frames=2000)], SETTINGS, 32)
    found = baselines(dataset, [10.0, 140.0, 10.0, float("nan"), 0.0], window=32)
    assert list(found) == ["PCA 8", "transform code at 10 bits/s", "k-means at 10 bits/s",
                           "transform code at 140 bits/s", "residual k-means at 140 bits/s",
                           "grouped residual k-means at 140 bits/s"]
    assert np.isnan(found["PCA 8"]["bits_per_second"]) and found["PCA 8"]["nmse"] < 0.02  # 3 latents, little noise
    for name, figures in found.items():
        rate = figures.get("nominal_bits_per_second", figures["bits_per_second"])
        if name.startswith("transform"):
            assert 0.98 * figures["asked"] <= rate <= figures["asked"]
        elif "k-means" in name:
            assert 0.9 * figures["asked"] <= rate <= figures["asked"] * (1 + 1e-9)
            assert figures["entropy_bits_per_second"] <= rate
    assert found["transform code at 140 bits/s"]["nmse"] < 0.25 < found["transform code at 10 bits/s"]["nmse"] < 1
    assert all(isinstance(v, float) for figures in found.values() for v in figures.values())


def test_the_part_is_scored_and_enters_no_fit():
    plain = session()
    dataset = prepare([plain], SETTINGS, 32)
    (recording,) = dataset.recordings
    loud = recording.traces.copy()
    for a, b in recording.pieces["validation"]:
        loud[a:b] *= 3
    changed = dataclasses.replace(dataset, recordings=(dataclasses.replace(recording, traces=loud),))
    (one,), (other,) = (Classical(d, "validation", 32)._sessions for d in (dataset, changed))
    assert np.array_equal(one.code.scales, other.code.scales)
    assert np.array_equal(one.code.axes.components_, other.code.axes.components_)
    assert not np.array_equal(one.coefficients, other.coefficients)
    assert baselines(dataset, [50.0])["PCA 8"] != baselines(changed, [50.0])["PCA 8"]


def test_frames_not_measured_are_no_error():
    plain = session()
    holes = np.random.default_rng(3).random(plain.traces.shape) < 0.02
    torn = Session.build(id="torn", traces=np.where(holes, np.nan, plain.traces), rate=10.0)
    dataset = prepare([torn], config.Sessions(gap=2.0, nan="mask"), 32)
    found, whole = (baselines(d, [140.0], window=32)["transform code at 140 bits/s"]
                    for d in (dataset, prepare([plain], SETTINGS, 32)))
    assert whole["nmse"] < found["nmse"] < whole["nmse"] + 0.1


def test_two_neurons_and_odd_rates_do():
    rng = np.random.default_rng(4)
    small = Session.build(id="two", traces=rng.normal(size=(400, 2)), rate=5.0)
    found = baselines(prepare([small], config.Sessions(gap=1.0), 8), [0.01, 3000.0])
    assert len(found) == 5 and all(np.isfinite(f["nmse"]) for f in found.values())
    assert found["transform code at 3000 bits/s"]["nmse"] == pytest.approx(0, abs=1e-6)
    assert found["transform code at 0.01 bits/s"]["nmse"] == pytest.approx(1, abs=0.1)


@pytest.mark.data
def test_worms_are_coded_as_known_and_quickly(data_dir):
    from raycal.sessions.readers import read

    dataset = prepare(read(str(data_dir / "worms" / "*.h5")), config.Sessions(behavior=("velocity",)), 32)
    hz = np.mean([r.rate for r in dataset.recordings])
    found = baselines(dataset, [2.25 * hz, 14 * hz])
    nmse = {name.split(" at")[0]: f["nmse"] for name, f in found.items() if f["asked"] > 10 or "PCA" in name}
    assert 0.5 < nmse["PCA 8"] < 0.6 and 0.28 < nmse["PCA 32"] < 0.35
    assert nmse["transform code"] < 0.3 < nmse["grouped residual k-means"] < nmse["residual k-means"] < 0.8
