"""Break a file in many ways and read it: a Session or a UserError comes back, whatever the bytes.

    python tests/sessions/readers/fuzz.py SEED_FILE CASES

SEED_FILE is a valid file (or folder) of some format; the case that went wrong stays beside it as broken.*. Files
are read as raycal.read does it: those that a compiled library takes apart in a child process, whose crashes and
hangs become a UserError and are counted here. Run as a process of its own, so that a crash of this one is seen.
"""
from __future__ import annotations

import faulthandler
import pathlib
import shutil
import sys
import time
import warnings

import h5py
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from raycal.errors import UserError
from raycal.sessions.readers.apart import Apart
from raycal.sessions.session import Session

HANG = 3.0  # s until a child that reads counts as hanging; a file takes milliseconds
LIMIT = 30.0  # s that one case may take in all
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


def main(seed_file: str, cases: int) -> None:
    seed = pathlib.Path(seed_file)
    files = sorted(p for p in seed.rglob("*") if p.is_file()) if seed.is_dir() else [seed]
    contents = [p.read_bytes() for p in files]
    is_hdf5 = len(files) == 1 and h5py.is_hdf5(seed)
    target = seed.with_name("broken" + seed.suffix)
    outcomes = {"sessions": 0, "refused": 0, "crashed": 0, "hung": 0}

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
            found = apart.read(target, limit=HANG)
            assert found and all(isinstance(session, Session) for session in found)
            outcomes["sessions"] += 1
        except UserError as e:
            message = str(e)
            assert "broken" in message and len(message.splitlines()) <= 8, message
            outcomes["crashed" if "crashed (" in message else "hung" if "it hangs" in message else "refused"] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()

    began = time.monotonic()
    with Apart() as apart:
        assert apart.read(seed), "the seed itself is valid"
        case()
    print(f"{seed.name}: {outcomes} in {time.monotonic() - began:.0f} s")
    # nothing is learnt from bytes that no reader gets to see, nor where none is ever good
    assert outcomes["sessions"] > cases / 1000, outcomes


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore")
    main(sys.argv[1], int(sys.argv[2]))
