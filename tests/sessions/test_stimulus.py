from __future__ import annotations

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.session import Session
from raycal.sessions.stimulus import Stimulus

TIMES = 5.0 + np.arange(20) / 10


def session(*stimuli, seed=0):
    return Session.build(id="a", traces=np.random.default_rng(seed).normal(size=(20, 3)), times=TIMES, rate=10.0,
                         stimuli=stimuli)


def test_presentations_are_counted_by_the_time_of_frames():
    shown = Stimulus.at_times("gratings", [5.0, 5.41, 6.0, 9.0], [5.2, 5.49, 6.05, 10.0], TIMES, {"angle": [0, 45, 90, 9]})
    assert shown.frames.tolist() == [[0, 2], [5, 5], [10, 11], [20, 20]]  # the second falls between two frames


def test_a_parameter_frame_by_frame_is_nan_where_nothing_was_shown():
    shown = Stimulus("gratings", np.array([[1, 3], [3, 4], [6, 6]]), {"angle": np.array([10, 20, 30])})
    np.testing.assert_array_equal(shown.series("angle", 6), np.array([np.nan, 10, 10, 20, np.nan, np.nan], np.float32))


@pytest.mark.parametrize("frames, columns, message", [
    ([[0, 2]], {"angle": [1, 2]}, "angle has 2 values for 1 presentations"),
    ([[0, 2], [3, 1]], {}, r"presentation 1 takes frames \[3, 1\]"),
    ([[-1, 2]], {}, r"presentation 0 takes frames \[-1, 2\]")])
def test_parts_that_do_not_belong_together_are_refused(frames, columns, message):
    with pytest.raises(UserError, match=f"stimulus 'x': {message}"):
        Stimulus("x", np.array(frames), columns)


def test_a_session_refuses_stimuli_beyond_its_frames_and_of_one_name():
    with pytest.raises(UserError, match="shown up to frame 21, the traces have 20"):
        session(Stimulus("x", np.array([[0, 21]]), {}))
    with pytest.raises(UserError, match="not all different"):
        session(Stimulus("x", np.array([[0, 2]]), {}), Stimulus("x", np.array([[0, 2]]), {}))


def test_what_was_shown_enters_the_fingerprint_and_the_summary():
    shown = Stimulus("gratings", np.array([[0, 2]]), {"angle": [45.0]})
    turned = Stimulus("gratings", np.array([[0, 2]]), {"angle": [90.0]})
    prints = {session().fingerprint, session(shown).fingerprint, session(turned).fingerprint}
    assert len(prints) == 3 and session(shown).fingerprint == session(shown).fingerprint
    assert "gratings 1" in session(shown).summary() and "stimuli" not in session().summary()


def test_arrays_cannot_be_changed():
    shown = Stimulus("x", np.array([[0, 2]]), {"angle": np.array([45.0])})
    for array in (shown.frames, shown.columns["angle"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
