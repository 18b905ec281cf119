"""Recordings in one table, a line each: what `raycal sessions check` prints."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raycal.errors import UserError
from raycal.sessions.readers import distinct_ids, expand, read_place
from raycal.sessions.readers.apart import Apart
from raycal.sessions.session import Session

COLUMNS = ("session", "frames", "neurons", "Hz", "behaviour", "NaN", "constant", "segments", "split", "fingerprint")
NUMBERS = ("frames", "neurons", "Hz", "NaN", "constant", "segments")
WIDEST = 40  # characters of a cell


@dataclass(frozen=True)
class Row:
    """What of a recording stays in memory once it was read."""

    id: str
    id_from_name: bool
    source: str
    fingerprint: str
    cells: tuple[str, ...]


def row(session: Session) -> Row:
    """Return a recording's line; NaN and constant count neurons."""
    rate = "unknown" if session.rate != session.rate else f"{session.rate:.4g}"
    cells = (f"{session.n_frames}", f"{session.n_neurons}", rate, ",".join(session.behavior_names) or "none",
             f"{len(session.nan_neurons())}", f"{len(session.constant_neurons())}", f"{len(session.segments)}",
             ",".join(session.masks) or "none", session.fingerprint)
    return Row(session.id, session.id_from_name, session.source, session.fingerprint, cells)


def examine(paths: Sequence[str], traces: str = "", counted=lambda items, total: items) -> tuple[list[Row], list[str]]:
    """Read every recording of paths, one after the other; return their lines and what is wrong with the others."""
    places, problems, rows = [], [], []
    for path in paths:
        problems += _tried(lambda path=path: places.extend(expand(path)))
    with Apart() as apart:
        for place in counted(places, len(places)):
            problems += _tried(lambda place=place: rows.extend(map(row, read_place(place, traces, apart.read))))
    names: list[str] = []
    problems += _tried(lambda: names.extend(
        distinct_ids([(r.id, r.id_from_name, r.source, r.fingerprint) for r in rows])))
    return [dataclasses.replace(r, id=name) for r, name in zip(rows, names or [r.id for r in rows])], problems


def _tried(step) -> list[str]:
    try:
        step()
        return []
    except UserError as e:
        return [str(e)]


def table(rows: Iterable[Row]) -> str:
    """Return the lines under their heading, numbers to the right."""
    lines = [COLUMNS, *((r.id, *r.cells) for r in rows)]
    lines = [[c if len(c) <= WIDEST else f"{c[:WIDEST - 3]}..." for c in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(f"{c:>{w}}" if name in NUMBERS else f"{c:<{w}}"
                               for name, c, w in zip(COLUMNS, line, widths)).rstrip() for line in lines)
