"""Files become Sessions: one module a format, chosen by what a file holds, not by its name.

    sessions = read("worms/*.h5,mouse.npz,allen:501940850")

A module has FORMAT (its name), recognises(path) -> bool, cheap and silent on anything, and
read(path) -> Session. A new format is one new module and one line in READERS.
"""
from __future__ import annotations

import dataclasses
import glob
import importlib
import os
import pathlib
import zipfile
from collections.abc import Iterable

from raycal.errors import UserError
from raycal.sessions.session import Session

READERS: tuple[str, ...] = (
    "npz",
    "worm",
    "allen_nwb",
)
HDF5, ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"  # first bytes of a file


def read(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Session]:
    """Read recordings in the order given; a pattern's files come sorted, ids are made unique.

    paths is a path, a string of paths, patterns and allen:ID items parted by commas, or a list of these.
    Raise UserError naming the path when one is missing, unreadable, of an unknown format, or given twice.
    """
    items = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found = [place for item in items for place in _expand(item)]
    if not found:
        raise UserError(f"no session in {paths!r}; give files such as 'worms/*.h5', or leave it out to simulate")
    return distinct([_fetch(place) if isinstance(place, str) else read_one(place) for place in found])


def read_one(path: str | os.PathLike) -> Session:
    """Read one file; raise UserError naming the path and the known formats when no reader can."""
    path = pathlib.Path(path).expanduser()
    _check_readable(path)
    for reader in map(_reader, READERS):
        if reader.recognises(path):
            return reader.read(path)
    known = ", ".join(_reader(name).FORMAT for name in READERS)
    raise UserError(f"{path}: {_describe(path)}; the known formats are: {known}")


def _reader(name: str):
    return importlib.import_module(f"{__name__}.{name}")


def _fetch(place: str) -> Session:
    from raycal.sessions import allen

    return allen.fetch(place[len("allen:"):])


def _expand(item: str | os.PathLike) -> list[pathlib.Path | str]:
    """Return files (Path) and allen:ID items (str) that one argument stands for."""
    if not isinstance(item, str):
        return [pathlib.Path(item)]
    if item.strip() and os.path.exists(os.path.expanduser(item)):  # a name may hold commas and brackets
        return [pathlib.Path(item)]
    places: list[pathlib.Path | str] = []
    for part in filter(None, map(str.strip, item.split(","))):
        follows_allen = bool(places) and isinstance(places[-1], str) and part.isdigit()  # allen:1,2,3
        if part.startswith("allen:") or (follows_allen and not os.path.exists(part)):
            places.append(part if part.startswith("allen:") else f"allen:{part}")
        else:
            places += _match(part)
    return places


def _match(pattern: str) -> list[pathlib.Path]:
    path = pathlib.Path(pattern).expanduser()
    if path.exists() or not glob.has_magic(pattern):
        return [path]
    matches = [pathlib.Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    if not matches:
        raise UserError(f"{pattern}: no file matches; patterns are read from {pathlib.Path.cwd()}")
    return matches


def _check_readable(path: pathlib.Path) -> None:
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give its files, such as '{path / '*.h5'}'")
        if not path.exists():
            raise UserError(f"{path}: no such file; paths are read from {pathlib.Path.cwd()}")
        if not path.is_file():  # opening a pipe would wait for ever
            raise UserError(f"{path}: is not a regular file; copy the recording into one")
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as e:  # ValueError: a null character in the name
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"{path}: cannot be read ({reason}); check its permissions") from None


def _describe(path: pathlib.Path) -> str:
    """Say, for a file that no reader recognises, what it is as far as its bytes tell."""
    with open(path, "rb") as f:
        head = f.read(8)
    if not head:
        return "is empty"
    if head == HDF5:
        return _describe_hdf5(path)
    if head.startswith(ZIP):
        try:
            names = zipfile.ZipFile(path).namelist()
        except (zipfile.BadZipFile, OSError) as e:
            return f"is a damaged or cut-off npz archive ({e}); copy it again"
        return f"is a zip archive without 'traces' (it has {', '.join(names[:6])})"
    return f"is of an unknown format (it begins with {head!r})"


def _describe_hdf5(path: pathlib.Path) -> str:
    import h5py

    try:
        with h5py.File(path, "r") as f:
            return f"is an HDF5 file of another layout (its top level: {', '.join(list(f)[:8]) or 'nothing'})"
    except (OSError, RuntimeError) as e:
        return f"is a damaged or cut-off HDF5 file ({str(e).splitlines()[0]}); copy it again"


def distinct(sessions: list[Session]) -> list[Session]:
    """Give equal ids a suffix; refuse equal recordings, which would count twice and leak between parts."""
    ids: set[str] = set()
    first: dict[str, Session] = {}
    kept = []
    for session in sessions:
        twin = first.get(session.fingerprint)
        if twin is not None:
            raise UserError(f"session {session.id!r}: the same recording is given twice, as {twin.source or twin.id} "
                            f"and as {session.source or session.id}; leave one out")
        first[session.fingerprint] = session
        names = (f"{session.id}-{k}" if k > 1 else session.id for k in range(1, len(sessions) + 2))
        name = next(name for name in names if name not in ids)
        ids.add(name)
        kept.append(session if name == session.id else dataclasses.replace(session, id=name))
    return kept
