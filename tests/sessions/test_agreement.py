import pickle

import numpy as np
import pytest

from raycal import config
from raycal.errors import UserError
from raycal.sessions.agreement import agree, sketch
from raycal.sessions.prepare import assemble, prepare, record
from raycal.sessions.session import Session
from raycal.sessions.split import PARTS, gap_frames, longest_window, split
from raycal.sessions.stimulus import Stimulus


def settings(**changes):
    return config.Config().replace({f"sessions.{k}": v for k, v in {"gap": 2.0, **changes}.items()}).sessions


def session(n_frames=1200, id="mouse", seed=0, names=("speed", "pupil"), **changes):
    rng = np.random.default_rng(seed)
    return Session.build(**{"id": id, "rate": 10.0, "traces": rng.gamma(2.0, 1.5, (n_frames, 5)),
                            "behavior": rng.normal(3, 2, (n_frames, len(names))), "behavior_names": names, **changes})


def shown(**changes):
    """A session with a stimulus: eight angles, 20 frames on, 20 off."""
    frames = np.stack([np.arange(0, 1200, 40), np.arange(20, 1220, 40)], axis=1)
    return session(stimuli=[Stimulus("gratings", frames, {"angle": 45.0 * (np.arange(30) % 8)})], **changes)


def decide(sessions, chosen, window=32, log=lambda _: None):
    return agree([sketch(s, chosen) for s in sessions], chosen, window, 0, log)


def test_a_sketch_is_small_and_travels():
    s = sketch(shown(masks={"train": np.arange(1200) < 600}), settings())
    assert len(pickle.dumps(s)) < 4000
    back = pickle.loads(pickle.dumps(s))
    assert back.stimuli == (("gratings", ("angle",)),) and back.behavior_names == ("speed", "pupil")
    assert (back.fingerprint, back.rate, back.n_frames, back.n_neurons) == (shown().fingerprint, 10.0, 1200, 5)
    with pytest.raises(AttributeError):
        s.rate = 3.0


@pytest.mark.parametrize("changes", [{}, {"rounds": 2}, {"split": "file"}])
def test_a_sketch_is_split_as_its_session(changes):
    t = np.arange(1200)
    s = session(masks={"train": t < 700, "validation": (t > 720) & (t < 900), "test": t > 940}, segments=[(5, 1190)])
    chosen = settings(**changes)
    light = sketch(s, chosen)
    assert split(light, chosen, 32).pieces == split(s, chosen, 32).pieces
    assert longest_window(light, chosen) == longest_window(s, chosen)
    assert gap_frames(light, chosen) == gap_frames(s, chosen) == 20


def test_agreeing_first_and_recording_apart_is_preparing():
    sessions, chosen = [session(), session(id="b", seed=1)], settings(resample=5.0, smooth=0.3, features=1.0)
    agreement = pickle.loads(pickle.dumps(decide(sessions, chosen)))
    apart = assemble(agreement, [record(sessions[i], chosen, agreement, i) for i in (0, 1)])
    together = prepare(sessions, chosen, 32)
    assert (apart.fingerprint, apart.window, apart.behavior_names, apart.behavior_units) == (
        together.fingerprint, together.window, together.behavior_names, together.behavior_units)
    for a, b in zip(apart.recordings, together.recordings):
        assert np.array_equal(a.traces, b.traces) and np.array_equal(a.behavior, b.behavior, equal_nan=True)


def test_first_only_splits_the_first_alone():
    assert len(decide([session(), session(id="b", seed=1)], settings(mode="first_only")).splits) == 1


def test_every_session_of_a_run_is_brought_to_one_rate():
    slow = session(id="slow", seed=1, n_frames=600, rate=5.0)
    chosen = settings(resample=5.0)
    sketches = [sketch(session(), chosen), sketch(slow, chosen)]
    assert [s.rate for s in sketches] == [5.0, 5.0] and [s.n_frames for s in sketches] == [600, 600]
    assert [s.stated_rate for s in sketches] == [10.0, 5.0]
    cuts = agree(sketches, chosen, 32, log=print).splits
    assert cuts[0].pieces == cuts[1].pieces and cuts[0].gap == 10


def test_a_stated_rate_is_kept_and_that_is_said_once_resampled_too():
    said = []
    decide([session(rate=np.nan)], settings(rate=20.0, resample=10.0), 16, said.append)
    assert said == []  # the file states none: it is 20 Hz
    decide([session()], settings(rate=20.0, resample=5.0), 16, said.append)
    assert len(said) == 1 and "its own 10 Hz is kept" in said[0]


def test_parameters_of_stimuli_are_decoded_where_asked_for():
    chosen = settings(behavior=["gratings.angle", "speed"])
    dataset = prepare([shown()], chosen, 32)
    assert dataset.behavior_names == ("gratings.angle", "speed") and dataset.behavior_units == ("", "")
    cut = split(shown(), chosen, 32)
    rows = np.concatenate([np.arange(a, b) for a, b in sorted(r for p in PARTS[:2] for r in cut.pieces[p])])
    want = np.where(rows % 40 < 20, 45.0 * (rows // 40 % 8), np.nan)
    assert np.array_equal(dataset.recordings[0].behavior[:, 0], np.float32(want), equal_nan=True)
    assert prepare([shown()], settings(), 32).behavior_names == ("speed", "pupil")


def test_stimuli_of_a_resampled_session_keep_their_values():
    behavior = prepare([shown()], settings(behavior=["gratings.angle"], resample=5.0), 32).recordings[0].behavior
    assert set(np.unique(behavior[~np.isnan(behavior)])) == set(45.0 * np.arange(8))


def test_an_unknown_behaviour_is_told_what_there_is():
    with pytest.raises(UserError, match=r"mouse has no behaviour 'gratings.angel'; did you mean 'gratings.angle'\?; "
                                        "it has speed, pupil, and of its stimuli gratings.angle; change"):
        decide([shown()], settings(behavior=["gratings.angel"]))
    with pytest.raises(UserError, match="session b has no behaviour 'gratings.angle'"):
        decide([shown(), session(id="b", seed=2)], settings(behavior=["gratings.angle"]))


def test_features_are_four_columns_with_their_unit():
    one = session(behavior_units=("cm/s", "px"))
    agreement = decide([one], settings(features=2.0, behavior=["pupil"]))
    assert agreement.behavior == ("pupil",) and agreement.behavior_units == ("px",) * 4
    assert agreement.behavior_names == ("pupil_mean", "pupil_std", "pupil_max", "pupil_change")


def test_features_that_fit_no_piece_or_no_frame_are_refused_with_what_fits():
    with pytest.raises(UserError, match=r"mouse: sessions.features=60 s takes 601 frames at 10 Hz; use from 0.2 s "
                                        r"\(3 frames\) to (\S+) s") as e:
        decide([session()], settings(features=60.0))
    fits = float(str(e.value).split(" to ")[1].split(" s ")[0])
    decide([session()], settings(features=fits))
    decide([session()], settings(features=0.2))
    with pytest.raises(UserError, match="takes 1 frames"):
        decide([session()], settings(features=0.05))


def test_choosing_by_behaviour_needs_one():
    bare = session(names=(), behavior=None)
    for select in ("behavior", "variance_behavior"):
        with pytest.raises(UserError, match=f"select={select}: no behaviour is in every.*sessions.select=variance"):
            decide([bare], settings(select=select, neurons=3))
    decide([bare], settings(select="activity", neurons=3))


def test_fingerprints_of_old_runs_stay_and_new_settings_enter_them():
    t = np.arange(1200)
    old = Session.build(id="m", rate=10.0, traces=(t[:, None] * (3 + np.arange(4))) % 17, behavior=(t % 29)[:, None],
                        behavior_names=("speed",))
    found = [prepare([old], settings(**changes), 32).fingerprint for changes in (
        {}, {"behavior": ["speed"], "nan": "mask", "rate": 10.0}, {"smooth": 0.1}, {"smooth_behavior": 0.1},
        {"resample": 9.0}, {"select": "variance", "neurons": 3}, {"select": "activity", "neurons": 3},
        {"select": "variance", "neurons": 2}, {"features": 1.0})]
    assert found[:2] == ["1525490b9bd2c455", "e51bd0d09c8ab4fc"]  # written by the first release
    assert len(set(found)) == len(found)
