import numpy as np
import pytest

from raycal import config
from raycal.metrics.baselines import ridge_on_traces
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
