from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.report import figures
from raycal.report.figures import draw_session
from raycal.sessions.readers import read
from raycal.sessions.session import Session
from raycal.sessions.simulate import simulate
from raycal.sessions.stimulus import Stimulus

PNG = b"\x89PNG\r\n\x1a\n"


def _session(**changes):
    parts = dict(id="a", traces=np.random.default_rng(0).normal(size=(200, 4)), rate=10.0)
    return Session.build(**{**parts, **changes})


def _pixels(path):
    from matplotlib.image import imread

    return imread(path)


def test_draws_a_session_with_everything(tmp_path):
    draw_session(simulate(n_neurons=10, n_frames=400).session, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    image = _pixels(tmp_path / "a.png")
    assert image.shape[0] > 800 and image.shape[1] > 1000 and image[..., :3].std() > 0.1


def test_stimuli_fill_the_time_they_were_shown():
    frames = np.array([[0, 50], [50, 60], [100, 150], [170, 170]])  # the first two touch, the last is empty
    figure = figures._figure(_session(stimuli=[Stimulus("gratings", frames, {}), Stimulus("movie", frames[3:], {})]))
    axis = figure.axes[2]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["gratings", "movie"]
    spans = [path.get_extents().intervalx.tolist() for path in axis.collections[0].get_paths()]
    np.testing.assert_allclose(spans, [[0, 6], [10, 15]])
    assert not len(axis.collections[1].get_paths())


ODD = {
    "no_rate_no_behavior": dict(rate=float("nan")),
    "nan_and_constant": dict(traces=np.where(np.eye(200, 4), np.nan, [0.0, 1.0, 2.0, 3.0])),
    "one_never_measured": dict(traces=np.where(np.arange(4) == 1, np.nan, np.arange(800.0).reshape(200, 4))),
    "masked": dict(valid=np.arange(800).reshape(200, 4) % 7 > 2),
    "two_neurons_16_frames": dict(traces=np.arange(32.0).reshape(16, 2)),
    "segments": dict(segments=[(0, 90), (120, 200)], behavior=np.full((200, 1), np.nan), behavior_names=["x"]),
    "six_behaviors": dict(behavior=np.ones((200, 6)), behavior_names=list("abcdef"), behavior_units=["m"] * 6),
    "signs_in_names": dict(id="a_$\\bad{$%", behavior=np.ones(200), behavior_names=["x_$y"],
                           neurons=["$a", "", "{", "\\b"]),
    "long": dict(traces=np.random.default_rng(0).normal(size=(20_000, 3)), rate=10.0),
}


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_odd_sessions_are_drawn_without_a_warning(changes, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_session(_session(**changes), tmp_path / "odd.png")
    assert (tmp_path / "odd.png").read_bytes().startswith(PNG)


def test_zscores_are_over_measured_frames():
    traces, valid = np.random.default_rng(1).normal(5, 3, (300, 3)), np.ones((300, 3), bool)
    valid[:100, 1] = False
    traces[:100, 1] = 1e6
    z = figures._zscored(_session(traces=traces, valid=valid))
    assert np.isnan(z[:100, 1]).all() and not np.isnan(z[100:]).any()
    np.testing.assert_allclose(np.nanmean(z, 0), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(z, 0), 1, atol=1e-5)


def test_bins_are_means_of_what_was_measured(monkeypatch):
    monkeypatch.setattr(figures, "MAX_COLUMNS", 2)
    z = np.array([[1.0, np.nan], [3.0, 4.0], [5.0, np.nan], [7.0, np.nan]])
    np.testing.assert_array_equal(figures._binned(z), [[2.0, 4.0], [6.0, np.nan]])


def test_neurons_that_move_together_stand_together():
    pattern = np.sin(np.arange(200) / 9.0)
    traces = np.stack([pattern, -pattern, pattern, -pattern, pattern], axis=1)
    order = figures._by_first_component(traces).tolist()
    assert set(order[:3]) == {0, 2, 4}


def test_time_is_in_minutes_for_long_recordings_and_frames_without_a_rate():
    assert figures._time_axis(_session())[2] == "recorded time (s)"
    assert figures._time_axis(_session(rate=0.1))[1:] == (pytest.approx(1 / 6), "recorded time (min)")
    assert "frame" in figures._time_axis(_session(rate=float("nan")))[2]


@pytest.mark.parametrize("name", ["no/such/a.png", "a.nonsense"])
def test_a_picture_that_cannot_be_written_is_named(name, tmp_path):
    with pytest.raises(UserError, match=f"{name}: the picture cannot be written"):
        draw_session(_session(), tmp_path / name)


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path):
    code = ("import sys, numpy as np\nfrom raycal.report.figures import draw_session\n"
            "from raycal.sessions.session import Session\nassert 'matplotlib' not in sys.modules\n"
            "draw_session(Session.build(id='a', traces=np.eye(20, 3)), sys.argv[1])\n"
            "assert 'matplotlib.pyplot' not in sys.modules\n")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True, timeout=120)


@pytest.mark.data
def test_a_published_worm_is_drawn(data_dir, tmp_path):
    draw_session(read(str(data_dir / "worms" / "swf415*.h5"))[0], tmp_path / "worm.png")
    assert (tmp_path / "worm.png").stat().st_size > 50_000
