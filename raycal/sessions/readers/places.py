"""Where recordings lie: what a user writes after --sessions, turned into places one by one.

A place is a local path, a URL (s3://, https:// and what else fsspec knows) or an Allen item
(`allen:501940850`, `allen:best3`).
"""
from __future__ import annotations

import glob
import os
import pathlib
from collections.abc import Iterable

from raycal.errors import UserError

Place = pathlib.Path | str
LIST_BYTES = 2**20  # a longer text file is no list of paths


def expand(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Place]:
    """Return the places that paths stand for, in order; a pattern's files come sorted, each once.

    paths is a path, a string of paths, patterns, URLs and allen: items parted by commas, a text file with one of
    these a line, or a list of all that. Raise UserError when nothing is named or a pattern matches nothing.
    """
    items = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found = [place for item in items for place in _expand(item, pathlib.Path())]
    if not found:
        raise UserError(f"no session in {paths!r}; give files such as 'worms/*.h5', or leave it out to simulate")
    return found


def anchored(item: str | os.PathLike) -> str:
    """Return the argument with its relative paths and patterns made absolute: it then means the same everywhere."""
    def fixed(part: str) -> str:
        far = part.startswith("allen:") or "://" in part or part.isdigit()
        return part if far else str(pathlib.Path(part).expanduser().absolute())

    text = os.fspath(item)
    return fixed(text) if _exists(pathlib.Path(text).expanduser()) else \
        ",".join(fixed(part) for part in filter(None, map(str.strip, text.split(","))))


def is_url(place: Place) -> bool:
    return isinstance(place, str) and "://" in place


def _expand(item: str | os.PathLike, folder: pathlib.Path) -> list[Place]:
    """Return the places of one argument; relative paths are read from folder."""
    if not isinstance(item, str):
        return _listed(pathlib.Path(item))
    if item.strip() and not item.startswith("allen:") and _exists(folder / pathlib.Path(item).expanduser()):
        return _listed(folder / pathlib.Path(item).expanduser())  # a name may hold commas and brackets
    places: list[Place] = []
    for part in filter(None, map(str.strip, item.split(","))):
        follows_allen = bool(places) and str(places[-1]).startswith("allen:") and part.isdigit()  # allen:1,2,3
        if part.startswith("allen:") or (follows_allen and not _exists(folder / part)):
            places.append(part if part.startswith("allen:") else f"allen:{part}")
        elif "://" in part:
            places.append(part)
        else:
            places += _match(part, folder)
    return places


def _match(pattern: str, folder: pathlib.Path) -> list[Place]:
    path = folder / pathlib.Path(pattern).expanduser()
    if _exists(path) or not glob.has_magic(pattern):
        return _listed(path)
    matches: dict[str, pathlib.Path] = {}  # a folder linked into itself would give its files again and again
    for match in sorted(glob.glob(str(path), recursive=True), key=lambda m: (m.count(os.sep), m)):
        matches.setdefault(os.path.realpath(match), pathlib.Path(match))
    if not matches:
        raise UserError(f"{pattern}: no file matches; patterns are read from {pathlib.Path(folder).absolute()}")
    return [place for match in sorted(matches.values()) for place in _listed(match)]


def _listed(path: pathlib.Path) -> list[Place]:
    """Return the places that a text file lists, one a line; any other path stands for itself."""
    lines = _lines(path)
    if not lines:
        return [path]
    return [place for line in lines for place in _expand(line, path.parent)]


def _lines(path: pathlib.Path) -> list[str]:
    """Return the lines of a list of places, [] for any other file: its first line names something that is there."""
    try:
        if not path.is_file() or path.stat().st_size > LIST_BYTES:
            return []
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines or len(lines[0]) > 4096 or "\0" in lines[0]:
        return []
    first = lines[0]
    target = path.parent / pathlib.Path(first).expanduser()
    named = first.startswith("allen:") or "://" in first or _exists(target) or \
        (glob.has_magic(first) and bool(glob.glob(str(target), recursive=True)))
    return lines if named and target != path else []


def _exists(path: pathlib.Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or a null character in it
        return False
