"""One simulated session as an NWB 1 file that AllenSDK 2.16.2 reads (core/brain_observatory_nwb_data_set.py).

Text is fixed-length bytes: AllenSDK asks what it reads for its dtype, which h5py's variable-length text has not.
Shapes: T frames, N cells, P presentations.
"""
from __future__ import annotations

import datetime
import math
import pathlib
from dataclasses import dataclass

import h5py
import numpy as np

from raycal.sessions.simulate import Simulation, smooth_noise
from raycal.sessions.stimulus import Stimulus
from raycal.sessions.visual import MOVIES, movie

MARK = "simulated by raycal"  # says in every file what it is, and that it may be written anew
PIPELINE = "processing/brain_observatory_pipeline"
TIMES = f"{PIPELINE}/DfOverF/imaging_plane_1/timestamps"
BORN = datetime.date(2000, 1, 1)  # every mouse: no real one is of these years
START = 9.2  # s on the clock of the session at the first frame
LATE = 7  # frames before the wheel's first sample
FIELD = 512  # px, side of the imaged square
SCREEN = 15.0  # cm from the eye to the screen
PICTURE = (19, 38)  # px of a film's frames: a sixteenth of the real 304 x 608
# driver lines, reporter line, area, depth in um: lines and areas of the Brain Observatory, put together freely
MICE = (("Cux2-CreERT2;Camk2a-tTA", "Ai93(TITL-GCaMP6f)", "VISp", 175),
        ("Rorb-IRES2-Cre;Camk2a-tTA", "Ai93(TITL-GCaMP6f)", "VISl", 275),
        ("Nr5a1-Cre;Camk2a-tTA", "Ai93(TITL-GCaMP6f)", "VISal", 350),
        ("Rbp4-Cre_KL100;Camk2a-tTA", "Ai93(TITL-GCaMP6f)", "VISpm", 375),
        ("Slc17a7-IRES2-Cre;Camk2a-tTA", "Ai93(TITL-GCaMP6f)", "VISam", 225),
        ("Sst-IRES-Cre", "Ai148(TIT2L-GC6f-ICL-tTA2)", "VISrl", 300))


@dataclass(frozen=True)
class Experiment:
    """Who and what an invented recording is of; its number is its seed, and every id follows from it."""

    number: int
    n_cells: int
    n_frames: int

    @property
    def id(self) -> int:
        return 900_000_000 + self.number

    @property
    def container(self) -> int:
        return 910_000_000 + self.number

    @property
    def cells(self) -> list[int]:
        return [9_000_000_000 + 10_000 * self.number + k for k in range(self.n_cells)]

    @property
    def age(self) -> int:
        return 90 + self.number % 60  # days

    @property
    def day(self) -> datetime.date:
        return BORN + datetime.timedelta(days=self.age)

    @property
    def lines(self) -> list[str]:
        drivers, reporter, _, _ = self._mouse
        return [*drivers.split(";"), reporter]

    @property
    def genotype(self) -> str:
        return ";".join(f"{line}/wt" for line in self.lines)

    @property
    def area(self) -> str:
        return self._mouse[2]

    @property
    def depth(self) -> int:
        return self._mouse[3]

    @property
    def _mouse(self) -> tuple[str, str, str, int]:
        return MICE[self.number % len(MICE)]


def write_nwb(path: pathlib.Path, experiment: Experiment, simulation: Simulation) -> None:
    """Write the whole file; OSError or RuntimeError where it cannot be."""
    rng = np.random.default_rng([experiment.number, 1])  # what is invented beside the simulation
    with h5py.File(path, "w") as f:
        _general(f, experiment)
        f[TIMES] = START + simulation.session.times
        _traces(f, rng, simulation.session.traces)
        _cells(f, rng, experiment)
        _behavior(f, rng, simulation.session.behavior)
        for stimulus in simulation.session.stimuli:
            _stimulus(f, stimulus)


def _text(f: h5py.File, key: str, text: str | list[str]) -> None:
    f[key] = np.bytes_(text) if isinstance(text, str) else np.array(text, "S")


def _general(f: h5py.File, e: Experiment) -> None:
    plane, subject = "general/optophysiology/imaging_plane_1", "general/subject"
    for key, text in {
            "nwb_version": "NWB-1.0.5", "identifier": f"{MARK}, seed {e.number}", "session_description": MARK,
            "session_start_time": f"{e.day}T09:00:00", "file_create_date": [f"{e.day}T12:00:00"],
            "general/session_id": str(e.id), "general/experiment_container_id": str(e.container),
            "general/session_type": "three_session_A", "general/specimen_name": f"simulated-{e.number}",
            "general/fov": f"400x400 microns ({FIELD} x {FIELD} pixels)",
            "general/generated_by": ["raycal", "3.0"],  # AllenSDK takes the last for the version of the layout
            "general/devices/2-photon microscope": "Simulation. RAYCAL.1 Please note: there was no microscope",
            f"{subject}/age": f"{e.age} days", f"{subject}/sex": "male", f"{subject}/genotype": e.genotype,
            f"{plane}/imaging depth": f"{e.depth} microns", f"{plane}/location": e.area,
            f"{plane}/excitation_lambda": "910 nanometers", f"{plane}/indicator": "GCaMP6f"}.items():
        _text(f, key, text)
    for group in ("analysis", "epochs", "acquisition/timeseries"):
        f.create_group(group)


def _traces(f: h5py.File, rng: np.random.Generator, dff: np.ndarray) -> None:
    """Write dF/F, and as 16-bit counts the fluorescence it would come from: baseline (1 + dF/F) + r neuropil."""
    n_frames, n_cells = dff.shape
    fluorescence = f"{PIPELINE}/Fluorescence"
    haze = smooth_noise(rng, n_frames, np.array([60.0]))[:, 0]  # out of focus: slow, and shared by all cells
    baseline, share, bright = (rng.uniform(*span, n_cells) for span in ((400, 1200), (0.4, 0.9), (150, 300)))
    kept = f.create_dataset(f"{PIPELINE}/DfOverF/imaging_plane_1/data", (n_cells, n_frames), "f4")
    demixed = f.create_dataset(f"{fluorescence}/imaging_plane_1_demixed_signal/data", kept.shape, "u2")
    neuropil = f.create_dataset(f"{fluorescence}/imaging_plane_1_neuropil_response/data", kept.shape, "u2",
                                chunks=(1, n_frames), compression="gzip", compression_opts=1, shuffle=True)
    for cell in range(n_cells):
        around = np.rint(bright[cell] * (1.0 + 0.1 * haze))
        signal = np.rint(baseline[cell] * (1.0 + dff[:, cell]) + share[cell] * around)
        kept[cell], neuropil[cell], demixed[cell] = dff[:, cell], around, np.clip(signal, 0, 65535)
    f[f"{fluorescence}/imaging_plane_1_neuropil_response/r"] = share
    f[f"{fluorescence}/imaging_plane_1/data"] = demixed  # a hard link: no two cells overlap, so nothing was mixed
    for series in ("imaging_plane_1", "imaging_plane_1_demixed_signal", "imaging_plane_1_neuropil_response"):
        f[f"{fluorescence}/{series}/timestamps"] = f[TIMES]
        f[f"{fluorescence}/{series}/num_samples"] = np.int32(n_frames)


def _cells(f: h5py.File, rng: np.random.Generator, e: Experiment) -> None:
    """Write ids, masks (discs that do not touch) and the picture they make together."""
    segmentation = f"{PIPELINE}/ImageSegmentation"
    side = math.ceil(math.sqrt(e.n_cells))
    pitch = FIELD / side
    places = np.stack(np.divmod(rng.permutation(side**2)[:e.n_cells], side), axis=1)
    rows, columns = np.ogrid[:FIELD, :FIELD]
    names, picture = [f"roi_{k:04d}" for k in range(e.n_cells)], np.full((FIELD, FIELD), 20, np.uint8)
    for name, (row, column) in zip(names, (places + 0.5) * pitch):
        mask = (rows - row) ** 2 + (columns - column) ** 2 <= min(7.0, 0.45 * pitch) ** 2
        f.create_dataset(f"{segmentation}/imaging_plane_1/{name}/img_mask", data=mask.astype("u1"), compression="gzip")
        picture[mask] = rng.integers(80, 250)
    f[f"{segmentation}/cell_specimen_ids"] = np.array(e.cells, np.int64)
    _text(f, f"{segmentation}/roi_ids", names)
    _text(f, f"{segmentation}/imaging_plane_1/roi_list", names)
    f[f"{segmentation}/imaging_plane_1/reference_images/maximum_intensity_projection_image/data"] = picture


def _behavior(f: h5py.File, rng: np.random.Generator, behavior: np.ndarray) -> None:
    """Write running and pupil at the frames' times, and a gaze and a motion of the tissue that mean nothing."""
    running, pupil = behavior.T
    f[f"{PIPELINE}/BehavioralTimeSeries/running_speed/data"] = running[LATE:]
    f[f"{PIPELINE}/BehavioralTimeSeries/running_speed/timestamps"] = f[TIMES][LATE:]
    gaze = 4.0 * smooth_noise(rng, len(pupil), np.array([20.0, 20.0]))  # degrees: altitude, azimuth
    series = {"PupilTracking/pupil_size": pupil, "EyeTracking/pupil_location_spherical": gaze.astype("f4"),
              "EyeTracking/pupil_location": (SCREEN * np.tan(np.deg2rad(gaze[:, ::-1]))).astype("f4"),  # cm: x, y
              "MotionCorrection/2p_image_series/xy_translation":
                  np.rint(1.5 * smooth_noise(rng, len(pupil), np.array([10.0, 10.0]))).astype("i1")}  # px
    for key, values in series.items():
        f[f"{PIPELINE}/{key}/data"] = values
        f[f"{PIPELINE}/{key}/timestamps"] = f[TIMES]
    _text(f, f"{PIPELINE}/MotionCorrection/2p_image_series/xy_translation/feature_description",
          ["x_motion", "y_motion"])


def _stimulus(f: h5py.File, stimulus: Stimulus) -> None:
    """Write a table of presentations [start, stop), and the pictures of a film."""
    group = f"stimulus/presentation/{stimulus.name}_stimulus"
    frames, data = stimulus.frames, np.stack(list(stimulus.columns.values()), axis=1) if stimulus.columns else None
    if stimulus.name in MOVIES:
        data = data[:, 0].astype("i4")
        f.create_dataset(f"stimulus/templates/{stimulus.name}_image_stack/data", compression="gzip",
                         data=pictures(stimulus.name, int(data.max()) + 1))
    elif data is None:  # grey is a series of events: 1 where it begins, -1 where it ends
        data = np.tile(np.array([1, -1], "i1"), len(frames))
        frames = np.repeat(frames.reshape(-1, 1), 2, axis=1)
    else:
        _text(f, f"{group}/features", list(stimulus.columns))
    f[f"{group}/data"], f[f"{group}/frame_duration"] = data, frames.astype("i4")
    f[f"{group}/timestamps"] = f[TIMES][()][frames[:, 0]]


def pictures(name: str, n_frames: int) -> np.ndarray:
    """Return a film (n_frames, *PICTURE) uint8: patterns weighted by the features that simulated neurons see in it."""
    from scipy.ndimage import gaussian_filter

    features = movie(name, n_frames)
    patterns = np.random.default_rng(5).standard_normal((features.shape[1], *PICTURE))
    patterns = np.array([gaussian_filter(pattern, 3.0) for pattern in patterns])
    film = np.tensordot(features, patterns / patterns.std(), axes=1) / math.sqrt(len(patterns))
    return np.clip(127.0 + 40.0 * film, 0, 255).astype(np.uint8)
