from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest

from raycal.inference import load
from raycal.report import frames
from raycal.report.frames import AXES, MAX_FRAMES, course, draw, draw_hidden, draw_kl, portrait
from raycal.report.pictures import rendered
from raycal.sessions.prepare import prepare


@pytest.fixture(scope="module")
def trained(vae):
    return load(vae[0])


@pytest.fixture(scope="module")
def dataset(vae, trained):
    return prepare(vae[1], trained.config.sessions, 17, log=lambda _: None)


@pytest.fixture(scope="module")
def found(trained, dataset):
    return course(trained, dataset)


def test_every_frame_of_the_part_is_drawn_with_its_behaviour_and_time(found, dataset):
    pieces = [p for r in dataset.recordings for p in r.pieces["validation"]]
    n = sum(b - a for a, b in pieces)
    assert found.axes.shape == (n, AXES) and found.n_frames == n and found.sessions == ("s12", "s9")
    assert np.bincount(found.piece).tolist() == [b - a for a, b in pieces]
    first, second = dataset.recordings
    assert np.array_equal(found.behavior[:pieces[0][1] - pieces[0][0]], first.behavior[slice(*pieces[0])])
    assert np.array_equal(found.behavior[-3:], second.behavior[:pieces[-1][1]][-3:])
    np.testing.assert_allclose(np.diff(found.seconds), 0.2, rtol=1e-6)  # pieces and sessions are joined
    assert found.behavior_names == ("running (cm/s)", "stimulus")


def test_axes_are_those_of_the_latents_and_hold_their_variance(found, trained, dataset):
    """Distances are kept where there are as many axes as latents, and shares are those of the axes drawn."""
    share = found.axes.var(0) / found.axes.var(0).sum() * found.explained.sum()
    np.testing.assert_allclose(share, found.explained, rtol=1e-4)
    assert (np.diff(found.explained) <= 0).all() and found.explained.sum() < 1.0
    flat, shares = frames._principal(np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32))
    assert flat.shape == (50, 3) and not flat[:, 2].any() and shares.sum() == pytest.approx(1.0)


def test_latents_are_those_of_the_model_in_the_whole_recording(trained, dataset, vae):
    """Far from the borders of a piece they are what `latents` says of the session."""
    recording = dataset.recordings[0]
    piece = recording.pieces["validation"][0]
    center, spread = recording.scalers["zscore"]
    x = (vae[1][0].traces[:, list(recording.kept)] - center) / spread
    first = int(np.flatnonzero((np.abs(((recording.traces - center) / spread)[piece[0]] - x) < 1e-5).all(1))[0])
    z = frames.blended(trained.model, 0, (recording.traces - center) / spread, None, [piece], 17)[slice(*piece)]
    again = frames.blended(trained.model, 0, x, None, [(first, first + piece[1] - piece[0])], 17)
    np.testing.assert_allclose(z, again[first:first + len(z)], atol=1e-5)


def test_long_parts_are_cut_to_the_beginnings_of_their_pieces(trained, dataset, monkeypatch):
    monkeypatch.setattr(frames, "MAX_FRAMES", 60)
    whole, cut = portrait(trained, dataset, 2).course, course(trained, dataset)
    assert len(cut.seconds) == 60 and cut.n_frames == sum(b - a for r in dataset.recordings
                                                          for a, b in r.pieces["validation"])
    assert np.bincount(cut.piece).tolist() == [10] * 6 and np.array_equal(whole.axes, cut.axes)
    assert MAX_FRAMES == 3000


def test_everything_is_drawn_without_a_warning(trained, dataset):
    shown = portrait(trained, dataset, 2)
    bare = shown.course._replace(behavior=np.full((len(shown.course.seconds), 2), np.nan), sessions=("only",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for p in (shown, shown._replace(course=bare), shown._replace(epoch=0)):
            figures = draw(p)
            assert list(figures) == ["trajectories", "hidden-neurons", "kl-by-epoch"]
            assert all(rendered(f).std() > 1 for f in figures.values())


def titles(figure):
    return [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]


def test_lines_are_coloured_by_behaviour_and_by_time_where_there_is_none(found):
    assert titles(frames.draw_course(found)) == ["running (cm/s)", "stimulus", "session"]
    bare = found._replace(behavior=found.behavior[:, :0], behavior_names=(), sessions=("only",))
    assert titles(frames.draw_course(bare)) == ["time (s)"]


def test_lines_do_not_leave_their_piece(found):
    figure = frames.draw_course(found)
    pieces = len(np.unique(found.piece))
    drawn = sum(len(c.get_segments()) for c in figure.axes[0].collections)
    assert drawn == len(found.seconds) - pieces


def test_hidden_neurons_are_named_with_their_r2(trained):
    hidden = {**trained.arrays["hidden"], "labels": ["AVAL", *[""] * 5]}
    figure = draw_hidden(hidden)
    first, second = (float(s) for s in hidden["scores"][:2])
    assert figure.axes[0].get_ylabel() == f"AVAL\nR2 {first:.2f}"
    assert f"neuron {int(hidden['neurons'][1])}\nR2 {second:.2f}" in [a.get_ylabel() for a in figure.axes]
    assert "predicted from the others" in [t.get_text() for t in figure.legends[0].texts]


def test_latents_that_cost_most_at_the_best_epoch_are_named():
    kl = np.array([[9.0, 0.1, 0.2, 0.0], [0.3, 2.0, 0.5, 0.0], [5.0, 0.0, 0.0, 0.0]])
    figure = draw_kl(kl, 2, [f"latent {k}" for k in range(4)])
    one, total = figure.axes[:2]
    assert [t.get_text() for t in one.get_legend().texts] == ["latent 1", "latent 2", "latent 0", "latent 3"]
    assert total.lines[0].get_ydata().tolist() == pytest.approx([9.3, 2.8, 5.0])
    assert one.lines[0].get_ydata().tolist() == [0.1, 2.0, 0.0]


def test_holes_reach_nothing(trained, dataset):
    holes = np.random.default_rng(0).random(dataset.recordings[0].traces.shape) < 0.1
    def with_holes(value):
        filled = dataclasses.replace(dataset.recordings[0], valid=~holes,
                                     traces=np.where(holes, np.float32(value), dataset.recordings[0].traces))
        return course(trained, dataclasses.replace(dataset, recordings=(filled, dataset.recordings[1])))
    assert np.array_equal(with_holes(0.0).axes, with_holes(90.0).axes)
