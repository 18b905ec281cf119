"""The models beside classical codes at equal measured rate, on held-out blocks of recordings.

    python benchmarks/coding.py [PATH ...] [--bits 2.25 14] [--epochs 9]

Split as in benchmarks/classical.py: five blocks in turn train, validation, train, test, train. Two configurations are
trained at each rate with nothing searched: the default of --space transform, and codebooks as S1 has them (512 codes
for 4 frames at 2.25 bits a frame, 4 groups x 2 levels of 128 at 14) with the linear path of --space grvq. The epoch is
chosen on validation, NMSE is of the test block; classical codes are asked for the rate that the model was measured to
take there: the code length of a transform code, the entropy of the indices of codebooks. A ratio below 1: the model
is better. The last line is JSON.
"""
from __future__ import annotations

import argparse
import json
import statistics
import time

import common  # noqa: F401  (a checkout need not be installed)
import torch
from classical import five_blocks, sessions

from raycal import api, models
from raycal.config import Config
from raycal.metrics.classical import GROUPS, Classical
from raycal.training.evaluate import evaluate
from raycal.training.loop import train

WINDOW = 48
CODEBOOKS = {2.25: {"quantizer.type": "ema", "quantizer.codebook_size": 512},
             14.0: {"quantizer.type": "grvq", "quantizer.codebook_size": 128}}
RIVALS = ("transform code", "residual k-means", "grouped residual k-means")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="recordings; none: simulated ones")
    parser.add_argument("--bits", nargs="*", type=float, default=list(CODEBOOKS), help="a frame", choices=CODEBOOKS)
    parser.add_argument("--epochs", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'recording':<32}{'bits':>6}{'model':>11}{'epoch':>6}{'bits':>7}{'NMSE':>7}"
          + "".join(f"{'/ ' + name:>27}" for name in RIVALS), flush=True)
    rows, began = [], time.perf_counter()
    for session in sessions(args.paths):
        dataset = five_blocks(session, WINDOW)
        codes = Classical(dataset, "test", WINDOW)
        for bits in args.bits:
            for name, config in configurations(bits, args.epochs).items():
                row = {"recording": session.id, "bits": bits, "model": name, **measured(dataset, config, codes)}
                rows.append(row)
                print(f"{session.id[:31]:<32}{bits:>6g}{name:>11}{row['epoch']:>6}{row['measured']:>7.2f}"
                      f"{row['nmse']:>7.3f}" + "".join(f"{row[rival]:>27.3f}" for rival in RIVALS), flush=True)
    print(json.dumps({"seconds": round(time.perf_counter() - began), **summary(rows), "rows": rows}))


def configurations(bits: float, epochs: int) -> dict[str, Config]:
    shared = {"windows.length": WINDOW, "sessions.split": "file", "sessions.nan": "mask", "training.epochs": epochs}
    transform, grvq = (api.configure(space, {}, {})[1] for space in ("transform", "grvq"))
    return {"transform": transform.replace({**shared, "quantizer.bits": bits}),
            "codebooks": grvq.replace({**shared, **CODEBOOKS[bits]})}


def measured(dataset, config: Config, codes: Classical) -> dict[str, float]:
    """Train, and return the test NMSE, the rate in bits a frame, and the ratios to the classical codes at that rate."""
    final: dict = {}
    for _ in train(config, dataset, save=final.update):
        pass
    model = models.build(config, dataset.n_neurons, len(dataset.behavior_names))
    model.load_state_dict(final["best"]["model"])
    found = evaluate(model, dataset, config, "test")
    rate, nmse = found["test/bits_per_second"], found["test/nmse"]
    rivals = (codes.transform(rate), codes.residual_kmeans(rate), codes.residual_kmeans(rate, GROUPS))
    ratios = {name: round(nmse / rival["nmse"], 4) for name, rival in zip(RIVALS, rivals)}
    return {"epoch": final["best"]["epoch"], "measured": round(rate / dataset.recordings[0].rate, 3),
            "nmse": round(nmse, 4), **ratios}


def summary(rows: list[dict]) -> dict[str, float]:
    """Return the median ratio of each model to each classical code, and in how many rows it is at most 1."""
    found = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        for rival in RIVALS:
            ratios = [row[rival] for row in rows if row["model"] == model]
            key = f"{model}_to_{rival.replace(' ', '_').replace('-', '')}"
            found[f"{key}_median"] = round(statistics.median(ratios), 3)
            found[f"{key}_no_worse"] = f"{sum(r <= 1 for r in ratios)} of {len(ratios)}"
    return found


if __name__ == "__main__":
    main()
