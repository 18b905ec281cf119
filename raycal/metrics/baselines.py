"""What a model has to beat: classical codes of the traces, and behaviour decoded by ridge regression from them raw."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raycal.metrics.decoding import DecodingSums, bootstrap, combine, shift_null
from raycal.metrics.ridge import fit_ridge

PCA_AXES = (8, 32)
LAGS = 5  # frames before and after that ridge reads
INDEPENDENT = 8.0  # s; frames further apart count as independent, even where sessions.gap was set shorter


def baselines(dataset, rates: Sequence[float], part: str = "validation",
              window: int = 64) -> dict[str, dict[str, float]]:
    """Return {name: figures} of classical codes at each of `rates` (bits/s), fitted on train, scored on `part`.

    Every code is fitted session by session, on evenly spaced train frames where there are many (20 000 for axes,
    3072 windows, 8192 patches); every frame of the part counts, once. figures: "nmse" as a model's, sessions pooled;
    "asked", the rate; "bits_per_second", all sessions' bits over all their seconds: the code length of the part under
    a model that was fitted on train. k-means also "nominal_", "entropy_" (as a model's own figure) and
    "conditional_bits_per_second" (given the step before); PCA keeps unquantized numbers, so its rates are NaN.
    window: frames of the transform code's window, at most what the shortest piece holds. Rates that are not above 0 and
    finite are left out.
    """
    from raycal.metrics.classical import GROUPS, PATCH, Classical

    codes = Classical(dataset, part, min(window, dataset.window))
    found = {f"PCA {n}": {**codes.pca(n), "asked": math.nan, "bits_per_second": math.nan}
             for n in PCA_AXES if n < max(dataset.n_neurons)}
    for rate in dict.fromkeys(float(r) for r in rates if 0 < r < math.inf):
        figures = {"transform code": codes.transform(rate)}
        frames = codes.kmeans_frames(rate)
        if frames:
            figures["k-means"] = codes.kmeans(rate)
        if frames < PATCH:  # one codebook would code less than a VQ-VAE's patch
            figures["residual k-means"] = codes.residual_kmeans(rate)
            figures["grouped residual k-means"] = codes.residual_kmeans(rate, GROUPS)
        found.update({f"{name} at {rate:.4g} bits/s": {**values, "asked": rate}
                      for name, values in figures.items()})
    return found


def ridge_on_traces(dataset, lags: int = LAGS, part: str = "validation") -> dict[str, dict[str, float]]:
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
