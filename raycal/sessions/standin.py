"""A stand-in for an AllenSDK cache: simulated sessions of visual.py in the files that AllenSDK downloads.

    ceilings = write("cache", sizes=[(150, 115_459), (240, 115_459)], seed=0)

Then BrainObservatoryCache(manifest_file="cache/manifest.json") finds them, and so does raycal with
--sessions 'cache/ophys_experiment_data/*.nwb'. Everything in them is invented, and they say so.
"""
from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import h5py

from raycal.errors import UserError
from raycal.sessions.readers import hdf5
from raycal.sessions.simulate import Simulation
from raycal.sessions.standin_nwb import BORN, MARK, Experiment, write_nwb
from raycal.sessions.visual import check_visual, simulate_visual

SIZES = ((150, 115_459), (240, 115_459))  # cells, frames: an ordinary session, and a large one
MOST_CELLS, MOST_SESSIONS, MOST_SEEDS = 10_000, 1000, 10_000  # that there are ids for
FILES = {"EXPERIMENT_CONTAINERS": "experiment_containers.json", "EXPERIMENTS": "ophys_experiments.json",
         "CELL_SPECIMENS": "cell_specimens.json", "STIMULUS_MAPPINGS": "stimulus_mappings.json"}
DATA = {"EXPERIMENT_DATA": "ophys_experiment_data/%d.nwb",
        "ANALYSIS_DATA": "ophys_experiment_analysis/%d_%s_analysis.h5",
        "EVENTS_DATA": "ophys_experiment_events/%d_events.npz",
        "EYE_GAZE_DATA": "ophys_eye_gaze_mapping/%d_eyetracking_dlc_to_screen_mapping.h5"}
AREAS = {"VISp": (385, "Primary visual area"), "VISl": (409, "Lateral visual area"),
         "VISal": (402, "Anterolateral visual area"), "VISpm": (533, "posteromedial visual area"),
         "VISam": (394, "Anteromedial visual area"), "VISrl": (417, "Rostrolateral visual area")}


def write(folder: str | os.PathLike, sizes: Sequence[tuple[int, int]] = SIZES, seed: int = 0) -> dict[str, dict]:
    """Write a cache with one experiment a size (cells, frames); return what goes into its ceilings.json.

    That is, for each experiment id: the ceilings of "running" and "pupil" (as in Simulation), and the "seed",
    "cells" and "frames" with which simulate_visual makes the same recording. Each file is there whole or not
    at all. Raise UserError when a number is out of range, when the folder cannot be written to, and before anything
    is written when a file is in the way that does not come from here.
    """
    experiments = _experiments(sizes, seed)
    folder = pathlib.Path(folder).expanduser()
    lists = {name: folder / name for name in (*FILES.values(), "ceilings.json", "manifest.json")}
    sessions = [folder / (DATA["EXPERIMENT_DATA"] % e.id) for e in experiments]
    for path in (*lists.values(), *sessions):
        _check_free(path)
    ceilings = {}
    for e, path in zip(experiments, sessions):
        with _replacing(path) as temporary:
            simulation = simulate_visual(e.n_cells, e.n_frames, seed=e.number)
            write_nwb(temporary, e, simulation)
        ceilings[str(e.id)] = _ceiling(e, simulation)
    for name, content in {**_records(experiments), "ceilings.json": ceilings, "manifest.json": _manifest()}.items():
        with _replacing(lists[name]) as temporary:
            temporary.write_text(json.dumps(content, indent=1))
    return ceilings


def _experiments(sizes: Sequence[tuple[int, int]], seed: int) -> list[Experiment]:
    if not 0 <= seed < MOST_SEEDS:
        raise UserError(f"seed={seed}: must be from 0 to {MOST_SEEDS - 1}")
    if not 1 <= len(sizes) <= MOST_SESSIONS:
        raise UserError(f"sizes={list(sizes)}: give 1 to {MOST_SESSIONS} pairs of (cells, frames)")
    for n_cells, n_frames in sizes:
        check_visual(n_cells, n_frames)
        if n_cells > MOST_CELLS:
            raise UserError(f"sizes: {n_cells} cells: must be at most {MOST_CELLS}")
    return [Experiment(MOST_SESSIONS * seed + k, n_cells, n_frames) for k, (n_cells, n_frames) in enumerate(sizes)]


def _ceiling(e: Experiment, simulation: Simulation) -> dict:
    return {**simulation.ceiling, "seed": e.number, "cells": e.n_cells, "frames": e.n_frames, "note": MARK}


def _check_free(path: pathlib.Path) -> None:
    """Refuse to write over what somebody else has put there: a real recording is hard to come by."""
    try:
        if not path.exists():
            return
        if path.suffix == ".nwb":
            with h5py.File(path, "r") as f:
                own = hdf5.text(f, "session_description") == MARK
        else:
            own = MARK in path.read_text(errors="replace")
    except (OSError, RuntimeError, KeyError):
        own = False
    if not own:
        raise UserError(f"{path}: is there already and does not say {MARK!r}; give a folder of its own")


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a temporary path, which takes the place of `path` when all went well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as e:  # HDF5 says a full disk in both ways
        reason = getattr(e, "strerror", None) or str(e).splitlines()[0]
        raise UserError(f"{path}: cannot be written ({reason}); give a folder with space that you may write to") from e
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _manifest() -> dict:
    """Return where AllenSDK finds what, as its version 1.3 has it."""
    files = [{"key": key, "type": "file", "spec": spec, "parent_key": "BASEDIR"}
             for key, spec in {**FILES, **DATA}.items()]
    return {"manifest": [{"type": "manifest_version", "value": "1.3"}, {"key": "BASEDIR", "type": "dir", "spec": "."},
                         *files], "note": MARK}


def _records(experiments: Sequence[Experiment]) -> dict[str, list[dict]]:
    """Return the lists of containers, experiments and cells as Allen's server answers AllenSDK's queries."""
    containers = [{**_place(e), "id": e.container, "failed": False, "isi_experiment_id": e.container + 20_000_000,
                   "specimen": _specimen(e), "ophys_experiments": [_experiment(e)]} for e in experiments]
    whole = [{**_experiment(e), "specimen": _specimen(e), "targeted_structure": _place(e)["targeted_structure"],
              "experiment_container": {"id": e.container, "failed": False}} for e in experiments]
    cells = [{**_cell(e), "cell_specimen_id": cell} for e in experiments for cell in e.cells]
    mappings = [{"id": 1, "item": "note", "item_type": "N", "level": "R", "note": MARK}]  # no "T": no thumbnails
    return dict(zip(FILES.values(), (containers, whole, cells, mappings)))


def _place(e: Experiment) -> dict:
    number, name = AREAS[e.area]
    return {"imaging_depth": e.depth, "targeted_structure_id": number, "specimen_id": e.container + 10_000_000,
            "targeted_structure": {"id": number, "acronym": e.area, "name": name}, "note": MARK}


def _experiment(e: Experiment) -> dict:
    place = _place(e)
    del place["targeted_structure"]
    return {**place, "id": e.id, "name": f"simulated-{e.number}", "stimulus_name": "three_session_A",
            "date_of_acquisition": f"{e.day}T09:00:00Z", "experiment_container_id": e.container,
            "fail_eye_tracking": False, "storage_directory": ""}


def _specimen(e: Experiment) -> dict:
    lines = [{"name": line, "transgenic_line_type_name": "reporter" if line == e.lines[-1] else "driver"}
             for line in e.lines]
    donor = {"external_donor_name": f"simulated-{e.number}", "full_genotype": e.genotype, "sex": "M",
             "date_of_birth": f"{BORN}T00:00:00Z", "age": {"days": float(e.age), "name": f"P{e.age}"},
             "transgenic_lines": lines, "conditions": []}
    return {"id": e.container + 10_000_000, "name": f"simulated-{e.number}", "donor": donor}


def _cell(e: Experiment) -> dict:
    drivers = [*e.lines[:-1], None][:2]
    return {"all_stim": False, "area": e.area, "imaging_depth": e.depth, "experiment_container_id": e.container,
            "failed_experiment_container": False, "specimen_id": e.container + 10_000_000,
            "donor_full_genotype": e.genotype, "tld1_name": drivers[0], "tld2_name": drivers[1],
            "tlr1_name": e.lines[-1], "note": MARK}
