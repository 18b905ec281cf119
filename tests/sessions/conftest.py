"""A small two-photon session in the layout of Allen's NWB 1 files, and servers on loopback: of files, and Allen's."""
from __future__ import annotations

import http.server
import json
import re
import threading
import time
import urllib.parse

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


@pytest.fixture(scope="session")
def write_allen():
    """Return a function that writes such a file; a value None leaves its path out."""
    def write(path, changes=None):
        with h5py.File(path, "w") as f:
            for key, value in {**_contents(), **(changes or {})}.items():
                if value is not None:  # text is fixed-length bytes there, as AllenSDK expects
                    f.create_dataset(key, data=np.bytes_(value) if isinstance(value, str) else value)
        return path
    return write


@pytest.fixture
def allen_extras():
    """Return what else a whole file holds: other traces, the pupil on the frames' clock, every kind of stimulus."""
    rng = np.random.default_rng(4)
    contents, gray = _contents(), 500 + rng.random((N, T)).astype(np.float32)
    times, fluorescence = contents[f"{PIPELINE}/DfOverF/imaging_plane_1/timestamps"], f"{PIPELINE}/Fluorescence"
    pupil = {"PupilTracking/pupil_size": rng.random(T), "EyeTracking/pupil_location": rng.random((T, 2)),
             "EyeTracking/pupil_location_spherical": rng.random((T, 2))}
    pupil["EyeTracking/pupil_location"][40:60] = np.nan  # a blink
    spans = np.stack([np.arange(10, 100, 3), np.arange(12, 102, 3)], axis=1).astype(np.int32)  # (30, 2)
    grating = rng.choice([0.0, 45.0, 90.0], (30, 3))
    grating[4] = np.nan, np.nan, 1.0  # a blank sweep
    stimuli = {
        "drifting_gratings_stimulus": (grating, spans, [b"temporal_frequency", b"orientation", b"blank_sweep"]),
        "static_gratings_stimulus": (grating, spans + 100, [b"orientation", b"spatial_frequency", b"phase"]),
        "natural_movie_one_stimulus": (np.tile(np.arange(10), 3), spans, None),
        "natural_scenes_stimulus": (np.arange(30)[::-1] - 1, spans[::-1], None),  # -1: blank; rows out of order
        "locally_sparse_noise_4deg": (np.arange(30), spans - [[0, 2]], None),  # each between two frames
        "spontaneous_stimulus": (np.array([1, 1, -1, -1], np.int8),
                                 np.array([[250, 0], [200, 0], [280, 0], [220, 0]], np.int32), None)}
    return {
        f"{fluorescence}/imaging_plane_1/data": gray, f"{fluorescence}/imaging_plane_1_demixed_signal/data": gray * 0.9,
        f"{fluorescence}/imaging_plane_1_neuropil_response/data": gray * 0.3,
        f"{fluorescence}/imaging_plane_1_neuropil_response/r": rng.random(N),
        **{f"{PIPELINE}/{key}/data": values for key, values in pupil.items()},
        **{f"{PIPELINE}/{key}/timestamps": times for key in pupil},
        **{f"stimulus/presentation/{name}/{part}": value for name, parts in stimuli.items()
           for part, value in zip(("data", "frame_duration", "features"), parts) if value is not None}}


class Loopback:
    """A file server whose manners a test chooses; `sent` counts the bytes of bodies, `asked` what was asked for."""

    def __init__(self):
        self.files, self.ranges, self.length, self.status, self.tag = {}, True, True, 200, '"1"'
        self.breaks, self.sent, self.asked = [], 0, []  # breaks: bytes after which the next answers end
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                server._answer(self)

            def do_GET(self):
                server._answer(self)

            def log_message(self, *args):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def content(self, url):
        """Return the body at a path with its query, None where there is none."""
        return self.files.get(url.partition("?")[0])

    def _answer(self, request):
        wanted = re.match(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        url = urllib.parse.unquote_plus(request.path)
        self.asked.append((request.command, url, wanted and wanted[0]))
        body = self.content(url)
        if self.status != 200 or body is None:
            return request.send_error(self.status if self.status != 200 else 404)
        ranged = wanted and self.ranges
        start, stop = (int(wanted[1]), min(int(wanted[2]) + 1, len(body))) if ranged else (0, len(body))
        request.send_response(206 if ranged else 200)
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}" if ranged else None,
                   "Content-Length": str(stop - start) if self.length else None, "ETag": self.tag}
        for name, value in headers.items():
            if value:
                request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            broken = bool(self.breaks) and url.partition("?")[0] in self.files
            share = body[start:stop][:self.breaks.pop(0) if broken else None]
            self.sent += len(share)
            request.wfile.write(share)
            time.sleep(0.3 * broken)  # the client drops what it has not taken yet when the connection ends

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class AllenServer(Loopback):
    """Allen's server as AllenSDK asks it: lists by model, paged, and the link and body of NWB files."""

    def __init__(self):
        super().__init__()
        self.experiments, self.cells, self.eye_sessions = [], [], []

    def add(self, id, container, session_type, nwb=None, *, area="VISp", cre="Cux2-CreERT2", depth=175, failed=False):
        """Add an experiment, with the bytes of its NWB file where it has one."""
        donor = {"external_donor_name": f"{container}", "date_of_birth": "2015-11-04T00:00:00Z", "transgenic_lines": [
            {"name": cre, "transgenic_line_type_name": "driver"},
            {"name": "Ai93", "transgenic_line_type_name": "reporter"}]}
        self.experiments.append({
            "id": id, "stimulus_name": session_type, "imaging_depth": depth, "experiment_container_id": container,
            "date_of_acquisition": "2016-02-16T18:26:47Z", "targeted_structure": {"acronym": area},
            "specimen": {"name": f"{cre}-{container}", "donor": donor},
            "experiment_container": {"id": container, "failed": failed}})
        if nwb is not None:
            self.files[f"/api/v2/well_known_file_download/{id}"] = nwb

    def add_cells(self, container, **counts):
        """Add as many cells of a container as the largest count of a session, `a`, `b` or `c`; none: one cell."""
        for k in range(max(counts.values(), default=1)):
            self.cells.append({"cell_specimen_id": 517400000 + len(self.cells), "experiment_container_id": container,
                               **{f"reliability_nm1_{s}": 0.5 if k < counts.get(s, 0) else None for s in "abc"}})

    def content(self, url):
        if "/query.json" not in url:
            return super().content(url)
        rows = self._rows(url)
        return json.dumps({"success": True, "num_rows": len(rows), "total_rows": len(rows), "msg": rows}).encode()

    def _rows(self, url):
        if "model::OphysExperiment" in url:
            return self.experiments
        if "model::ApiCamCellMetric" in url:
            start, rows = (int(re.search(rf"\[{key}\$eq(\d+)\]", url)[1]) for key in ("start_row", "num_rows"))
            return self.cells[start:start + rows]
        if "EyeDlcScreenMapping" in url:
            return [{"attachable_id": id, "attachable_type": "OphysSession"} for id in self.eye_sessions]
        id = re.search(r"attachable_id\$eq(\d+)", url)[1]
        link = f"/api/v2/well_known_file_download/{id}"
        return [{"download_link": link}] if link in self.files else []


@pytest.fixture
def loopback():
    server = Loopback()
    yield server
    server.close()


@pytest.fixture
def allen_server(monkeypatch, tmp_path):
    """Allen's server, empty, in the place of the real one; with a cache that is empty, too."""
    server = AllenServer()
    monkeypatch.setenv("RAYCAL_ALLEN_API", server.address)
    monkeypatch.setenv("RAYCAL_ALLEN_CACHE", str(tmp_path / "cache"))
    yield server
    server.close()
