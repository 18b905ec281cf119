"""The best sessions of Allen's catalogue: `allen:best3`.

The rule: candidates are the experiments of containers that did not fail, first those with eye tracking, then those
with more cells, then by id. They are fetched in that order, and one is kept when its animal ran, faster than 1 cm/s in
at least 5 % of the frames, until N are kept; at most 4 N are looked at.
"""
from __future__ import annotations

import pathlib
import re
from collections.abc import Callable

import numpy as np

from raycal.errors import UserError
from raycal.sessions import allen, catalogue
from raycal.sessions.catalogue import Experiment

SPEED, SHARE = 1.0, 0.05  # cm/s, of the frames
LOOKS = 4  # candidates looked at for each session wanted


def files(item: str, traces: str = "", say: Callable[[str], None] = print,
          base_uri: str | None = None) -> list[pathlib.Path]:
    """Return the files of `allen:item` in the cache: the one of an id, or the N of bestN by the rule above.

    They are downloaded where they are not there; the choice is said. Raise UserError when item is neither, and when
    fewer than N of the candidates ran.
    """
    wanted = re.fullmatch(r"best([1-9]\d{0,2})", item.strip())
    return _best(int(wanted[1]), traces, say, base_uri) if wanted else [allen.file(item, base_uri)]


def _best(n: int, traces: str, say: Callable[[str], None], base_uri: str | None) -> list[pathlib.Path]:
    candidates = sorted(catalogue.experiments(base_uri=base_uri), key=lambda e: (not e.eye_tracking, -e.cells, e.id))
    say(f"allen:best{n}: the sessions with most cells, those with eye tracking first, in which the animal ran (above "
        f"{SPEED:g} cm/s in {SHARE:.0%} of the frames)")
    kept: list[pathlib.Path] = []
    for experiment in candidates[:LOOKS * n]:
        path, reason = _look(experiment, traces, base_uri)
        kept += [path] if path else []
        say(f"  {experiment.id}  {experiment.area} {experiment.cre} {experiment.depth} um, {experiment.cells} cells: "
            f"{'' if path else 'passed over, '}{reason}")
        if len(kept) == n:
            return kept
    raise UserError(f"allen:best{n}: {len(kept)} of the {len(candidates[:LOOKS * n])} sessions looked at can be taken; "
                    "ask for fewer, or name sessions by id")


def _look(experiment: Experiment, traces: str, base_uri: str | None) -> tuple[pathlib.Path | None, str]:
    """Return the session's file when it is to be kept, and why or why not; a network that fails ends the choice."""
    from raycal.sessions.readers import read_one

    try:
        path = allen.file(str(experiment.id), base_uri)
    except allen.NoFile:
        return None, "Allen has no file of it"
    try:
        session = read_one(path, traces)
    except UserError as e:
        return None, str(e)
    if "running_speed" not in session.behavior_names:
        return None, "no running speed"
    speed = session.behavior[:, session.behavior_names.index("running_speed")]
    share = float(np.mean(speed > SPEED))  # frames without a sample do not count as running
    return path if share >= SHARE else None, f"ran in {share:.0%} of the frames"
