"""A small two-photon session in the layout of Allen's NWB 1 files."""
from __future__ import annotations

import h5py
import numpy as np
import pytest

PIPELINE = "processing/brain_observatory_pipeline"
T, N, LATE = 300, 6, 5  # frames, cells, frames before the wheel's first sample


def _contents() -> dict:
    rng = np.random.default_rng(3)
    times = 8.6 + np.arange(T) / 30.07
    return {
        "nwb_version": "NWB-1.0.5", "session_start_time": "2016-02-16T10:26:47",
        "general/session_id": "501940850", "general/session_type": "three_session_A",
        "general/experiment_container_id": "511510736", "general/specimen_name": "Cux2-CreERT2;Camk2a-tTA;Ai93-1",
        "general/generated_by": np.array([b"brain_observatory_pipeline", b"3.0"]),
        "general/devices/2-photon microscope": "Nikon A1R-MP multiphoton microscope. CAM2P.2 Please refer to the paper",
        "general/subject/genotype": "Cux2-CreERT2/wt;Camk2a-tTA/wt;Ai93(TITL-GCaMP6f)/wt",
        "general/subject/age": "104 days", "general/subject/sex": "male", "general/fov": "400x400 microns",
        "general/optophysiology/imaging_plane_1/location": "VISp",
        "general/optophysiology/imaging_plane_1/imaging depth": "175 microns",
        "general/optophysiology/imaging_plane_1/indicator": "GCaMP6f",
        "general/optophysiology/imaging_plane_1/excitation_lambda": "910 nanometers",
        f"{PIPELINE}/DfOverF/imaging_plane_1/data": rng.normal(0, 0.1, (N, T)).astype(np.float32),
        f"{PIPELINE}/DfOverF/imaging_plane_1/timestamps": times,
        f"{PIPELINE}/Fluorescence/imaging_plane_1/timestamps": times,
        f"{PIPELINE}/ImageSegmentation/cell_specimen_ids": np.arange(517400000, 517400000 + N),
        f"{PIPELINE}/BehavioralTimeSeries/running_speed/data": np.abs(rng.normal(10, 5, T - LATE)).astype(np.float32),
        f"{PIPELINE}/BehavioralTimeSeries/running_speed/timestamps": times[LATE:],
    }


@pytest.fixture
def allen_contents():
    """Return what the file holds, by path, to change and to compare with."""
    return _contents()


@pytest.fixture
def write_allen():
    """Return a function that writes such a file; a value None leaves its path out."""
    def write(path, changes=None):
        with h5py.File(path, "w") as f:
            for key, value in {**_contents(), **(changes or {})}.items():
                if value is not None:  # text is fixed-length bytes there, as AllenSDK expects
                    f.create_dataset(key, data=np.bytes_(value) if isinstance(value, str) else value)
        return path
    return write
