import numpy as np
import pytest

from raycal.metrics import ridge as module
from raycal.metrics.decoding import r2
from raycal.metrics.ridge import fit_ridge


def lagged(x, pieces, lags):
    """The features written out plainly: frame by frame, repeating a piece's edge."""
    return np.array([np.concatenate([x[min(max(t + d, a), b - 1)] for d in range(-lags, lags + 1)])
                     for a, b in pieces for t in range(a, b)])


def closed_form(features, y, penalty):
    f, c = features - features.mean(0), y - y.mean(0)
    weights = np.linalg.solve(f.T @ f + penalty * np.eye(f.shape[1]), f.T @ c)
    return weights, y.mean(0) - features.mean(0) @ weights


def standard(x, rows):
    return (x - x[rows].mean(0)) / x[rows].std(0)


@pytest.mark.parametrize("frames", [500, 25])  # more frames than features, and fewer
@pytest.mark.parametrize("alpha", [0.01, 10.0])
def test_ridge_is_the_closed_form(frames, alpha):
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (2 * frames, 6)), rng.normal(1, 1, (2 * frames, 2))
    pieces = ((0, frames // 2), (frames, frames + frames // 2))
    rows = np.concatenate([np.arange(*p) for p in pieces])
    found = fit_ridge(x, y, pieces, lags=2, alphas=[alpha])
    weights, intercept = closed_form(lagged(standard(x, rows), pieces, 2), y[rows], alpha * len(rows))
    np.testing.assert_allclose(found.weights, weights, atol=1e-8)
    np.testing.assert_allclose(found.intercept, intercept, atol=1e-8)


def test_blocks_of_rows_do_not_show(monkeypatch):
    rng = np.random.default_rng(1)
    x, y, pieces = rng.normal(size=(300, 4)), rng.normal(size=(300, 1)), ((0, 170), (180, 300))
    whole = fit_ridge(x, y, pieces, lags=3)
    monkeypatch.setattr(module, "ROWS", 7)
    pieced = fit_ridge(x, y, pieces, lags=3)
    np.testing.assert_allclose(whole.weights, pieced.weights, atol=1e-10)
    np.testing.assert_allclose(whole.predict(x, pieces), pieced.predict(x, pieces), atol=1e-10)


def test_a_known_linear_map_is_recovered_and_predicts_held_out_frames():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3000, 5)).astype(np.float32)
    past = np.roll(x, 2, axis=0)
    y = 2 * x[:, :1] - 3 * past[:, 1:2] + 7
    found = fit_ridge(x, y, ((0, 2000),), lags=3)
    assert found.alpha[0] == module.ALPHAS[0]
    by_lag = found.weights[:, 0].reshape(7, 5) / found.inputs.spread
    assert by_lag[3, 0] == pytest.approx(2, abs=0.02) and by_lag[1, 1] == pytest.approx(-3, abs=0.02)
    held_out = slice(2103, 2997)  # at a piece's edge the lag that is needed does not exist
    assert r2(y[held_out], found.predict(x, ((2100, 3000),))[held_out], 7.0).mean > 0.9999


def test_noise_gets_a_large_penalty():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(400, 20)), rng.normal(size=(400, 1))
    found = fit_ridge(x, y, ((0, 400),), lags=2)
    assert found.alpha[0] >= 10 and np.abs(found.predict(x, ((0, 400),)) - y.mean()).max() < 0.3


def test_each_output_has_its_own_penalty():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(600, 10))
    found = fit_ridge(x, np.stack([x[:, 0], rng.normal(size=600)], axis=1), ((0, 600),), lags=1)
    assert found.alpha[0] < found.alpha[1]


def test_lags_never_cross_pieces():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(400, 3)), rng.normal(size=(400, 1))
    pieces = ((0, 100), (100, 230), (300, 400))
    found = fit_ridge(x, y, pieces, lags=5)
    other = x.copy()
    other[:100], other[230:] = 1e6, -1e6  # all but the middle piece
    assert np.array_equal(found.predict(x, (pieces[1],))[100:230], found.predict(other, (pieces[1],))[100:230])
    inside = np.zeros(400, bool)
    inside[100:230] = True
    assert np.array_equal(~np.isnan(found.predict(x, (pieces[1],))[:, 0]), inside)
    outside = x.copy()
    outside[230:300] = np.nan  # frames of no piece, such as a gap, are never looked at
    np.testing.assert_array_equal(fit_ridge(outside, y, pieces, lags=5).weights, found.weights)


def test_held_out_frames_do_not_enter_the_fit():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(300, 3)), rng.normal(size=(300, 1))
    other_x, other_y = x.copy(), y.copy()
    other_x[200:], other_y[200:] = np.nan, np.nan
    a, b = fit_ridge(x, y, ((0, 200),)), fit_ridge(other_x, other_y, ((0, 200),))
    assert np.array_equal(a.weights, b.weights) and np.array_equal(a.inputs.center, b.inputs.center)


def test_nan_in_one_output_leaves_the_other_alone():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(500, 4))
    y = np.stack([x[:, 0], x[:, 1], np.full(500, np.nan)], axis=1)
    y[50:200, 1] = np.nan
    found = fit_ridge(x, y, ((0, 300), (300, 500)), lags=1)
    alone = fit_ridge(x, y[:, :1], ((0, 300), (300, 500)), lags=1)
    np.testing.assert_allclose(found.weights[:, 0], alone.weights[:, 0], atol=1e-12)
    seen = ~np.isnan(y[:, 1])
    weights, _ = closed_form(lagged(standard(x, slice(None)), ((0, 300), (300, 500)), 1)[seen], y[seen, 1:2],
                             found.alpha[1] * seen.sum())
    np.testing.assert_allclose(found.weights[:, 1:2], weights, atol=1e-8)
    assert (found.weights[:, 2] == 0).all() and np.isnan(found.alpha[2])
    assert (found.predict(x, ((0, 500),))[:, 2] == 0).all()


def test_frames_not_valid_count_as_the_mean():
    rng = np.random.default_rng(8)
    x, y, valid = rng.normal(size=(300, 4)), rng.normal(size=(300, 1)), rng.random((300, 4)) < 0.8
    a = fit_ridge(np.where(valid, x, 0), y, ((0, 300),), lags=1, valid=valid)
    b = fit_ridge(np.where(valid, x, 9e3), y, ((0, 300),), lags=1, valid=valid)
    np.testing.assert_allclose(a.weights, b.weights, atol=1e-8)
    np.testing.assert_allclose(a.inputs.center, [x[valid[:, n], n].mean() for n in range(4)])


def test_many_inputs_are_reduced_to_components_that_hold_the_signal(monkeypatch):
    monkeypatch.setattr(module, "MAX_FEATURES", 30)
    rng = np.random.default_rng(9)
    latent = rng.normal(size=(900, 3))
    x = latent @ rng.normal(size=(3, 40)) + 0.01 * rng.normal(size=(900, 40))
    found = fit_ridge(x, latent[:, :1], ((0, 600),), lags=1)
    assert found.inputs.components.shape == (40, 10) and len(found.weights) == 30
    assert r2(latent[600:, :1], found.predict(x, ((600, 900),))[600:]).mean > 0.99


def test_frames_beside_a_cut_are_not_scored():
    problem = module._Problem(np.zeros((60, 2)), np.zeros((60, 1)), ((0, 40), (40, 60)), None,
                              module._inputs(np.zeros((60, 2)), ((0, 40),), 0, None))
    scored = problem._scored([0, 20, 40, 60], gap=5)  # the cut at 40 lies between two pieces
    assert np.array_equal(np.flatnonzero(~scored), np.arange(15, 25))
