"""How well a small flow generates windows of a recording, beside classical generators and windows spoilt on purpose.

    python benchmarks/generation.py RECORDING [--core dit] [--seconds 120] [--window 32] [--rate HZ] [--set key=value]

The recording is prepared as a search does it; the network is trained on one thread of the CPU on random windows of the
train part for so long, its weights averaged, and judged on the validation part, both where its loss there was least
and at the end. Printed are the generation score with its groups (1: as near to the held-out windows as real train
windows are), the AUC of a classifier against held-out windows (that of real train windows is what drift makes), the
share of copied windows and the ratio of distances to train and to held-out windows. Behaviour is decoded from windows
that the last weights drew for the held-out behaviour. Nothing was searched, and the test part is not read.
"""
from __future__ import annotations

import argparse
import copy
import math
import time

import common
import numpy as np
import torch

import raycal
from raycal.config import Config, parse_set
from raycal.metrics.blocks import evenly
from raycal.metrics.conditional import decoded_behavior
from raycal.metrics.generation import GROUPS, Yardstick
from raycal.metrics.generators import Autoregression, Gaussian
from raycal.metrics.memorisation import memorisation
from raycal.metrics.two_sample import c2st
from raycal.models.denoiser import Denoiser
from raycal.models.dit import DiT
from raycal.models.flow.objective import Objective
from raycal.models.flow.process import Process
from raycal.models.flow.times import LogitNormal
from raycal.models.flow.wiener import Wiener
from raycal.models.traceflow import Drawing, TraceFlow
from raycal.models.unet import UNet
from raycal.sessions.prepare import prepare
from raycal.sessions.windows import Part, WindowSampler
from raycal.training.ema import WeightEMA

WIDTH, EMBEDDING, BATCH = 64, 128, 32
EVERY = 2  # epochs between measurements of the held-out loss
CORES = {"dit": lambda dropout: DiT(WIDTH, 3, 4, embedding=EMBEDDING, dropout=dropout),
         "unet": lambda dropout: UNet(32, (1, 2), 1, 4, embedding=EMBEDDING, dropout=dropout)}
MOST = {"train": 600, "validation": 200}  # windows, evenly spaced over every offset


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    settings = Config().replace({"windows.length": arguments.window, "windows.batch": BATCH,
                                 "sessions.rate": arguments.rate, **dict(parse_set(s) for s in arguments.set)})
    dataset = prepare(raycal.read(arguments.recording), settings.sessions, arguments.window, log=lambda _: None)
    [recording] = dataset.recordings
    train, held_out = (windows(dataset, recording, part, arguments.window) for part in MOST)
    yardstick = Yardstick.of(train.traces.numpy(), held_out.traces.numpy(), recording.rate)
    print(f"{recording.id}: {len(recording.neurons)} neurons, {recording.rate:.3g} Hz, windows of {arguments.window}: "
          f"{len(train.traces)} train, {len(held_out.traces)} held out")
    print("floor: " + ", ".join(f"{name} {value:.3g}" for name, value in yardstick.floor.items()))
    flow, start, best, figures = trained(dataset, settings, arguments, train, held_out)
    print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    table = classical(train.traces.numpy(), yardstick, arguments.window)
    table["untrained"] = start.numpy()
    table[f"{arguments.core}, last"] = flow.draw(yardstick.n_windows, arguments.window).numpy()
    drawn = {f"guidance {g:g}": flow.draw(len(held_out.traces), arguments.window, 0, held_out.behavior,
                                          Drawing(guidance=g)) for g in (0.0, 1.0, 2.0) if dataset.behavior_names}
    flow.load_state_dict(best)
    table[f"{arguments.core}, best"] = flow.draw(yardstick.n_windows, arguments.window).numpy()
    rows = {name: row(x, yardstick, train.traces.numpy(), held_out.traces.numpy(), recording)
            for name, x in table.items()}
    print_rows(rows)
    figures["decoded"] = decoded(dataset, train, held_out, drawn) if drawn else {}
    common.finish({"recording": recording.id, "core": arguments.core, **figures, "rows": rows})


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording")
    parser.add_argument("--core", choices=tuple(CORES), default="dit")
    parser.add_argument("--seconds", type=float, default=120.0, help="CPU time of the training")
    parser.add_argument("--window", type=int, default=32, help="frames")
    parser.add_argument("--rate", type=float, default=0.0, help="Hz, for recordings that state none")
    parser.add_argument("--no-base", action="store_true", help="start from nothing, not from the linear denoiser")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def windows(dataset, recording, part: str, length: int) -> Part:
    """Return windows of a part at evenly spaced offsets, in time order."""
    starts = np.concatenate([np.arange(a, b - length + 1) for a, b in recording.pieces[part]])
    starts = starts[evenly(len(starts), MOST[part])]
    rows = starts[:, None] + np.arange(length)
    center, spread = recording.scalers["zscore"]
    traces = np.swapaxes((recording.traces[rows] - center) / spread, 1, 2)
    behavior = (recording.behavior[rows] - recording.behavior_center) / recording.behavior_spread
    return Part(0, torch.from_numpy(traces.copy()), torch.from_numpy(np.swapaxes(behavior, 1, 2).copy()), None)


def trained(dataset, settings: Config, arguments, train: Part, held_out: Part):
    """Return the trained model, windows drawn before, the weights of least held-out loss, and how it went.

    All weights that are judged or returned are averaged ones.
    """
    torch.manual_seed(0)
    width = WIDTH if arguments.core == "dit" else 32
    base = None if arguments.no_base else Wiener(Process(), dataset.n_neurons, arguments.window)
    if base:
        base.fit(0, train.traces)
    network = Denoiser(CORES[arguments.core](arguments.dropout), dataset.n_neurons, len(dataset.behavior_names), width,
                       EMBEDDING, base=base)
    flow = TraceFlow(network, Objective(times=LogitNormal()), 0.2)
    start = flow.draw(min(len(train.traces), len(held_out.traces)), arguments.window)
    figures = {"parameters": sum(p.numel() for p in network.parameters()), "untrained": flow.held_out_loss([held_out])}
    least = figures["untrained"], 0, copy.deepcopy(flow.state_dict())
    optimizer = torch.optim.AdamW(flow.parameters(), arguments.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    ema, sampler = WeightEMA(flow, 0.998), WindowSampler(dataset, settings.windows, "zscore")
    began, steps, epoch, share = time.process_time(), 0, 0, 0.0
    while share < 1.0:
        for batch in sampler.epoch(epoch, 0):
            share = (time.process_time() - began) / arguments.seconds
            for group in optimizer.param_groups:
                group["lr"] = arguments.lr * min(1.0, (steps + 1) / 100) * (0.05 + 0.95 * max(0.0, 1.0 - share))
            flow.loss(batch)[0].backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.update()
            steps += 1
        epoch += 1
        if epoch % EVERY == 0 or share >= 1.0:
            with ema.swapped():
                averaged, loss = copy.deepcopy(flow.state_dict()), flow.held_out_loss([held_out])
            if loss < least[0]:
                least = loss, steps, averaged
    flow.load_state_dict(averaged)
    return flow, start, least[2], {**figures, "steps": steps, "last": loss, "best": least[0], "best step": least[1]}


def classical(train: np.ndarray, yardstick: Yardstick, length: int) -> dict[str, np.ndarray]:
    """Return windows of classical generators, and spoilt ones that a score has to tell from real."""
    n, rng = yardstick.n_windows, np.random.default_rng(0)
    real = train[rng.permutation(len(train))[:n]]
    return {"train windows": real, "Gaussian": Gaussian.fit(train).sample(n),
            "autoregression": Autoregression.fit(train, gap=length).sample(n, length),
            "white noise": rng.standard_normal(real.shape),
            "frames shuffled": np.stack([w[:, rng.permutation(length)] for w in real]),
            "neurons shuffled": real[:, rng.permutation(real.shape[1])], "1.5 times": 1.5 * real}


def row(x: np.ndarray, yardstick: Yardstick, train: np.ndarray, held_out: np.ndarray, recording) -> dict[str, float]:
    scores, copies = yardstick.score(x), memorisation(x, train, held_out)
    pieces = recording.pieces["validation"]  # a fold each: what is tested has no neighbour among what is fitted on
    told = c2st(x, held_out[evenly(len(held_out), len(x))], len(pieces)) if len(pieces) > 1 else math.nan
    return {"score": scores.score, **scores.groups, "c2st": told, "copied": copies.copied, "ratio": copies.ratio}


def print_rows(rows: dict[str, dict[str, float]]) -> None:
    columns = ("score", *GROUPS, "c2st", "copied", "ratio")
    print(" " * 17 + "".join(f"{c:>12}" for c in columns))
    for name, values in rows.items():
        print(f"{name:<17}" + "".join(f"{values[c]:12.2f}" for c in columns))


def decoded(dataset, train: Part, held_out: Part, drawn: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    out = {}
    for name, x in drawn.items():
        found = decoded_behavior((train.traces.numpy(), train.behavior.numpy()), x.numpy(), held_out.traces.numpy(),
                                 held_out.behavior.numpy())
        out["real windows"] = dict(zip(dataset.behavior_names, found.real.tolist()))
        out[name] = dict(zip(dataset.behavior_names, found.generated.tolist()))
    print("\nR2 of behaviour decoded by ridge from" + "".join(f"{n:>20}" for n in dataset.behavior_names))
    for name, values in out.items():
        print(f"{name:<37}" + "".join(f"{v:20.2f}" for v in values.values()))
    return out


if __name__ == "__main__":
    main()
