"""What the sessions of a run agree on before any array is prepared: behaviours, splits, the longest window.

A Sketch is all that this takes, and is light: whoever decides need not hold the recordings.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raycal import config
from raycal.errors import UserError, nearest
from raycal.sessions.behavior import FEATURES, feature_frames, feature_names, stimulus_names
from raycal.sessions.resample import conditioned
from raycal.sessions.select import BY_BEHAVIOR
from raycal.sessions.split import PARTS, Run, Split, longest_window, rate_of, split

# a setting that came later than the first runs enters a fingerprint where it is not the default: those stay as they are
FINGERPRINTED = ("split", "rounds", "train", "validation", "gap", "behavior", "nan", "rate")
FINGERPRINTED_LATER = ("resample", "smooth", "smooth_behavior", "select", "neurons", "features", "held_out")


@dataclass(frozen=True, eq=False)
class Sketch:
    """A session without its arrays, at the rate of sessions.resample; small enough to travel between processes."""

    id: str
    id_from_name: bool
    source: str
    fingerprint: str  # of the session as it was read
    n_frames: int
    n_neurons: int
    rate: float  # Hz, NaN where unknown
    stated_rate: float  # Hz, that of the source; NaN where it states none
    segments: tuple[Run, ...]
    masks: Mapping[str, np.ndarray]  # the file's own split: part -> (T,) bool
    behavior_names: tuple[str, ...]
    behavior_units: tuple[str, ...]
    stimuli: tuple[tuple[str, tuple[str, ...]], ...]  # (name, parameters)


@dataclass(frozen=True, eq=False)
class Agreement:
    """What holds for every recording of a run."""

    behavior: tuple[str, ...]  # names to take from every session: behaviours, or STIMULUS.PARAMETER
    behavior_names: tuple[str, ...]  # of the columns they become: four each with sessions.features
    behavior_units: tuple[str, ...]
    splits: tuple[Split, ...]  # of the sessions used: the first alone with sessions.mode=first_only
    mode: str
    window: int  # frames: the longest window that fits every piece
    fingerprint: str  # of data, split settings and pieces of all three parts: the same whatever parts are carried


def sketch(session, settings: config.Sessions) -> Sketch:
    """Return what `agree` needs to know of a session."""
    seen = conditioned(session, settings)
    return Sketch(session.id, session.id_from_name, session.source, session.fingerprint, seen.n_frames,
                  seen.n_neurons, seen.rate, session.rate, seen.segments, seen.masks, session.behavior_names,
                  session.behavior_units, tuple((s.name, tuple(s.columns)) for s in session.stimuli))


def agree(sketches: Sequence[Sketch], settings: config.Sessions, window: int, context: int = 0,
          log: Callable[[str], None] = print) -> Agreement:
    """Decide what to decode and split every session.

    `window` is the longest window (frames) of the space, `context` what the model reads beyond it. What is left out
    is said through `log`. Raises UserError where there is no session, the window does not fit, a behaviour is absent,
    or neurons are to be chosen by behaviour and there is none.
    """
    sketches = list(sketches)
    if not sketches:
        raise UserError("no session to prepare; give at least one with --sessions")
    if settings.mode == "first_only" and len(sketches) > 1:
        log(f"sessions.mode=first_only: only {sketches[0].id} is used, {len(sketches) - 1} left out")
        sketches = sketches[:1]
    names = columns = _behaviors(sketches, settings, log)
    if settings.select in BY_BEHAVIOR and not names:
        raise UserError(f"sessions.select={settings.select}: no behaviour is in every session, so neurons cannot be "
                        "chosen by it; use --set sessions.select=variance or activity, or give recordings with "
                        "behaviour")
    splits = tuple(_split(s, settings, window, context, log) for s in sketches)
    units = _units(sketches, names, log)
    if settings.features:
        columns, units = feature_names(names), tuple(unit for unit in units for _ in FEATURES)
        for one, cut in zip(sketches, splits):
            _check_features(one, cut, settings)
    shortest = min(b - a for cut in splits for runs in cut.pieces.values() for a, b in runs)
    return Agreement(names, columns, units, splits, settings.mode, shortest, _fingerprint(sketches, settings, splits))


def held_out(ids: Sequence[str], settings: config.Sessions) -> tuple[str, ...]:
    """Return the ids of the sessions that are held out whole: sessions.held_out, the last with sessions.split=animals.

    Raise UserError where one is not among the ids, or none is left.
    """
    for id in settings.held_out:
        if id not in ids:
            raise UserError(f"sessions.held_out: no session {id!r}{nearest(id, ids)}; given are {', '.join(ids)}")
    found = tuple(id for id in ids if id in settings.held_out)
    if not found and settings.split == "animals":
        found = tuple(ids[-1:])
    if found and len(found) == len(ids):
        raise UserError(f"holding out {', '.join(found)} leaves no session to train on; give more recordings with "
                        "--sessions")
    return found


def some(agreement: Agreement, sessions: slice) -> Agreement:
    """Return the agreement of some of its sessions; fingerprint and window stay those of all."""
    return dataclasses.replace(agreement, splits=agreement.splits[sessions])


def with_validation(agreement: Agreement) -> Agreement:
    """Return the agreement of a last training: validation frames are train frames, so that all is fitted on both."""
    splits = tuple(dataclasses.replace(cut, pieces={
        "train": tuple(sorted((*cut.pieces["train"], *cut.pieces["validation"]))), "validation": (),
        "test": cut.pieces["test"]}) for cut in agreement.splits)
    return dataclasses.replace(agreement, splits=splits)


def _split(sketch: Sketch, settings, window, context, log) -> Split:
    fits = longest_window(sketch, settings, context)
    if window > fits:
        rounds = f"sessions.rounds={settings.rounds}, " if settings.split != "file" else ""
        raise UserError(f"session {sketch.id}: a window of {window} frames does not fit its shortest block, which "
                        f"holds {fits}; use windows.length of at most {fits}, or lower {rounds}"
                        f"sessions.gap={settings.gap:g}")
    stated = sketch.stated_rate
    if settings.rate > 0 and np.isfinite(stated) and abs(stated - settings.rate) > 1e-3 * settings.rate:
        log(f"session {sketch.id}: its own {stated:g} Hz is kept; sessions.rate={settings.rate:g} is for files "
            "that state none")
    cut = split(sketch, settings, window, context)
    if cut.dropped:
        log(f"session {sketch.id}: {cut.dropped} frames lie in pieces shorter than {window} frames and are not used")
    return cut


def _behaviors(sketches, settings, log) -> tuple[str, ...]:
    """Return the wanted behaviours, or those that every session has, in the first session's order."""
    for one in sketches:
        shown = stimulus_names(one.stimuli)
        for name in settings.behavior:
            if name not in one.behavior_names and name not in shown:
                has = ", ".join(one.behavior_names) or "none"
                has += f", and of its stimuli {', '.join(shown)}" if shown else ""
                close = nearest(name, [*one.behavior_names, *shown])
                raise UserError(f"session {one.id} has no behaviour {name!r}{close}; it has {has}; "
                                "change sessions.behavior or leave the session out")
    if settings.behavior:
        return tuple(dict.fromkeys(settings.behavior))
    common = tuple(n for n in sketches[0].behavior_names if all(n in s.behavior_names for s in sketches))
    others = sorted({n for s in sketches for n in s.behavior_names} - set(common))
    if others:
        log(f"behaviours that not every session has are left out: {', '.join(others)}")
    return common


def _units(sketches, names, log) -> tuple[str, ...]:
    """Return the first session's units; differing ones are said, as behaviours are scaled session by session."""
    by_session = [tuple(dict(zip(s.behavior_names, s.behavior_units)).get(n, "") for n in names) for s in sketches]
    for one, units in zip(sketches, by_session):
        for name, unit, first in zip(names, units, by_session[0]):
            if unit != first:
                log(f"session {one.id}: {name} is in {unit or 'an unknown unit'}, in {sketches[0].id} in "
                    f"{first or 'an unknown unit'}")
    return by_session[0]


def _check_features(sketch: Sketch, cut: Split, settings) -> None:
    rate = rate_of(sketch, settings)
    width = feature_frames(settings, rate)
    longest = min(max(b - a for a, b in cut.pieces[part]) for part in PARTS)
    if not 3 <= width <= longest:
        raise UserError(f"session {sketch.id}: sessions.features={settings.features:g} s takes {width} frames at "
                        f"{rate:g} Hz; use from {2 / rate:.3g} s (3 frames) to {(longest - 1) / rate:.3g} s (the "
                        f"longest piece of its shortest part holds {longest} frames)")


def _fingerprint(sketches, settings, splits) -> str:
    defaults = config.Sessions()
    later = [k for k in FINGERPRINTED_LATER if getattr(settings, k) != getattr(defaults, k)]
    content = {"sessions": [s.fingerprint for s in sketches],
               "settings": {k: getattr(settings, k) for k in (*FINGERPRINTED, *later)},
               "pieces": [{part: cut.pieces[part] for part in PARTS} for cut in splits]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
