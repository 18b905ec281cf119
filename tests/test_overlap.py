from __future__ import annotations

import numpy as np
import pytest

from raycal.overlap import batches, cover, shares

SEGMENTS = [((0, 100),), ((0, 16),), ((3, 40), (40, 57), (60, 63)), ((0, 1501),), ((7, 8),)]


def inside(segments):
    found = np.zeros(1501, int)
    for start, stop in segments:
        found[start:stop] = 1
    return found


@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize("hop", [0, 1, 5, 8, 16])
def test_windows_cover_every_frame_once(segments, hop):
    seen = np.zeros(1501, int)
    for window in cover(segments, 16, hop):
        start, stop = segments[window.segment]
        assert start <= window.start and window.start + window.length <= stop and 0 <= window.seen < window.length
        seen[window.start + window.seen:window.start + window.length] += 1
    assert np.array_equal(seen, inside(segments))


def test_windows_lie_where_they_should():
    assert [w[1:] for w in cover([(3, 40)], 16)] == [(3, 16, 0), (19, 16, 0), (24, 16, 11)]
    assert [w[1:] for w in cover([(3, 40)], 16, 8)] == [(3, 16, 0), (11, 16, 8), (19, 16, 8), (24, 16, 11)]


@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize("length,hop", [(16, 0), (16, 8), (17, 9), (16, 5), (1, 1)])
def test_shares_of_a_frame_sum_to_1(segments, length, hop):
    windows, total = cover(segments, length, hop), np.zeros(1501)
    for window, share in zip(windows, shares(windows, segments)):
        assert len(share) == window.length and (share > 0).all()
        total[window.start:window.start + window.length] += share
    np.testing.assert_allclose(total, inside(segments), atol=1e-6)


def test_shares_fall_toward_borders_but_for_those_of_a_segment():
    """Two windows of 4 that overlap by 2 in a segment of 6: 4 and 4 alone, then 2 : 1 and 1 : 2, and 4 and 4 again."""
    windows = cover([(0, 6)], 4, 2)
    np.testing.assert_allclose(shares(windows, [(0, 6)]), [[1, 1, 2 / 3, 1 / 3], [1 / 3, 2 / 3, 1, 1]], atol=1e-6)


def test_a_constant_and_a_line_come_back_and_what_windows_disagree_on_has_no_step():
    segments = [(0, 500)]
    windows, line, steps = cover(segments, 32, 16), np.zeros(500), np.zeros(500)
    for k, (w, share) in enumerate(zip(windows, shares(windows, segments))):
        at = slice(w.start, w.start + w.length)
        line[at] += share * np.arange(500)[at]
        steps[at] += share * (k % 2)
    np.testing.assert_allclose(line, np.arange(500), rtol=1e-6)
    assert np.abs(np.diff(steps)).max() < 0.1, "end to end it would be 1"


def test_batches_hold_windows_of_one_length():
    windows = cover(((0, 100), (100, 105), (110, 200)), 16)
    found = list(batches(windows, 3))
    assert sum(found, []) == windows and max(map(len, found)) == 3
    assert all(len({w.length for w in group}) == 1 for group in found)
