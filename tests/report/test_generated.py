from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from raycal.report.generated import draw
from raycal.report.pictures import rendered
from raycal.training.examples import beside


@pytest.fixture(scope="module")
def generated():
    rng = np.random.default_rng(0)
    recording = SimpleNamespace(id="mouse $1$", rate=10.0, neurons=("", *(f"n{i}" for i in range(9))))
    return beside(recording, *(rng.standard_normal((20, 10, 32)) for _ in range(2)))


def test_real_and_generated_stand_in_every_picture(generated):
    figures = draw(generated)
    assert list(figures) == ["generated-traces", "generated-spectra", "generated-correlations"]
    traces, spectra, correlations = figures.values()
    lines = [axis.lines[0].get_ydata() for axis in traces.axes]
    assert len(lines) == 6 * 8
    np.testing.assert_allclose(lines[0], generated["real"]["windows"][0, 0])
    np.testing.assert_allclose(lines[4], generated["drawn"]["windows"][0, 0])
    assert traces.axes[0].get_ylabel() == "neuron 0" or traces.axes[0].get_ylabel().startswith("n")
    hertz, decibels = spectra.axes[0].lines[1].get_data()
    assert hertz[-1] == 5.0 and len(hertz) == 17
    np.testing.assert_allclose(decibels, generated["drawn"]["decibels"])
    offsets = np.asarray(correlations.axes[2].collections[0].get_offsets())
    pairs = np.triu_indices(10, 1)
    np.testing.assert_allclose(offsets[:, 0], generated["real"]["correlations"][pairs])
    for figure in figures.values():
        assert (rendered(figure)[..., :3] < 250).mean() > 0.01
