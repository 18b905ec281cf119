from __future__ import annotations

import json

import numpy as np
import pytest

import raycal
from raycal import cli
from raycal.errors import UserError
from raycal.sessions.readers import read
from raycal.sessions.simulate import DECAY, RISE, simulate


def _held_out_r2(features, target, gap=80):
    """Linear R2 on the second half, fitted on the first."""
    features = np.c_[np.ones(len(features)), features]
    half = len(features) // 2
    weights = np.linalg.lstsq(features[:half], target[:half], rcond=None)[0]
    test = slice(half + gap, None)
    return 1 - np.mean((target[test] - features[test] @ weights) ** 2, 0) / target[test].var(0)


def test_shapes_units_and_names():
    s = simulate(n_neurons=7, n_frames=200, rate=20.0, n_latents=3, seed=4)
    assert s.session.traces.shape == s.rates.shape == s.spikes.shape == s.clean.shape == (200, 7)
    assert s.latents.shape == (200, 3) and s.session.behavior.shape == s.behavior_clean.shape == (200, 2)
    assert s.session.behavior_names == ("running", "stimulus") and s.session.behavior_units == ("cm/s", "")
    assert s.session.id == "simulated-4" and s.session.unit == "dF/F" and s.session.rate == 20.0
    assert set(s.ceiling) == {"running", "stimulus"} and (s.session.behavior[:, 0] >= 0).all()
    assert raycal.simulate(7, 200, id="mine").session.id == "mine"


def test_neurons_of_another_seed_have_other_labels():
    """A label that two sessions share says that it is one neuron, and its loadings are drawn anew."""
    one, same, other = (set(simulate(n_neurons=5, n_frames=200, seed=seed).session.neurons) for seed in (1, 1, 2))
    assert one == same and not one & other and len(one) == 5


def test_sessions_of_one_population_share_their_first_neurons():
    """Regressed on what drives it, a neuron has the same weights in both, whatever the number of neurons beside it."""
    weights = []
    for seed, n in ((1, 5), (2, 9)):
        s = simulate(n_neurons=n, n_frames=20_000, rate=5.0, n_latents=2, seed=seed, population=3)
        assert s.session.neurons == tuple(f"cell {k} of 3" for k in range(n))
        drive = np.c_[np.ones(20_000), s.latents, s.behavior_clean]
        drive[:, 1:] /= drive[:, 1:].std(axis=0)
        weights.append(np.linalg.lstsq(drive, np.log(s.rates[:, :5]), rcond=None)[0][1:])
    np.testing.assert_allclose(*weights, atol=0.05)


def test_the_same_seed_gives_the_same_numbers_another_seed_others():
    one, same, other = (simulate(n_frames=300, seed=seed).session.fingerprint for seed in (1, 1, 2))
    assert one == same != other


def test_default_numbers_stay_what_they_were():
    s = simulate()  # recordings made earlier are compared with later ones: other numbers would be another data set
    assert s.session.fingerprint == "4b770c9110a54888"
    assert s.ceiling == pytest.approx({"running": 0.9844678745229463, "stimulus": 1.0}, rel=1e-9)
    assert simulate(n_neurons=10, n_frames=3000, coupling=0.5, n_latents=3, seed=2,
                    noise=0.1).session.fingerprint == "4e8cbf428a290c40"


def test_noise_has_the_stated_size_and_grows_with_the_signal():
    s = simulate(n_frames=20_000, noise=0.5, seed=1)
    residual = s.session.traces - s.clean
    np.testing.assert_allclose(residual.std(0) / s.clean.std(0), 0.5, rtol=0.05)
    bright = s.clean > np.quantile(s.clean, 0.9, axis=0)
    assert (np.where(bright, residual, 0) ** 2).sum() / bright.sum() > 1.5 * (residual**2)[~bright].mean()
    silent = simulate(n_frames=50, noise=0)
    np.testing.assert_array_equal(silent.session.traces, silent.clean.astype(np.float32))


def test_spikes_are_poisson_of_the_rates():
    s = simulate(n_frames=40_000, n_neurons=20, rate=10.0)
    expected = s.rates / 10.0
    np.testing.assert_allclose(s.spikes.mean(0), expected.mean(0), rtol=0.03)
    excess = ((s.spikes - expected) ** 2).mean(0) / expected.mean(0)  # 1 for Poisson counts
    np.testing.assert_allclose(excess, 1.0, rtol=0.1)


def test_calcium_is_the_spikes_through_the_double_exponential():
    s = simulate(n_neurons=3, n_frames=2000, rate=10.0, noise=0.0)
    t = np.arange(200) / 10.0
    kernel = np.exp(-t / DECAY) - np.exp(-t / RISE)
    for neuron in range(3):
        through = np.convolve(s.spikes[:, neuron], kernel)[:2000][200:]  # earlier frames feel spikes before the first
        ratio = s.clean[200:, neuron] / through
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    assert abs(s.clean[:200].mean() / s.clean.mean() - 1) < 0.5  # no transient at the start


def test_latents_dominate_so_that_traces_can_be_compressed():
    traces = simulate().session.traces
    z = (traces - traces.mean(0)) / traces.std(0)
    power = np.linalg.svd(z, compute_uv=False) ** 2
    assert power[:7].sum() / power.sum() > 0.6  # 6 latents and a stimulus among 60 neurons


def test_latents_are_forgotten_within_the_gap_of_a_split():
    latents = simulate(n_frames=40_000).latents
    lag = 80  # 8 s
    assert np.abs((latents[lag:] * latents[:-lag]).mean(0)).max() < 0.15


def test_full_coupling_reaches_the_ceiling_from_rates_and_stays_below_it_from_calcium():
    s = simulate(n_frames=20_000, seed=3)
    from_rates = _held_out_r2(np.log(s.rates), s.session.behavior)
    from_calcium = _held_out_r2(s.session.traces, s.session.behavior)
    ceiling = np.array([s.ceiling["running"], s.ceiling["stimulus"]])
    np.testing.assert_allclose(from_rates, ceiling, atol=0.01)
    assert ceiling[1] == pytest.approx(1.0) and 0.9 < ceiling[0] < 1.0
    assert (from_calcium > 0.4).all() and (from_calcium < ceiling).all()


def test_the_ceiling_is_what_a_linear_reader_of_log_rates_gets_at_partial_coupling():
    s = simulate(n_frames=100_000, n_neurons=10, n_latents=3, coupling=0.5, seed=2)
    measured = _held_out_r2(np.log(s.rates), s.session.behavior)
    np.testing.assert_allclose(measured, list(s.ceiling.values()), atol=0.05)


def test_without_coupling_nothing_can_be_decoded():
    s = simulate(n_frames=20_000, n_neurons=10, coupling=0.0)
    assert set(s.ceiling.values()) == {0.0}
    assert (_held_out_r2(s.session.traces, s.session.behavior) < 0.05).all()


def test_ceiling_grows_with_coupling():
    running = [simulate(n_frames=500, coupling=c).ceiling["running"] for c in (0.0, 0.2, 0.6, 1.0)]
    assert running == sorted(running) and running[0] == 0.0


def test_smallest_recording():
    assert simulate(n_neurons=2, n_frames=16, rate=0.5, n_latents=1).session.n_frames == 16


@pytest.mark.parametrize("name, value", [("n_neurons", 1), ("n_frames", 15), ("rate", 0.0), ("rate", float("nan")),
                                         ("n_latents", 0), ("coupling", 1.1), ("coupling", -0.1), ("noise", -1.0),
                                         ("noise", float("inf"))])
def test_numbers_out_of_range_are_named(name, value):
    with pytest.raises(UserError, match=f"{name}={value}: must be"):
        simulate(**{name: value})


@pytest.mark.parametrize("kind, pattern, names", [("npz", "*.npz", ["running", "stimulus"]),
                                                  ("allen", "ophys_experiment_data/*.nwb", ["running", "pupil"])])
def test_the_command_line_writes_recordings_and_says_their_ceilings(kind, pattern, names, tmp_path, capsys):
    out = tmp_path / "made"
    assert cli.main(["sessions", "simulate", "--format", kind, "--out", str(out), "--cells", "5,7", "--frames", "2000",
                     "--seed", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ceilings = json.loads((out / "ceilings.json").read_text())
    assert [s.n_neurons for s in read(str(out / pattern))] == [5, 7] and len(ceilings) == 2
    for line, (id, made) in zip(lines, ceilings.items()):
        assert line.startswith(id) and all(f"{name} {made[name]:.3f}" in line for name in names)
    assert lines[-1].endswith(f"--sessions '{out}/{pattern}'")


def test_simulated_counts_are_whole_numbers(tmp_path, capsys):
    assert cli.main(["sessions", "simulate", "--out", str(tmp_path / "x"), "--cells", "5,many"]) == 2
    assert "--cells 5,many: give whole numbers" in capsys.readouterr().err and not list(tmp_path.iterdir())
