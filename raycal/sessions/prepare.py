"""Turn sessions into what workers may see: the frames of the wanted parts and statistics of the train part.

The order for every session: resample, split, smooth inside each piece, leave out neurons with NaN and constant
ones, fit scalers, choose neurons, turn behaviour into features. Whatever is fitted is fitted on train frames.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raycal import config
from raycal.errors import UserError
from raycal.sessions import select
from raycal.sessions.agreement import Agreement, agree, sketch
from raycal.sessions.behavior import feature_frames, features, series
from raycal.sessions.resample import conditioned
from raycal.sessions.scalers import behavior_scaler, float32, scalers
from raycal.sessions.smoothing import smoothed
from raycal.sessions.split import PARTS, Run, Split, rate_of


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
    varying: tuple[str, ...] = ()  # behaviours that some validation frames show changing
    still: tuple[str, ...] = ()  # behaviours that no train frame shows changing: constant there, or not observed
    recorded_rate: float = 0.0  # Hz of the session, before it was resampled
    resample: float = 0.0  # Hz it was brought to; 0: none
    smooth: float = 0.0  # s, sd of the Gaussian over traces; 0: none


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
    def neurons(self) -> tuple[tuple[str, ...], ...]:
        """Labels of the neurons of every recording, "" = unknown."""
        return tuple(r.neurons for r in self.recordings)

    @property
    def n_bytes(self) -> int:
        return sum(a.nbytes for r in self.recordings for a in (r.traces, r.behavior, r.valid) if a is not None)


def prepare(sessions: Sequence, settings: config.Sessions, window: int, parts: Sequence[str] = ("train", "validation"),
            context: int = 0, log: Callable[[str], None] = print) -> Dataset:
    """Split the sessions and keep the frames of `parts`, with scalers and neurons chosen on train frames alone.

    `window` is the longest window (frames) of the space, `context` what the model reads beyond it. What is left
    out is said through `log`. Raises UserError where the window does not fit, a behaviour is absent, a neuron has
    NaN under sessions.nan=refuse, fewer than 2 neurons remain, or masks leave nothing of a part.
    """
    agreement = agree([sketch(s, settings) for s in sessions], settings, window, context, log)
    return assemble(agreement, (record(sessions[i], settings, agreement, i, parts, log)
                                for i in range(len(agreement.splits))))


def assemble(agreement: Agreement, recordings: Iterable[Recording]) -> Dataset:
    """Return the dataset of an agreement's recordings, given in the order of its splits."""
    return Dataset(tuple(recordings), agreement.behavior_names, agreement.behavior_units, agreement.mode,
                   agreement.window, agreement.fingerprint)


def record(session, settings: config.Sessions, agreement: Agreement, index: int,
           parts: Sequence[str] = ("train", "validation"), log: Callable[[str], None] = print) -> Recording:
    """Prepare one session, the agreement's number `index`: what needs its arrays and no other session's."""
    cut, recorded_rate = agreement.splits[index], rate_of(session, settings)
    fingerprint, session = session.fingerprint, conditioned(session, settings)
    rate, runs = rate_of(session, settings), sorted(run for part in PARTS for run in cut.pieces[part])
    (rows, pieces), (train, _), (validation, _) = (_rows(cut, p) for p in (parts, ("train",), ("validation",)))
    missing = _missing(session)
    traces = smoothed(session.traces, missing, runs, settings.smooth * rate)
    behavior = series(session, agreement.behavior, runs, settings.smooth_behavior * rate)
    kept, fitted = _neurons(session, traces, missing, behavior, cut, settings, log)
    _check_measured(session, missing, kept, cut)
    if settings.features:
        behavior = features(behavior, runs, feature_frames(settings, rate))
    traces = np.ascontiguousarray(traces[rows][:, kept])
    valid = None
    if missing is not None and missing[np.ix_(rows, kept)].any():
        valid = np.ascontiguousarray(~missing[np.ix_(rows, kept)])
        traces[~valid] = 0.0
    center, spread = behavior_scaler(behavior[train])
    names = agreement.behavior_names
    return Recording(
        session.id, traces, valid, behavior[rows], pieces, rate, tuple(session.neurons[n] for n in kept), fitted,
        center, spread, cut.gap, tuple(kept.tolist()), session.n_neurons, fingerprint,
        _varying(behavior[validation], names), tuple(n for n in names if n not in _varying(behavior[train], names)),
        recorded_rate, settings.resample, settings.smooth)


def _neurons(session, traces, missing, behavior, cut: Split, settings, log):
    """Return the columns of the neurons to keep, and their {normalisation: (center, spread)} as float32."""
    train, _ = _rows(cut, ("train",))
    kept = select.measured(session, missing, _rows(cut, PARTS)[0], settings, log)
    fitted = scalers(traces, missing, train, kept)
    chosen = np.flatnonzero(select.varying(session, kept, fitted["minmax"][1], log))
    if settings.select != "all":
        table = np.ix_(train, kept[chosen])
        chosen = chosen[select.best(session.id, settings, traces[table], None if missing is None else missing[table],
                                    behavior[train], log)]
    return kept[chosen], {name: float32(c[chosen], s[chosen]) for name, (c, s) in fitted.items()}


def _check_measured(session, missing: np.ndarray | None, kept: np.ndarray, cut: Split) -> None:
    """Refuse masks that leave nothing to train on or to judge by."""
    for part in PARTS if missing is not None else ():
        rows, _ = _rows(cut, (part,))
        if len(rows) and missing[np.ix_(rows, kept)].all():
            raise UserError(f"session {session.id}: its masks leave no value of its {part} part ({len(rows)} frames of "
                            f"{len(kept)} neurons); cut the blocks elsewhere with another sessions.rounds, or leave "
                            "the session out")


def _rows(cut: Split, parts) -> tuple[np.ndarray, dict[str, tuple[Run, ...]]]:
    """Return the session frames of the parts, in time, and the parts' pieces as rows of that selection."""
    runs = sorted((a, b, part) for part in parts for a, b in cut.pieces[part])
    pieces: dict[str, list[Run]] = {part: [] for part in parts}
    row = 0
    for a, b, part in runs:
        pieces[part].append((row, row + b - a))
        row += b - a
    rows = np.concatenate([np.arange(0), *(np.arange(a, b) for a, b, _ in runs)])
    return rows, {p: tuple(r) for p, r in pieces.items()}


def _missing(session) -> np.ndarray | None:
    """Return (T, N) bool, True where a frame is NaN or declared not measured; None where all were measured."""
    missing = np.isnan(session.traces)
    if session.valid is not None:
        missing |= ~session.valid
    return missing if missing.any() else None


def _varying(behavior: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the behaviours (T, K) that take more than one value."""
    return tuple(name for name, column in zip(names, behavior.T) if np.unique(column[~np.isnan(column)]).size > 1)
