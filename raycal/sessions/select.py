"""Which neurons of a session a model sees, decided on frames of the train part.

Shapes: T frames, N neurons, K behaviours.
"""
from __future__ import annotations

import numpy as np

from raycal import config
from raycal.errors import UserError

BY_BEHAVIOR = ("behavior", "variance_behavior")
BLOCK = 64  # neurons at a time in float64
NEGATIVE_SD = 15.866  # percentile of a normal variable one sd below its median
ACTIVE = 3.0  # sd above the median from which a frame counts as active


def measured(session, missing: np.ndarray | None, rows: np.ndarray, settings: config.Sessions, log) -> np.ndarray:
    """Return the neurons that sessions.nan lets through, judged on the frames `rows` of all parts.

    Frames that the file itself declares not measured are masked whatever sessions.nan says. Raises UserError naming
    the first NaN under sessions.nan=refuse.
    """
    everyone = np.arange(session.n_neurons)
    if missing is None or settings.nan == "mask":
        return everyone
    undeclared = np.isnan(session.traces[rows])
    if session.valid is not None:
        undeclared &= session.valid[rows]
    holes = undeclared.any(axis=0)
    if not holes.any():
        return everyone
    first = int(np.flatnonzero(holes)[0])
    if settings.nan == "refuse":
        frame = int(rows[np.argmax(undeclared[:, first])])
        label = f" ({session.neurons[first]})" if session.neurons[first] else ""
        counted = f" at {settings.resample:g} Hz" if settings.resample else ""
        raise UserError(f"session {session.id}: neuron {first}{label} is NaN, first at "
                        f"frame {frame}{counted} ({int(holes.sum())} of {len(holes)} neurons have such frames); "
                        "use --set sessions.nan=drop (leave these neurons out) or --set sessions.nan=mask (leave "
                        "the frames out)")
    log(f"session {session.id}: {int(holes.sum())} of {len(holes)} neurons with NaN left out (sessions.nan=drop)")
    return everyone[~holes]


def varying(session, neurons: np.ndarray, span: np.ndarray, log) -> np.ndarray:
    """Return (N,) bool, which of the neurons have a span > 0 over the train part; raise UserError under 2."""
    varies = span > 0  # NaN where no train frame was measured: not greater either
    if varies.sum() < 2:
        raise UserError(f"session {session.id}: {varies.sum()} of {session.n_neurons} neurons left after leaving out "
                        f"{session.n_neurons - len(neurons)} with NaN and {(~varies).sum()} constant or not measured "
                        "over the train part; a model needs 2: check that rows are frames and columns neurons, or leave the session "
                        "out")
    constant = neurons[~varies]
    if len(constant):
        listed = ", ".join(map(str, constant[:8])) + (", ..." if len(constant) > 8 else "")
        log(f"session {session.id}: {len(constant)} of {len(neurons)} neurons constant or not measured over the train "
            f"part left out: {listed}")
    return varies


def best(id: str, settings: config.Sessions, traces: np.ndarray, missing: np.ndarray | None,
         behavior: np.ndarray, log) -> np.ndarray:
    """Return the indices, in order, of the sessions.neurons of traces (T, N) that score highest.

    The arrays hold train frames alone; of equal scores the first neuron wins.
    """
    n = traces.shape[1]
    if settings.neurons >= n:
        log(f"session {id}: sessions.neurons={settings.neurons}, but only {n} are usable; all are kept")
        return np.arange(n)
    order = np.argsort(-scores(settings.select, traces, missing, behavior), kind="stable")
    log(f"session {id}: {settings.neurons} of {n} neurons kept by {settings.select} over the train part, "
        f"{n - settings.neurons} left out")
    return np.sort(order[:settings.neurons])


def scores(by: str, traces: np.ndarray, missing: np.ndarray | None, behavior: np.ndarray) -> np.ndarray:
    """Return a score (N,) of each neuron of traces (T, N), missing (T, N), behavior (T, K, NaN = not observed).

    activity: share of measured frames more than 3 sd above the median, where the sd is that of the noise: from the
    median down to the 15.9th percentile, as transients only go up (a Gaussian scores 0.00135).
    variance: in the unit of the traces. behavior: the largest |Pearson r| with a behaviour over the frames where both
    are there. variance_behavior: half the rank by variance plus half the rank by behavior
    (github.com/FabioGallone/VqVAE_Giordano, there over the whole recording).
    """
    from scipy.stats import rankdata

    if by == "variance_behavior":
        return 0.5 * rankdata(_variance(traces, missing)) + 0.5 * rankdata(_correlation(traces, missing, behavior))
    if by == "behavior":
        return _correlation(traces, missing, behavior)
    return _variance(traces, missing) if by == "variance" else _activity(traces, missing)


def _variance(traces: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    return np.array([column.var() for column in _columns(traces, missing)])


def _activity(traces: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    found = np.empty(traces.shape[1])
    for n, column in enumerate(_columns(traces, missing)):
        low, median = np.percentile(column, (NEGATIVE_SD, 50))
        found[n] = np.mean(column > median + ACTIVE * (median - low))
    return found


def _columns(traces: np.ndarray, missing: np.ndarray | None):
    for n in range(traces.shape[1]):
        column = traces[:, n] if missing is None else traces[~missing[:, n], n]
        yield column.astype(np.float64)


def _correlation(traces: np.ndarray, missing: np.ndarray | None, behavior: np.ndarray) -> np.ndarray:
    """Return the largest |r| (N,) over the behaviours; 0 where neuron or behaviour is constant on common frames."""
    observed = (~np.isnan(behavior)).astype(np.float64)
    center = np.nansum(behavior, axis=0, dtype=np.float64) / np.maximum(observed.sum(axis=0), 1)
    y = np.where(observed > 0, behavior - center, 0.0)
    found = []
    for first in range(0, traces.shape[1], BLOCK):
        x = traces[:, first:first + BLOCK].astype(np.float64)
        seen = np.ones_like(x) if missing is None else (~missing[:, first:first + BLOCK]).astype(np.float64)
        x = np.where(seen > 0, x, 0.0)
        x = np.where(seen > 0, x - x.sum(axis=0) / seen.sum(axis=0), 0.0)
        found.append(_pearson(x, seen, y, observed).max(axis=1))
    return np.concatenate(found)


def _pearson(x: np.ndarray, seen: np.ndarray, y: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return |r| (N, K) over the frames where x is seen and y observed; both are near 0 on average, 0 elsewhere."""
    n = seen.T @ observed
    sum_x, sum_y = x.T @ observed, seen.T @ y
    with np.errstate(invalid="ignore", divide="ignore"):
        var_x = (x**2).T @ observed - sum_x**2 / n
        var_y = seen.T @ y**2 - sum_y**2 / n
        r = (x.T @ y - sum_x * sum_y / n) / np.sqrt(var_x * var_y)
    scale_x, scale_y = (x**2).sum(axis=0)[:, None], (y**2).sum(axis=0)
    varies = (var_x > 1e-12 * scale_x) & (var_y > 1e-12 * scale_y)  # below, nothing but rounding is left
    return np.where(varies, np.abs(r), 0.0)
