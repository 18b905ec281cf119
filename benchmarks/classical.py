"""Classical codes on recordings, at 2.25, 14 and 56 bits a frame: what a searched model has to beat.

    python benchmarks/classical.py [PATH ...] [--part test] [--window 48]

Each recording is cut into five contiguous blocks in turn train, validation, train, test, train, with gaps of 8 s or
a window, whichever is more; without a path, two recordings are simulated. NMSE is about the train mean, 1 =
predicting the mean. k-means: 512 codes for 4 frames, and 56 bits for 4 frames as residual levels of 128 codes, alone
and in 4 groups, at their nominal rate. Transform code: principal axes, cosines over the window, code length under a
Laplace model; "plain" with scales measured on the frames that the axes were fitted on, else cross-fitted. A recording
that states no rate is taken as 1 Hz. The last line is JSON: every figure by recording, and the seconds it took.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence

import common  # noqa: F401  (a checkout need not be installed)
import numpy as np

from raycal import config
from raycal.metrics.classical import GROUPS, Classical
from raycal.sessions.prepare import Dataset, prepare
from raycal.sessions.readers import read
from raycal.sessions.session import Session
from raycal.sessions.simulate import simulate

BLOCKS = ("train", "validation", "train", "test", "train")
COLUMNS = ("PCA 8", "PCA 32", "k-means 2.25", "transform 2.25", "plain 2.25", "residual 14", "grouped 14",
           "transform 14", "plain 14", "transform 56", "plain 56")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="recordings; none: simulated ones")
    parser.add_argument("--part", default="test", choices=("validation", "test"))
    parser.add_argument("--window", type=int, default=48, help="frames")
    args = parser.parse_args()
    print(f"{'recording':<36}{'train':>6}" + "".join(f"{name:>{len(name) + 2}}" for name in COLUMNS), flush=True)
    found, began = {}, time.perf_counter()
    for session in sessions(args.paths):
        figures = measure(five_blocks(session, args.window), args.part, args.window)
        found[session.id] = figures
        row = "".join(f"{figures[name]:>{len(name) + 2}.2f}" for name in COLUMNS)
        print(f"{session.id[:35]:<36}{figures['train frames']:>6}{row}", flush=True)
    rounded = {id: {k: round(v, 4) for k, v in figures.items()} for id, figures in found.items()}
    print(json.dumps({"part": args.part, "window": args.window, "seconds": round(time.perf_counter() - began, 1),
                      "recordings": rounded}))


def sessions(paths: Sequence[str]) -> Iterator[Session]:
    if not paths:
        yield from (simulate(n, 3000, 10.0, seed=seed, id=f"simulated {n} neurons").session
                    for seed, n in enumerate((40, 120)))
    for path in paths:
        given = read(path)
        yield from given if isinstance(given, list) else [given]


def five_blocks(session: Session, window: int) -> Dataset:
    """Return the session split into BLOCKS by masks of its own."""
    gap = max(window, math.ceil(8.0 * session.rate - 1e-6) if math.isfinite(session.rate) else 0)
    share = (session.n_frames - (len(BLOCKS) - 1) * gap) / len(BLOCKS)
    masks = {part: np.zeros(session.n_frames, bool) for part in BLOCKS}
    for i, part in enumerate(BLOCKS):
        first = round(i * (share + gap))
        masks[part][first:first + int(share)] = True
    settings = config.Sessions(split="file", rate=1.0, nan="mask")
    return prepare([dataclasses.replace(session, masks=masks)], settings, window, tuple(masks), log=lambda _: None)


def measure(dataset: Dataset, part: str, window: int) -> dict[str, float]:
    """Return the NMSE of every column, and the train frames."""
    codes, plain = Classical(dataset, part, window), Classical(dataset, part, window, folds=1)
    (recording,) = dataset.recordings
    hz = recording.rate
    found = {"train frames": sum(b - a for a, b in recording.pieces["train"]),
             "PCA 8": codes.pca(8), "PCA 32": codes.pca(32), "k-means 2.25": codes.kmeans(2.25 * hz),
             "residual 14": codes.residual_kmeans(14 * hz), "grouped 14": codes.residual_kmeans(14 * hz, GROUPS)}
    for bits in (2.25, 14, 56):
        found[f"transform {bits}"], found[f"plain {bits}"] = codes.transform(bits * hz), plain.transform(bits * hz)
    return {name: figures["nmse"] if isinstance(figures, dict) else figures for name, figures in found.items()}


if __name__ == "__main__":
    main()
