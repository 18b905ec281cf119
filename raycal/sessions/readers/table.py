"""Tables as text: a header row, then a row a frame and a column a neuron or behaviour (CSV, and with ; or tab).

    time_s,cell_1,cell_2,speed (cm/s)
    0.0,0.13,0.02,4.1

UTF-8, decimal points; an empty cell and nan are NaN, True and False are 1 and 0.
"""
from __future__ import annotations

import csv
import fnmatch
import itertools
import pathlib
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from raycal.errors import UserError
from raycal.sessions.session import Session

FORMAT = "CSV table"
DELIMITERS = ",;\t"
LONGEST = 2**22  # characters a header may have: some 100 000 columns
TIME = re.compile(r"(?:time|t|timestamps?)(?:[ _](s|ms))?", re.IGNORECASE)
SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3}
WORDS = {"": np.nan, "true": 1.0, "false": 0.0}
SHOWN = 12  # columns a message lists


def recognises(path: pathlib.Path) -> bool:
    """Tell whether the file is text with a header and, below it, a row of as many cells, all of them numbers."""
    try:
        # Bytes that are no UTF-8 may be further on, or a unit in the header: `read` says so.
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as f:
            head = [line for line in (f.readline(LONGEST) for _ in range(2)) if "\0" not in line]
        if len(head) < 2 or head[0].lstrip().startswith(("{", "[")):  # JSON
            return False
        header, cells = csv.reader(head, delimiter=_delimiter(head[0]))
    except (OSError, ValueError, csv.Error):
        return False
    # A decimal comma is taken for a number here, so that `read` can say what is wrong with it.
    values = [_number(cell.replace(",", ".")) for cell in cells]
    return len(header) == len(cells) > 1 and None not in values and not np.isnan(values).all()


def read(path: pathlib.Path, traces: str = "") -> Session:
    """Return the recording: every column but the time's is a neuron, or those that traces names.

    traces holds patterns of column names parted by commas (`cell_*`); the columns it leaves are behaviours, their
    unit in brackets (`speed (cm/s)`). A column named time, t or timestamps, in s or ms (`time_ms`), gives the times,
    and the rate as 1 / median step. Raise UserError naming the row and the column of what does not fit.
    """
    names, table = _table(path)
    times, rate = _times(path, names, table)
    columns = [k for k, name in enumerate(names) if name and seconds_in(name) is None]
    cells = _chosen(path, names, columns, traces) if traces else columns
    observed = ~np.isnan(table).all(axis=0)
    rest = sorted(set(columns) - set(cells))
    behaviors = [k for k in rest if observed[k]]
    left_out = [f"{names[k]} (all NaN)" for k in rest if not observed[k]]
    left_out += [f"column {k + 1} (no name)" for k, name in enumerate(names) if not name]
    labels = [_label(names[k]) for k in behaviors]
    return Session.build(
        name=path.stem, traces=table[:, cells], times=times, rate=rate, neurons=[names[k] for k in cells],
        behavior=table[:, behaviors], behavior_names=[name for name, _ in labels],
        behavior_units=[unit for _, unit in labels], source=str(path),
        metadata={"left out": ", ".join(left_out)} if left_out else {})


def seconds_in(name: str) -> float | None:
    """Return how many seconds a unit of the time series of this name has, None where the name is not a time's.

    NaN where the name states a unit that is unknown: `time (days)`.
    """
    name, unit = _label(name)
    match = TIME.fullmatch(name)
    return None if match is None else SECONDS.get((match[1] or unit or "s").lower(), np.nan)


def _delimiter(header: str) -> str:
    return max(DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter))))


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return WORDS.get(cell.strip().lower())


def _table(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
    """Return the columns' names and the table (rows, columns) float64."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            delimiter = _delimiter(f.readline())
            f.seek(0)
            lines = csv.reader(f, delimiter=delimiter)
            names = [name.strip() for name in next(lines, [])]
            rows = list(_rows(path, names, lines))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path}: is not a table in UTF-8 all through ({e}); save it again as CSV UTF-8") from None
    table = np.array(rows).reshape(len(rows), len(names))
    _check_names(path, names, table)
    return names, table


def _rows(path: pathlib.Path, names: list[str], lines: Iterator[list[str]]) -> Iterator[np.ndarray]:
    for number, cells in enumerate(lines, start=2):  # as a spreadsheet counts: the header is row 1
        if not cells:  # a blank line
            continue
        if len(cells) != len(names):
            raise UserError(f"{path}: row {number} has {len(cells)} cells, the header {len(names)}; the file is cut "
                            "off, or a delimiter is missing there")
        try:
            yield np.array(list(map(float, cells)))
        except ValueError:
            yield np.array([_strict(path, number, name, cell) for name, cell in zip(names, cells)])


def _strict(path: pathlib.Path, row: int, name: str, cell: str) -> float:
    value = _number(cell)
    if value is None:
        raise UserError(f"{path}: row {row}, column {name!r} holds {cell[:40]!r}; write a number with a decimal point, "
                        "leave the cell empty where nothing was measured, or take the column out")
    return value


def _check_names(path: pathlib.Path, names: list[str], table: np.ndarray) -> None:
    """Refuse a header that holds the first frame, and columns that could be taken for one another."""
    numbers = [_number(name) for name in names if name]
    if None not in numbers and not (all(map(str.isdigit, filter(None, names))) and (np.diff(numbers) > 0).all()):
        raise UserError(f"{path}: its first row holds numbers ({', '.join(names[:4])} ...); put a row of names above "
                        "it, such as time_s,cell_1,cell_2")
    for name, count in Counter(filter(None, names)).most_common(1):
        if count > 1:
            raise UserError(f"{path}: {count} columns are named {name!r}; rename all but one")
    for k in (k for k, name in enumerate(names) if not name):
        # pandas writes its row numbers as a column without a name, spreadsheets an empty column at the end
        if not (np.isnan(table[:, k]).all() or (np.diff(table[:, k]) == 1).all()):
            raise UserError(f"{path}: column {k + 1} has no name; give it one")


def _times(path: pathlib.Path, names: list[str], table: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Return the time stamps (T,) s and the rate, None and NaN where no column states them."""
    found = [name for name in names if seconds_in(name) is not None]
    if not found:
        return None, np.nan
    if len(found) > 1:
        raise UserError(f"{path}: columns {', '.join(found)} all give the time; rename all but one")
    scale = seconds_in(found[0])
    if np.isnan(scale):
        raise UserError(f"{path}: column {found[0]!r} is in a unit that is unknown; give times in s or ms")
    times = table[:, names.index(found[0])] * scale
    step = float(np.median(np.diff(times))) if len(times) > 1 else np.nan
    return times, 1.0 / step if step > 0 else np.nan


def _chosen(path: pathlib.Path, names: list[str], columns: list[int], traces: str) -> list[int]:
    """Return the columns that the patterns name, in the table's order."""
    chosen = set()
    for pattern in filter(None, map(str.strip, traces.split(","))):
        matches = {k for k in columns if names[k] == pattern or fnmatch.fnmatchcase(names[k], pattern)}
        if not matches:
            listed = ", ".join(names[k] for k in itertools.islice(columns, SHOWN))
            raise UserError(f"{path}: no column matches sessions.traces={pattern!r}; it has {listed}"
                            + (f" ... {len(columns)} in all" if len(columns) > SHOWN else ""))
        chosen |= matches
    return sorted(chosen)


def _label(name: str) -> tuple[str, str]:
    """Return a column's name and the unit in brackets behind it, "" where there is none."""
    match = re.fullmatch(r"(.*\S)\s*(?:\((.*)\)|\[(.*)\])", name)
    return (match[1], (match[2] or match[3] or "").strip()) if match else (name, "")
