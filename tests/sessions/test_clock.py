from __future__ import annotations

import numpy as np
import pytest

from raycal.sessions.clock import on_frames

TIMES = np.arange(10) / 10


def test_samples_of_the_same_clock_come_back_as_they_are():
    values = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    np.testing.assert_array_equal(on_frames(values, TIMES, TIMES), values)
    values[3] = np.nan
    np.testing.assert_array_equal(on_frames(values, TIMES + 1e-6, TIMES), values)


def test_a_slower_line_is_a_line():
    stamps = np.arange(5) * 0.25
    np.testing.assert_allclose(on_frames(3 * stamps + 1, stamps, TIMES), 3 * TIMES + 1, rtol=1e-6)


def test_a_faster_series_is_averaged_over_the_frame():
    stamps = np.arange(1000) / 1000
    values = np.where(np.arange(1000) % 2, 1.0, -1.0) + np.repeat(np.arange(10), 100)
    aligned = on_frames(values, stamps, TIMES + 0.0495)  # the middle of frames that hold 100 samples each
    np.testing.assert_allclose(aligned, np.arange(10), atol=1e-6)


def test_a_faster_series_with_a_hole_is_nan_there():
    stamps = np.arange(1000) / 1000
    seen = (stamps < 0.3) | (stamps >= 0.6)
    aligned = on_frames(np.ones(1000)[seen], stamps[seen], TIMES)
    np.testing.assert_array_equal(np.isnan(aligned), (TIMES > 0.35) & (TIMES < 0.55))


def test_nothing_is_made_up_before_after_and_in_gaps():
    stamps = np.array([0.2, 0.3, 0.7, 0.8])
    aligned = on_frames(np.arange(4.0), stamps, TIMES)
    np.testing.assert_array_equal(np.isnan(aligned), [1, 1, 0, 0, 1, 1, 1, 0, 0, 1])


def test_whole_numbers_take_the_nearest_sample():
    aligned = on_frames(np.array([0, 7]), np.array([0.0, 0.2]), np.array([0.0, 0.08, 0.12, 0.2]))
    np.testing.assert_array_equal(aligned, [0, 0, 7, 7])
    assert aligned.dtype == np.float32


def test_unordered_and_nan_stamps():
    stamps = np.append(TIMES[::-1], np.nan)
    np.testing.assert_allclose(on_frames(np.append(TIMES[::-1], 99.0), stamps, TIMES), TIMES, atol=1e-7)


@pytest.mark.parametrize("stamps", [[], [np.nan], [1e9, 1e9 + 1]], ids=["none", "nan", "elsewhere"])
def test_no_sample_near_is_nan(stamps):
    assert np.isnan(on_frames(np.zeros(len(stamps)), np.array(stamps), TIMES)).all()


def test_one_sample_serves_its_own_frame():
    np.testing.assert_array_equal(on_frames(np.array([7.0]), np.array([0.1]), np.array([0.0, 0.1, 0.2])),
                                  [np.nan, 7, np.nan])
