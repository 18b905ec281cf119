"""Allen's catalogue of Visual Coding experiments, through AllenSDK: kept once fetched, filtered here.

    print(table(experiments(area="VISp", cre="Cux2", depth="150:300", min_cells=150)))
"""
from __future__ import annotations

import collections
import math
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from raycal.errors import UserError, nearest
from raycal.sessions import allen

ITEM = "catalogue"  # what errors name
FIX = ("check the network and try again, or set RAYCAL_ALLEN_CACHE to a cache that has Allen's lists of experiments "
       "and cells")
# Every session shows natural movie one, whose reliability is stated for each cell found in that session.
SEEN_IN = {"three_session_A": "reliability_nm1_a", "three_session_B": "reliability_nm1_b",
           "three_session_C": "reliability_nm1_c", "three_session_C2": "reliability_nm1_c"}


@dataclass(frozen=True)
class Experiment:
    """One imaging session of one field of view; a container holds the (three) sessions of that field."""

    id: int
    container: int
    area: str
    cre: str
    depth: int  # um
    session_type: str
    cells: int  # of this session where Allen's list of cells tells, else of its container; 0 = not listed
    donor: str
    age: int  # days
    eye_tracking: bool


def experiments(area: str = "", cre: str = "", depth: str = "", stimulus: str = "", min_cells: int = 0,
                base_uri: str | None = None) -> list[Experiment]:
    """Return the experiments of containers that did not fail, most cells first, that meet all conditions given.

    area: VISp ...; cre: a line or its beginning, Cux2 = Cux2-CreERT2; depth: um, '175' or a range '150:300', ends
    included; stimulus: a stimulus or a session type; min_cells: at least so many. The lists come from the cache, once
    fetched. Raise UserError for a name that is not in the catalogue, with the nearest that is, and when the lists can
    neither be read nor fetched.
    """
    low, high = _range(depth)
    cache = allen.open_cache(ITEM, base_uri)
    if not os.path.exists(cache.get_cache_path(None, cache.CELL_SPECIMENS_KEY)):
        print("fetching Allen's lists of experiments and cells, once; this takes minutes", file=sys.stderr)
    found = allen.asked(ITEM, lambda: _listed(cache), FIX)
    _check_known("area", area, str.__eq__, {e.area for e in found})
    _check_known("cre", cre, str.startswith, {e.cre for e in found})
    shown_in = _session_types(stimulus, {e.session_type for e in found})
    kept = [e for e in found if area.lower() in ("", e.area.lower()) and e.cre.lower().startswith(cre.lower())
            and e.session_type in shown_in and low <= e.depth <= high and e.cells >= min_cells]
    return sorted(kept, key=lambda e: (-e.cells, e.id))


def table(experiments: Iterable[Experiment]) -> str:
    """Return the experiments as aligned columns under a line of titles."""
    titles = [f.name.replace("_", " ") for f in fields(Experiment)]
    rows = [[_text(getattr(e, f.name)) for f in fields(Experiment)] for e in experiments]
    widths = [max(map(len, column)) for column in zip(titles, *rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                     for row in [titles, *rows])


def _text(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _listed(cache: Any) -> list[Experiment]:
    listed = cache.get_ophys_experiments()
    if not listed:
        raise ValueError("there is no experiment in them")
    cells = cache.get_cell_specimens(simple=False, include_failed=True)
    counts = collections.Counter(c["experiment_container_id"] for c in cells)
    seen = collections.Counter((c["experiment_container_id"], column) for c in cells
                               for column in set(SEEN_IN.values()) if c.get(column) is not None)
    return [Experiment(
        id=e["id"], container=(container := e["experiment_container_id"]), area=e["targeted_structure"],
        cre=e["cre_line"] or "", depth=int(e["imaging_depth"]), session_type=e["session_type"],
        cells=seen[container, SEEN_IN.get(e["session_type"], "")] or counts[container], donor=e["donor_name"] or "",
        age=e["acquisition_age_days"] or 0, eye_tracking=e["fail_eye_tracking"] is False) for e in listed]


def _range(depth: str) -> tuple[float, float]:
    low, colon, high = str(depth).partition(":")
    try:
        bounds = float(low or -math.inf), float((high or math.inf) if colon or not low else low)
        if bounds[0] <= bounds[1]:
            return bounds
    except ValueError:
        pass
    raise UserError(f"depth {depth!r}: give micrometres below the surface, such as 175 or 150:300")


def _check_known(name: str, value: str, matches: Callable[[str, str], bool], known: set[str]) -> None:
    if value and not any(matches(k.lower(), value.lower()) for k in known):
        raise UserError(f"{name} {value!r}: not in Allen's catalogue{nearest(value, sorted(known))} (it has "
                        f"{', '.join(sorted(known))})")


def _session_types(stimulus: str, session_types: set[str]) -> set[str]:
    """Return the session types that show a stimulus, or the one that is named; all without a name."""
    import allensdk.brain_observatory.stimulus_info as info

    _check_known("stimulus", stimulus, str.__eq__, session_types | info.all_stimuli())
    return {kind for kind in session_types
            if stimulus.lower() in ("", kind.lower(), *info.stimuli_in_session(kind))}
