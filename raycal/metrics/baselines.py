"""What a model has to beat: behaviour decoded by ridge regression straight from the raw traces."""
from __future__ import annotations

import math

import numpy as np

from raycal.metrics.decoding import DecodingSums, bootstrap, combine, shift_null
from raycal.metrics.ridge import fit_ridge

INDEPENDENT = 8.0  # s; frames further apart count as independent, even where sessions.gap was set shorter


def ridge_on_traces(dataset, lags: int = 5, part: str = "validation") -> dict[str, dict[str, float]]:
    """Return {behaviour: figures} of ridge on traces at +-lags frames, fitted on train, scored on `part`.

    figures: "r2" about the train mean (ranked by), "r2_held_out" about the part's mean, "null" and "null_high" (mean
    and 95th percentile over circular shifts), "low" and "high" (95 % interval over blocks drawn again). Several
    sessions: fitted one by one, squared errors pooled in train-sd units; null and interval averaged, weighted
    by each session's squared deviation. NaN where the part never observes the behaviour, or it stays constant.
    """
    decoded = [_decode(recording, lags, part) for recording in dataset.recordings]
    pooled = combine([sums for sums, _ in decoded])
    weight = np.stack([np.where(sums.sums[0] > 0, sums.sums[3], 0.0) for sums, _ in decoded])  # (S, K)
    spreads = {name: _average([figures[name] for _, figures in decoded], weight) for name in decoded[0][1]}
    return {name: {"r2": float(pooled.train[k]), "r2_held_out": float(pooled.held_out[k]),
                   **{key: float(values[k]) for key, values in spreads.items()}}
            for k, name in enumerate(dataset.behavior_names)}


def _average(values: list[np.ndarray], weight: np.ndarray) -> np.ndarray:
    values_sk = np.stack(values)
    weight = np.where(np.isnan(values_sk), 0.0, weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum(values_sk * weight, axis=0) / weight.sum(0)


def _decode(recording, lags: int, part: str) -> tuple[DecodingSums, dict[str, np.ndarray]]:
    """Return one session's sums and its null and interval; behaviour in train-sd units about the train mean."""
    y = (recording.behavior - recording.behavior_center) / recording.behavior_spread
    pieces = recording.pieces[part]
    ridge = fit_ridge(recording.traces, y, recording.pieces["train"], lags, gap=recording.gap, valid=recording.valid)
    prediction = ridge.predict(recording.traces, pieces, recording.valid)
    sums = DecodingSums(y.shape[1])
    rows = np.concatenate([np.arange(a, b) for a, b in pieces])
    sums.add_rows(y[rows], prediction[rows])
    away = max(recording.gap, math.ceil(INDEPENDENT * recording.rate))
    null = shift_null(y, prediction, pieces, away)
    interval = bootstrap(y, prediction, pieces, away)
    return sums, {"null": null.mean, "null_high": null.high, "low": interval.low, "high": interval.high}
