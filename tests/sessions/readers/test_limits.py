from __future__ import annotations

import os
import zipfile

import h5py
import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions.readers import allen_nwb, limits, npz, read_one
from raycal.sessions.simulate import simulate

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_what_the_bytes_can_hold_passes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(1000))
    limits.check_declared(path, "x", 16 * 2**20)
    limits.check_declared(path, "x", 10**8, stored=10**6)


def test_more_than_the_bytes_can_hold_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(1000))
    with pytest.raises(UserError, match="a: x declares 1 GiB, far more than its 1000 bytes on disk"):
        limits.check_declared(path, "x", 2**30)


def test_more_than_the_machine_holds_is_refused(tmp_path):
    with pytest.raises(UserError, match="this machine has .* of memory"):
        limits.check_declared(tmp_path, "x", MEMORY, stored=MEMORY)


def test_an_hdf5_file_that_declares_terabytes_is_refused(write_allen, tmp_path):
    path = write_allen(tmp_path / "a.nwb", {f"{allen_nwb.TRACES}/data": None})
    with h5py.File(path, "r+") as f:
        f.create_dataset(f"{allen_nwb.TRACES}/data", shape=(10**5, 10**7), dtype="f4", chunks=(10, 100))
    with pytest.raises(UserError, match="DfOverF/imaging_plane_1/data' declares 3.638 TiB, far more than"):
        read_one(path)


def _archive(path, shape, body):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (size, data) in {"traces": (shape, body), "fs": ((), np.float64(10).tobytes())}.items():
            with archive.open(f"{name}.npy", "w") as member:
                kind = "<f4" if name == "traces" else "<f8"
                np.lib.format.write_array_header_1_0(member, {"descr": kind, "fortran_order": False, "shape": size})
                member.write(data)


def test_an_archive_whose_header_declares_more_than_its_member_holds_is_refused(tmp_path):
    _archive(tmp_path / "bomb.npz", (10**7, 10**5), bytes(4000))
    with pytest.raises(UserError, match="bomb.npz: 'traces' declares 3.638 TiB, far more than"):
        read_one(tmp_path / "bomb.npz")


def test_an_archive_of_real_numbers_is_no_bomb(tmp_path):
    session = simulate(n_neurons=4, n_frames=100).session
    npz.write(session, tmp_path / "good.npz")
    assert read_one(tmp_path / "good.npz").fingerprint == session.fingerprint
