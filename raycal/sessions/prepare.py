"""Turn sessions into what workers may see: the frames of the wanted parts and statistics of the train part."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from raycal import config
from raycal.errors import UserError, nearest
from raycal.sessions.split import PARTS, Run, Split, longest_window, rate_of, split

IQR_OF_GAUSSIAN = 1.349  # interquartile range of a normal variable, in sd


@dataclass(frozen=True, eq=False)
class Recording:
    """One session's usable frames, in time, other frames left out; arrays may be read-only (object store)."""

    id: str
    traces: np.ndarray  # (F, N) float32, unit of the file, 0 where not valid
    valid: np.ndarray | None  # (F, N) bool, False = not measured; None = all measured
    behavior: np.ndarray  # (F, K) float32, unit of the file, NaN = not observed
    pieces: dict[str, tuple[Run, ...]]  # part -> runs [start, stop) of rows of these arrays
    rate: float  # Hz
    neurons: tuple[str, ...]
    scalers: dict[str, tuple[np.ndarray, np.ndarray]]  # normalisation -> (center (N,), spread (N,)), train frames only
    behavior_center: np.ndarray  # (K,) float32, mean over observed train frames
    behavior_spread: np.ndarray  # (K,) float32, sd over the same
    gap: int = 0  # frames between parts: how far a shift must go to be independent
    kept: tuple[int, ...] = ()  # the session's columns that these neurons are; a model is applied to the same ones
    n_recorded: int = 0  # neurons of the session, before some were left out
    fingerprint: str = ""  # of the session


@dataclass(frozen=True, eq=False)
class Dataset:
    """The recordings of a run, with the frames of the parts that were asked for and no other."""

    recordings: tuple[Recording, ...]
    behavior_names: tuple[str, ...]
    behavior_units: tuple[str, ...]
    mode: str
    window: int  # frames: the longest window that fits every piece
    fingerprint: str  # of data, split settings and pieces of all three parts: the same whatever parts are carried

    @property
    def n_neurons(self) -> tuple[int, ...]:
        return tuple(r.traces.shape[1] for r in self.recordings)

    @property
    def n_bytes(self) -> int:
        return sum(a.nbytes for r in self.recordings for a in (r.traces, r.behavior, r.valid) if a is not None)


def prepare(sessions: Sequence, settings: config.Sessions, window: int, parts: Sequence[str] = ("train", "validation"),
            context: int = 0, log: Callable[[str], None] = print) -> Dataset:
    """Split the sessions and keep the frames of `parts`, with scalers and neurons chosen on train frames alone.

    `window` is the longest window (frames) of the space, `context` what the model reads beyond it. What is left
    out is said through `log`. Raises UserError where the window does not fit, a behaviour is absent, a neuron has
    NaN under sessions.nan=refuse, or fewer than 2 neurons remain.
    """
    sessions = list(sessions)
    if not sessions:
        raise UserError("no session to prepare; give at least one with --sessions")
    if settings.mode == "first_only" and len(sessions) > 1:
        log(f"sessions.mode=first_only: only {sessions[0].id} is used, {len(sessions) - 1} left out")
        sessions = sessions[:1]
    names = _behaviors(sessions, settings, log)
    splits = [_split(s, settings, window, context, log) for s in sessions]
    recordings = tuple(_recording(s, cut, settings, names, parts, log) for s, cut in zip(sessions, splits))
    shortest = min(b - a for cut in splits for runs in cut.pieces.values() for a, b in runs)
    return Dataset(recordings, names, _units(sessions, names, log), settings.mode, shortest,
                   _fingerprint(sessions, settings, splits))


def _split(session, settings, window, context, log) -> Split:
    fits = longest_window(session, settings, context)
    if window > fits:
        rounds = f"sessions.rounds={settings.rounds}, " if settings.split == "blocks" else ""
        raise UserError(f"session {session.id}: a window of {window} frames does not fit its shortest block, which "
                        f"holds {fits}; use windows.length of at most {fits}, or lower {rounds}"
                        f"sessions.gap={settings.gap:g}")
    if settings.rate > 0 and np.isfinite(session.rate) and abs(session.rate - settings.rate) > 1e-3 * settings.rate:
        log(f"session {session.id}: its own {session.rate:g} Hz is kept; sessions.rate={settings.rate:g} is for files "
            "that state none")
    cut = split(session, settings, window, context)
    if cut.dropped:
        log(f"session {session.id}: {cut.dropped} frames lie in pieces shorter than {window} frames and are not used")
    return cut


def _behaviors(sessions, settings, log) -> tuple[str, ...]:
    """Return the wanted behaviours, or those that every session has, in the first session's order."""
    for session in sessions:
        for name in settings.behavior:
            if name not in session.behavior_names:
                has = ", ".join(session.behavior_names) or "none"
                close = nearest(name, session.behavior_names)
                raise UserError(f"session {session.id} has no behaviour {name!r}{close}; it has {has}; "
                                "change sessions.behavior or leave the session out")
    if settings.behavior:
        return tuple(dict.fromkeys(settings.behavior))
    common = tuple(n for n in sessions[0].behavior_names if all(n in s.behavior_names for s in sessions))
    others = sorted({n for s in sessions for n in s.behavior_names} - set(common))
    if others:
        log(f"behaviours that not every session has are left out: {', '.join(others)}")
    return common


def _units(sessions, names, log) -> tuple[str, ...]:
    """Return the first session's units; differing ones are said, as behaviours are scaled session by session."""
    by_session = [tuple(dict(zip(s.behavior_names, s.behavior_units)).get(n, "") for n in names) for s in sessions]
    for session, units in zip(sessions, by_session):
        for name, unit, first in zip(names, units, by_session[0]):
            if unit != first:
                log(f"session {session.id}: {name} is in {unit or 'an unknown unit'}, in {sessions[0].id} in "
                    f"{first or 'an unknown unit'}")
    return by_session[0]


def _recording(session, cut: Split, settings, names, parts, log) -> Recording:
    rows, pieces = _rows(cut, parts)
    train, _ = _rows(cut, ("train",))
    missing = _missing(session)
    kept = _usable(session, missing, cut, settings, log)
    scalers = _scalers(session.traces, missing, train, kept)
    varies = scalers["minmax"][1] > 0  # NaN where no train frame was measured: not greater either
    if varies.sum() < 2:
        raise UserError(f"session {session.id}: {varies.sum()} of {session.n_neurons} neurons left after leaving out "
                        f"{session.n_neurons - len(kept)} with NaN and {(~varies).sum()} constant over the train part; "
                        "a model needs 2: check that rows are frames and columns neurons, or leave the session out")
    _say_constant(session, kept[~varies], len(kept), log)
    kept = kept[varies]
    traces = np.ascontiguousarray(session.traces[rows][:, kept], np.float32)
    valid = None
    if missing is not None and missing[np.ix_(rows, kept)].any():
        valid = np.ascontiguousarray(~missing[np.ix_(rows, kept)])
        traces[~valid] = 0.0
    columns = [session.behavior_names.index(n) for n in names]
    behavior = np.asarray(session.behavior, np.float32).reshape(session.n_frames, -1)
    center, spread = _behavior_scaler(behavior[np.ix_(train, columns)])
    return Recording(session.id, traces, valid, np.ascontiguousarray(behavior[np.ix_(rows, columns)]), pieces,
                     rate_of(session, settings), tuple(session.neurons[n] for n in kept),
                     {k: _scaler(c[varies], s[varies]) for k, (c, s) in scalers.items()}, center, spread, cut.gap,
                     tuple(kept.tolist()), session.n_neurons, session.fingerprint)


def _rows(cut: Split, parts) -> tuple[np.ndarray, dict[str, tuple[Run, ...]]]:
    """Return the session frames of the parts, in time, and the parts' pieces as rows of that selection."""
    runs = sorted((a, b, part) for part in parts for a, b in cut.pieces[part])
    pieces: dict[str, list[Run]] = {part: [] for part in parts}
    row = 0
    for a, b, part in runs:
        pieces[part].append((row, row + b - a))
        row += b - a
    return np.concatenate([np.arange(a, b) for a, b, _ in runs]), {p: tuple(r) for p, r in pieces.items()}


def _missing(session) -> np.ndarray | None:
    """Return (T, N) bool, True where a frame is NaN or declared not measured; None where all were measured."""
    missing = np.isnan(session.traces)
    if session.valid is not None:
        missing |= ~session.valid
    return missing if missing.any() else None


def _usable(session, missing, cut: Split, settings, log) -> np.ndarray:
    """Return the neurons that sessions.nan lets through; NaN of any part counts, that in gaps does not.

    Frames that the file itself declares not measured are masked whatever sessions.nan says.
    """
    everyone = np.arange(session.n_neurons)
    if missing is None or settings.nan == "mask":
        return everyone
    rows, _ = _rows(cut, PARTS)
    undeclared = np.isnan(session.traces[rows])
    if session.valid is not None:
        undeclared &= session.valid[rows]
    holes = undeclared.any(axis=0)
    if not holes.any():
        return everyone
    first = int(np.flatnonzero(holes)[0])
    if settings.nan == "refuse":
        frame = int(rows[np.argmax(undeclared[:, first])])
        raise UserError(f"session {session.id}: neuron {first}{_label(session, first)} is NaN, first at "
                        f"frame {frame} ({int(holes.sum())} of {len(holes)} neurons have such frames); "
                        "use --set sessions.nan=drop (leave these neurons out) or --set sessions.nan=mask (leave "
                        "the frames out)")
    log(f"session {session.id}: {int(holes.sum())} of {len(holes)} neurons with NaN left out (sessions.nan=drop)")
    return everyone[~holes]


def _label(session, neuron: int) -> str:
    return f" ({session.neurons[neuron]})" if session.neurons[neuron] else ""


def _say_constant(session, constant: np.ndarray, n: int, log) -> None:
    if len(constant):
        listed = ", ".join(map(str, constant[:8])) + (", ..." if len(constant) > 8 else "")
        log(f"session {session.id}: {len(constant)} of {n} neurons constant over the train part left out: {listed}")


def _scalers(traces, missing, rows, neurons) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return {normalisation: (center, spread)} in float64 from the measured frames of `rows`; NaN where none was."""
    table = np.full((7, len(neurons)), np.nan)
    for i, n in enumerate(neurons):  # a column at a time: sorting needs a copy, and one column is small
        column = traces[rows, n] if missing is None else traces[rows, n][~missing[rows, n]]
        if len(column):
            column = column.astype(np.float64)
            table[:, i] = column.mean(), column.std(), *np.percentile(column, (0, 25, 50, 75, 100))
    mean, sd, low, quarter, median, three_quarters, high = table
    return {"zscore": (mean, sd), "robust": (median, (three_quarters - quarter) / IQR_OF_GAUSSIAN),
            "minmax": (low, high - low), "none": (np.zeros(len(neurons)), np.ones(len(neurons)))}


def _scaler(center: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = spread.astype(np.float32)
    return center.astype(np.float32), np.where(spread > 0, spread, np.float32(1.0))


def _behavior_scaler(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sd over the observed frames; 0 and 1 for a behaviour that the train part never observes."""
    columns = [c[~np.isnan(c)].astype(np.float64) for c in train.T]
    center = np.array([c.mean() if len(c) else 0.0 for c in columns], np.float64)
    spread = np.array([c.std() if len(c) else 1.0 for c in columns], np.float64)
    return _scaler(center, spread)


def _fingerprint(sessions, settings, splits: list[Split]) -> str:
    kept = ("split", "rounds", "train", "validation", "gap", "behavior", "nan", "rate")
    content = {"sessions": [s.fingerprint for s in sessions], "settings": {k: getattr(settings, k) for k in kept},
               "pieces": [{part: cut.pieces[part] for part in PARTS} for cut in splits]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
