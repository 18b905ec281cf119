import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from raycal.metrics.events import Events, events, wasserstein


def test_events_are_counted_neuron_by_neuron_with_their_peak_and_fall():
    x = np.zeros((2, 2, 10))
    x[0, 0, 2:6] = 3.0, 5.0, 4.0, 2.5  # peak at 3, below again at 6
    x[0, 0, 8] = 2.1
    x[1, 1, 7:] = 3.0, 3.0, 6.0  # ends with its window
    found = events(x, rate=2.0, threshold=2.0)
    assert found.rate.tolist() == [2 * 2.0 / 20, 1 * 2.0 / 20]
    assert found.amplitude.tolist() == [5.0, 2.1, 6.0]
    assert found.decay.tolist() == [1.5, 0.5, 0.5]


def test_an_event_that_began_before_its_window_does_not_count():
    x = np.zeros((3, 1, 5))
    x[:, 0, :2] = 9.0
    assert events(x, 1.0).rate.tolist() == [0.0] and not len(events(x, 1.0).amplitude)


def test_windows_do_not_run_into_each_other():
    x = np.zeros((2, 1, 4))
    x[0, 0, -1] = x[1, 0, 0] = 5.0
    assert events(x, 1.0).amplitude.tolist() == [5.0] and events(x, 1.0).decay.tolist() == [1.0]


def test_a_plateau_falls_from_its_first_frame():
    x = np.zeros((1, 1, 6))
    x[0, 0, 1:4] = 4.0
    assert events(x, 1.0).decay.tolist() == [3.0]


def test_distances_are_of_rates_amplitudes_and_decays():
    a = Events(np.array([1.0, 2.0]), np.array([3.0, 5.0]), np.array([0.5, 0.5]))
    b = Events(np.array([2.0, 2.5]), np.array([4.0, 6.0]), np.array([0.5, 1.5]))
    assert a.distances(b) == {"event_rate": 0.75, "event_amplitude": 1.0, "event_decay": 0.5}


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=30), st.lists(st.floats(-50, 50), min_size=1, max_size=30))
def test_wasserstein_is_scipys(a, b):
    assert wasserstein(np.array(a), np.array(b)) == pytest.approx(wasserstein_distance(a, b), abs=1e-9)


def test_no_event_at_all_is_as_far_as_the_events_are_high():
    assert wasserstein(np.zeros(0), np.array([2.0, 4.0])) == 3.0 and wasserstein(np.zeros(0), np.zeros(0)) == 0.0
