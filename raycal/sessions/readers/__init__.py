"""Files become Sessions: one module a format, chosen by what a file holds, not by its name.

    sessions = read("worms/*.h5,mouse.npz,allen:501940850")

A module has FORMAT (its name), recognises(path) -> bool, cheap and silent on anything, and
read(path, traces="") -> Session, or a list of them where one file holds several recordings; traces names
what in the file are the traces where there is a choice. A new format is one new module and one line in READERS.
"""
from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Sequence

from raycal.errors import UserError
from raycal.sessions.readers.limits import ARRAY_DAMAGE
from raycal.sessions.readers.places import Place, expand, is_url
from raycal.sessions.session import Session

READERS: tuple[str, ...] = (
    "npz",
    "worm",
    "allen_nwb",
    "nwb",
    "suite2p",
    "caiman",
    "ceneurovae",
    "wormwideweb",
    "temporal",
    "matlab",
    "table",
)
HDF5, ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"  # first bytes of a file


def read(paths: str | os.PathLike | Session | Iterable[str | os.PathLike | Session], traces: str = "") -> list[Session]:
    """Read recordings in the order given; a pattern's files come sorted, ids are made unique.

    paths is a path, a string of paths, patterns, URLs and allen:ID items parted by commas, a text file with one of
    these a line, or a list of all that, in which a Session stands for itself. traces: the key, series or plane to take
    where a file has several. Raise UserError naming the path when one is missing, unreadable, of an unknown format, or
    given twice.
    """
    from raycal.sessions.readers.apart import Apart

    items = [paths] if isinstance(paths, (str, os.PathLike, Session)) else list(paths)
    check_kinds(items)
    found: list[Session] = []
    with Apart() as apart:
        for item in items or expand(items):
            found += [item] if isinstance(item, Session) else \
                [session for place in expand(item) for session in read_place(place, traces, apart.read)]
    return distinct(found)


def check_kinds(items: Iterable) -> None:
    """Raise UserError for an item that is neither a path nor a Session."""
    for item in items:
        if not isinstance(item, (str, os.PathLike, Session)):
            raise UserError(f"sessions: a {type(item).__name__} is no session; give paths, globs, allen:ID, or "
                            "Session objects, such as raycal.Session.build(id='mouse', traces=array, rate=30.0)")


def local_places(item: str | os.PathLike) -> list[Place]:
    """Return the places of one argument, paths absolute; raise UserError where one is missing or may not be read."""
    found = [p if isinstance(p, str) else p.expanduser().absolute() for p in expand(item)]
    for place in found:
        if isinstance(place, pathlib.Path):
            check_readable(place)
    return found


def fetched(place: Place, traces: str = "", say: Callable[[str], None] = print) -> list[Place]:
    """Return the places after what lies elsewhere was downloaded to this machine, with its progress shown."""
    if is_url(place):
        from raycal.sessions import remote

        remote.fetch(place, progress=remote.printed(remote.file_name(place)))
        return [place]
    if isinstance(place, str):
        from raycal.sessions import best

        return list(best.files(place[len("allen:"):], traces, say))
    return [place]


def read_place(place: Place, traces: str = "",
               reading: Callable[[pathlib.Path, str], list[Session]] | None = None) -> list[Session]:
    """Read the recordings of one place; reading reads a file and is read_file unless given.

    Raise UserError when it cannot be.
    """
    reading = reading or read_file
    if is_url(place):
        from raycal.sessions import remote

        found = reading(remote.fetch(place, progress=remote.printed(remote.file_name(place))), traces)
        return [dataclasses.replace(s, source=remote.shown(place)) for s in found]
    if isinstance(place, str):
        from raycal.sessions import best

        return [s for path in best.files(place[len("allen:"):], traces) for s in reading(path, traces)]
    return reading(place, traces)


def read_one(path: str | os.PathLike, traces: str = "") -> Session:
    """Read a file that holds one recording; raise UserError naming the path when it cannot be, or holds several."""
    found = read_file(pathlib.Path(path), traces)
    if len(found) != 1:
        raise UserError(f"{path}: holds {len(found)} recordings ({', '.join(s.id for s in found[:4])} ...), where one "
                        "is asked for; read it with raycal.read")
    return found[0]


def read_file(path: pathlib.Path, traces: str = "") -> list[Session]:
    """Read a file or folder in this process; raise UserError naming it and the known formats when no reader can."""
    path = path.expanduser()
    check_readable(path)
    for reader in map(_reader, READERS):
        if reader.recognises(path):
            return _read_by(reader, path, traces)
    known = ", ".join(_reader(name).FORMAT for name in READERS)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give its files, such as '{path / '*.h5'}' (suite2p's alone is read whole)")
    raise UserError(f"{path}: {_describe(path)}; the known formats are: {known}")


def _read_by(reader, path: pathlib.Path, traces: str) -> list[Session]:
    try:
        found = reader.read(path, traces)
    except UserError as e:  # what a Session refuses does not name the file
        raise (e if str(path) in str(e) else UserError(f"{path}: {e}")) from e.__cause__
    return found if isinstance(found, list) else [found]


def _reader(name: str):
    return importlib.import_module(f"{__name__}.{name}")


def check_readable(path: pathlib.Path) -> None:
    """Raise UserError when the path is missing, a pipe, a loop of links, or may not be read."""
    try:
        path.resolve(strict=True)
        if not path.is_file() and not path.is_dir():  # opening a pipe would wait for ever
            raise UserError(f"{path}: is not a regular file; copy the recording into one")
        if path.is_file():
            with open(path, "rb"):
                pass
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; paths are read from {pathlib.Path.cwd()}") from None
    except RuntimeError:
        raise UserError(f"{path}: is a loop of symbolic links; give the file itself") from None
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
        except ARRAY_DAMAGE as e:
            return f"is a damaged or cut-off npz archive ({e}); copy it again"
        return f"is a zip archive without 'traces' (it has {', '.join(names[:6])})"
    return f"is of an unknown format (it begins with {head!r})"


def _describe_hdf5(path: pathlib.Path) -> str:
    import h5py

    from raycal.sessions.readers import hdf5

    try:
        with h5py.File(path, "r") as f:
            return f"is an HDF5 file of another layout (its top level: {', '.join(map(str, list(f)[:8])) or 'nothing'})"
    except hdf5.DAMAGE as e:
        return f"is a damaged or cut-off HDF5 file ({str(e).splitlines()[0]}); copy it again"


def distinct(sessions: list[Session]) -> list[Session]:
    """Give recordings whose files share a name different ids; raise UserError on equal recordings or stated ids."""
    names = distinct_ids([(s.id, s.id_from_name, s.source, s.fingerprint) for s in sessions])
    return [s if name == s.id else dataclasses.replace(s, id=name) for s, name in zip(sessions, names)]


def distinct_ids(recordings: Sequence[tuple[str, bool, str, str]]) -> list[str]:
    """Return one id a recording (id, id_from_name, source, fingerprint).

    Equal recordings are refused: they would count twice and leak between parts. So are two that state one id and
    differ: one of them is not what it says. Where only the files' names are equal their folder goes in front.
    """
    seen: dict[str, str] = {}
    for id, _, source, fingerprint in recordings:
        if fingerprint in seen:
            raise UserError(f"session {id!r}: the same recording is given twice, as {seen[fingerprint]} and as "
                            f"{source or id}; leave one out")
        seen[fingerprint] = source or id
    ids: dict[str, str] = {}
    for id, from_name, source, _ in sorted(recordings, key=lambda r: r[1]):  # those that state their id come first
        if id in ids and not from_name:
            raise UserError(f"session {id!r}: {ids[id]} and {source or 'another recording'} both state this id and "
                            "hold different data; leave one out, or correct the id of the one that is wrong")
        ids.setdefault(id, source or id)
    taken = {id for id, from_name, _, _ in recordings if not from_name}
    alone = [id for id, from_name, _, _ in recordings if from_name]
    names = []
    for id, from_name, source, _ in recordings:
        if from_name and (id in taken or alone.count(id) > 1):
            folder = pathlib.Path(source).absolute().parent.name
            candidates = [f"{folder}-{id}", *(f"{folder}-{id}-{k}" for k in range(2, len(recordings) + 2))]
            id = next(name for name in candidates if name not in taken)
        taken.add(id)
        names.append(id)
    return names
