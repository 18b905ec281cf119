from types import SimpleNamespace

import numpy as np
import pytest

from raycal import config
from raycal.metrics import blocks
from raycal.metrics.blocks import Windows
from raycal.sessions.prepare import prepare
from raycal.sessions.session import Session
from raycal.sessions.windows import WindowSampler

PIECES = ((0, 40), (40, 53), (53, 100))


@pytest.mark.parametrize("length", [1, 5, 13])
def test_every_frame_is_kept_once_and_comes_back(length):
    x = np.arange(200.0).reshape(100, 2)
    windows = Windows.of(PIECES, length)
    assert np.array_equal(windows.join(windows.cut(x)), x)
    assert windows.weight.sum() * length == pytest.approx(100)
    runs = windows.runs(windows.starts)
    assert [r[0] for r in runs] == [0, 40, 53] and sum(map(len, runs)) == len(windows.starts)


def test_the_frames_are_those_a_model_is_judged_on():
    x = np.random.default_rng(0).normal(3, 2, (900, 5))
    dataset = prepare([Session.build(id="a", traces=x, rate=10.0)], config.Sessions(gap=2.0), 32)
    z, pieces = blocks.standardised(dataset.recordings[0], "validation")
    windows = Windows.of(pieces, 32)
    ((part,), keep), = WindowSampler(dataset, config.Windows(length=32), "zscore").cover("validation")
    np.testing.assert_allclose(windows.cut(z), part.traces.numpy().transpose(0, 2, 1), atol=1e-6)
    assert np.array_equal(np.arange(32) >= windows.fresh[:, None], keep.numpy())


def test_offsets_stay_inside_pieces_and_are_spread_evenly():
    starts = blocks.offsets(PIECES, 13, 10**6)
    assert starts.tolist() == [*range(28), 40, *range(53, 88)]
    few = blocks.offsets(PIECES, 13, 8)
    assert len(few) == 8 and set(few) <= set(starts) and few[0] == 0 and few[-1] == 87


def test_axes_come_from_the_frames_not_left_out_alone():
    x = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    other = x.copy()
    other[100:200] = 99.0
    a, b = blocks.fit_axes(x, (100, 200)), blocks.fit_axes(other, (100, 200))
    assert np.array_equal(a.components_, b.components_) and np.array_equal(a.mean_, b.mean_)
    assert not np.array_equal(blocks.fit_axes(x).mean_, a.mean_)


def test_frames_not_valid_count_neither_as_input_nor_as_error():
    rng = np.random.default_rng(2)
    x, valid = rng.normal(size=(60, 4)).astype(np.float32), rng.random((60, 4)) < 0.7
    recording = SimpleNamespace(traces=np.where(valid, x, 77).astype(np.float32), valid=valid,
                                pieces={"validation": ((0, 60),)}, scalers={"zscore": (np.zeros(4), np.ones(4))})
    z, _ = blocks.standardised(recording, "validation")
    assert (z[~valid] == 0).all() and np.array_equal(z[valid], x[valid])
    axes = blocks.fit_axes(z)
    guess = axes.transform(z)[:, :2]
    error = (x - axes.inverse_transform(np.pad(guess, ((0, 0), (0, 2)))))[valid]
    found = blocks.score(recording, "validation", axes, guess)
    assert found.nmse == pytest.approx((error**2).sum() / (x[valid] ** 2).sum(), rel=1e-5)
