"""Break a file in many ways and read it: a Session or a UserError comes back, whatever the bytes.

    python tests/sessions/readers/fuzz.py READER SEED_FILE CASES

Run as a process of its own, so that a library that crashes is seen as its exit status. SEED_FILE is a valid file
(or folder) of the reader's format; the case that went wrong stays beside it as broken.*
"""
from __future__ import annotations

import faulthandler
import importlib
import pathlib
import shutil
import sys
import warnings

import h5py
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from raycal.errors import UserError
from raycal.sessions.session import Session

LIMIT = 20.0  # s that one case may take
SLICES = st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8))
VALUES = (np.zeros(0), np.float64(np.nan), np.full((3, 2), np.inf), np.zeros((0, 5)), np.arange(7), np.array([b"x", b"yy"]),
          np.zeros((2, 2, 2)), np.full(4, 2**62), np.array([1 + 2j] * 3), np.array([True, False]), -np.ones((40, 40)))


@st.composite
def byte_changes(draw):
    """Return what to do with a file's bytes: overwrite, insert, cut out, cut off."""
    kind = draw(st.sampled_from(("overwrite", "overwrite", "overwrite", "insert", "remove", "cut")))
    return kind, draw(st.lists(SLICES, min_size=1, max_size=6))


@st.composite
def tree_changes(draw):
    """Return what to do with an HDF5 file's tree: which members to replace, and by what."""
    change = st.tuples(st.floats(0, 1, exclude_max=True),
                       st.sampled_from(("delete", "group", "value", "turn", "shorten", "huge", "dangle")),
                       st.integers(0, len(VALUES) - 1))
    return "tree", draw(st.lists(change, min_size=1, max_size=3))


def broken(seed: bytes, change) -> bytes:
    """Return the bytes of a file after a change of `byte_changes`."""
    kind, slices = change
    data = bytearray(seed)
    for where, new in slices:
        at = int(where * len(data))
        if kind == "overwrite":
            data[at:at + len(new)] = new[:len(data) - at]
        elif kind == "insert":
            data[at:at] = new
        elif kind == "remove":
            del data[at:at + len(new)]
        else:
            del data[at:]
    return bytes(data)


def broken_tree(path: pathlib.Path, changes) -> None:
    """Change members of an HDF5 file in place."""
    with h5py.File(path, "r+") as f:
        for where, kind, value in changes:
            names: list[str] = []
            f.visit(names.append)
            if not names:
                return
            name = names[int(where * len(names))]
            member = f[name] if not isinstance(f.get(name, getlink=True), h5py.SoftLink) else None
            array = member[()] if isinstance(member, h5py.Dataset) and member.size < 1e7 else None
            attributes = dict(member.attrs) if member is not None else {}
            del f[name]
            if kind == "group":
                f.create_group(name)
            elif kind == "dangle":
                f[name] = h5py.SoftLink("/nowhere")
            elif kind == "huge":
                f.create_dataset(name, shape=(10**7, 10**5), dtype="f4", chunks=(100, 100))
            elif kind != "delete":
                turned = {"turn": lambda a: np.transpose(a), "shorten": lambda a: a[:-1] if np.ndim(a) else a}
                new = VALUES[value] if kind == "value" or array is None else turned[kind](array)
                f.create_dataset(name, data=new).attrs.update(attributes)


def main(name: str, seed_file: str, cases: int) -> None:
    reader, seed = importlib.import_module(f"raycal.sessions.readers.{name}"), pathlib.Path(seed_file)
    files = sorted(p for p in seed.rglob("*") if p.is_file()) if seed.is_dir() else [seed]
    contents = [p.read_bytes() for p in files]
    is_hdf5 = len(files) == 1 and h5py.is_hdf5(seed)
    target = seed.with_name("broken" + seed.suffix)
    outcomes = {"session": 0, "refused": 0, "not recognised": 0}

    def prepared(change) -> None:
        if seed.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(seed, target)
        if change[0] == "tree":
            target.write_bytes(contents[0])
            broken_tree(target, change[1])
        else:
            which = len(change[1][0][1]) % len(files)
            (target / files[which].relative_to(seed) if seed.is_dir() else target).write_bytes(
                broken(contents[which], change))

    changes = st.one_of(byte_changes(), tree_changes()) if is_hdf5 else byte_changes()

    @settings(max_examples=cases, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(changes)
    def case(change) -> None:
        prepared(change)
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        try:
            if not reader.recognises(target):
                outcomes["not recognised"] += 1
                return
            found = reader.read(target, "")
            assert all(isinstance(s, Session) for s in (found if isinstance(found, list) else [found]))
            outcomes["session"] += 1
        except UserError as e:
            assert str(e).strip() and len(str(e).splitlines()) <= 8
            outcomes["refused"] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()

    case()
    print(name, outcomes)


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
