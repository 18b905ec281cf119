from types import SimpleNamespace

import numpy as np
import pytest

from raycal import config
from raycal.errors import UserError
from raycal.sessions.session import Session
from raycal.sessions.split import PARTS, gap_frames, longest_window, split


def recording(n_frames=1000, rate=10.0, segments=None, masks=None):
    """A stand-in: a split looks at nothing but these."""
    return SimpleNamespace(id="mouse", n_frames=n_frames, rate=rate, masks=masks or {},
                           segments=segments or ((0, n_frames),))


def settings(**changes):
    return config.Config().replace({f"sessions.{k}": v for k, v in changes.items()}).sessions


def random_case(rng):
    """Return a session of 1 to 4 segments with holes between them, and settings that may or may not fit it."""
    lengths, holes = rng.integers(20, 1500, rng.integers(1, 5)), rng.integers(0, 50, 4)
    starts = np.cumsum(holes[:len(lengths)]) + np.concatenate(([0], np.cumsum(lengths)[:-1]))
    segments = tuple((int(a), int(a + n)) for a, n in zip(starts, lengths))
    session = recording(segments[-1][1] + int(rng.integers(0, 30)), float(rng.uniform(0.5, 31)), segments)
    train = float(rng.uniform(0.2, 0.8))
    return session, settings(rounds=int(rng.integers(1, 6)), gap=float(rng.uniform(0, 8)), train=train,
                             validation=float(rng.uniform(0.1, 0.95)) * (0.95 - train) + 0.02), int(rng.integers(4, 80))


def owner(cut, n_frames):
    """Return (T,) the part of each frame, -1 = none; fails when two pieces share a frame."""
    of = np.full(n_frames, -1)
    for i, part in enumerate(PARTS):
        for a, b in cut.pieces[part]:
            assert (of[a:b] == -1).all()
            of[a:b] = i
    return of


def assert_apart(of, gap):
    used = np.flatnonzero(of >= 0)
    crossing = of[used[1:]] != of[used[:-1]]
    assert (np.diff(used)[crossing] > gap).all()  # at least `gap` frames lie between


def test_random_splits_are_disjoint_apart_inside_segments_and_complete():
    rng, done = np.random.default_rng(0), 0
    for _ in range(600):
        session, chosen, window = random_case(rng)
        try:
            cut = split(session, chosen, window, context=int(rng.integers(0, 40)))
        except UserError:
            continue
        done += 1
        assert_apart(owner(cut, session.n_frames), cut.gap)
        for part in PARTS:
            assert cut.pieces[part] == tuple(sorted(cut.pieces[part])) and cut.pieces[part]
            for a, b in cut.pieces[part]:
                assert b - a >= window
                assert any(first <= a and b <= last for first, last in session.segments)
    assert done > 200


def test_every_frame_outside_the_gaps_is_used_or_counted_as_dropped():
    rng = np.random.default_rng(1)
    for _ in range(200):
        session, chosen, window = random_case(rng)
        try:
            cut = split(session, chosen, window)
        except UserError:
            continue
        frames = sum(b - a for a, b in session.segments)
        used = sum(b - a for part in PARTS for a, b in cut.pieces[part])
        assert used + cut.dropped == frames - cut.gap * (3 * chosen.rounds - 1)


@pytest.mark.parametrize("rounds", [1, 3, 7])
def test_shares_are_kept_and_rounds_take_turns(rounds):
    cut = split(recording(20_000), settings(rounds=rounds, train=0.5, validation=0.3), 8)
    lengths = {p: sum(b - a for a, b in cut.pieces[p]) for p in PARTS}
    total = sum(lengths.values())
    assert [round(lengths[p] / total, 2) for p in PARTS] == [0.5, 0.3, 0.2]
    assert all(len(cut.pieces[p]) == rounds for p in PARTS)
    order = [part for _, part in sorted((a, p) for p in PARTS for a, _ in cut.pieces[p])]
    assert order == list(PARTS) * rounds


def test_blocks_of_a_worm_are_those_computed_by_hand():
    # 800 frames, one round, 10 frames of gap twice: 780 to share 60:20:20
    cut = split(recording(800, rate=2.0), settings(rounds=1, gap=5.0), 16)
    assert cut.gap == 10
    assert dict(cut.pieces) == {"train": ((0, 468),), "validation": ((478, 634),), "test": ((644, 800),)}


def test_gap_is_seconds_times_rate_unless_the_model_reads_further():
    assert gap_frames(recording(rate=29.9999999999), settings(gap=8.0)) == 240
    assert gap_frames(recording(rate=30.0000000001), settings(gap=8.0)) == 240
    assert gap_frames(recording(rate=1.7), settings(gap=8.0)) == 14  # 13.6 rounded up
    assert gap_frames(recording(rate=1.7), settings(gap=8.0), context=50) == 50


def test_unknown_rate_is_asked_for_and_a_given_one_used():
    with pytest.raises(UserError, match=r"mouse states no sampling rate.*--set sessions.rate=HZ"):
        gap_frames(recording(rate=float("nan")), settings())
    assert gap_frames(recording(rate=float("nan")), settings(rate=20.0)) == 160
    assert gap_frames(recording(rate=10.0), settings(rate=20.0)) == 80  # the file's own is not overruled


def test_longest_window_fits_every_block_and_one_frame_more_does_not():
    rng = np.random.default_rng(2)
    for _ in range(200):
        session, chosen, _ = random_case(rng)
        try:
            longest = longest_window(session, chosen)
        except UserError:
            continue
        if longest == 0:
            continue
        per_part = [len(p) for p in split(session, chosen, longest).pieces.values()]
        assert min(per_part) >= chosen.rounds  # every block kept a piece
        try:
            fewer = [len(p) for p in split(session, chosen, longest + 1).pieces.values()]
        except UserError:
            continue
        assert sum(fewer) < sum(per_part)


def test_too_short_a_recording_is_refused_with_numbers_and_the_fix():
    with pytest.raises(UserError, match=r"mouse: too few frames: 300 frames less 8 gaps of 80.*sessions.rounds=3"):
        split(recording(300), settings(), 16)
    with pytest.raises(UserError, match=r"too few frames for a validation.*longest run is 24 and a window takes 64"):
        split(recording(1000), settings(), 64)


def test_file_split_is_kept_for_test_and_trimmed_elsewhere():
    of = np.repeat([0, 1, 0, 2], 100)
    masks = {part: of == i for i, part in enumerate(PARTS)}
    cut = split(recording(400, rate=1.0, masks=masks), settings(split="file", gap=10.0), 16)
    assert dict(cut.pieces) == {"train": ((0, 90), (210, 290)), "validation": ((100, 200),), "test": ((300, 400),)}
    assert_apart(owner(cut, 400), 10)


def test_file_split_is_cut_at_segments():
    of = np.repeat([0, 1, 2], 100)
    masks = {part: of == i for i, part in enumerate(PARTS)}
    cut = split(recording(300, 1.0, ((0, 40), (40, 300)), masks), settings(split="file", gap=0.0), 16)
    assert cut.pieces["train"] == ((0, 40), (40, 100))


def test_random_file_splits_keep_the_gap():
    rng = np.random.default_rng(3)
    for _ in range(100):
        of = np.repeat(rng.integers(-1, 3, 30), rng.integers(5, 120, 30))
        masks = {part: of == i for i, part in enumerate(PARTS)}
        try:
            cut = split(recording(len(of), 2.0, masks=masks), settings(split="file", gap=4.0), 8)
        except UserError:
            continue
        found = owner(cut, len(of))
        assert_apart(found, cut.gap)
        assert (found[found >= 0] == of[found >= 0]).all()


def test_file_without_a_split_is_refused():
    with pytest.raises(UserError, match="split=file, but the file marks no train and no validation and no test"):
        split(recording(), settings(split="file"), 16)


def test_a_real_session_object_splits():
    session = Session.build(id="m", traces=np.random.default_rng(0).normal(size=(2000, 3)), rate=10.0,
                            segments=[(0, 900), (950, 2000)])
    cut = split(session, settings(rounds=2), 32)
    assert_apart(owner(cut, 2000), 80)
