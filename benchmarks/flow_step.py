"""What a training step of a generative model costs: as it is, with its core compiled, with activations computed twice.

    python benchmarks/flow_step.py [--core unet] [--width 64] [--batch 64] [--length 64] [--precision bf16]

Each way is measured in a process of its own, on the CUDA device where there is one, else on one thread of the CPU:
windows a second, the median of steps after the first ones, and the peak memory that a step takes above the model's own
(on a CPU, of the process). "first" is how long the first steps took, which torch.compile needs for its work.
"""
from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time

import common
import torch

from raycal import models
from raycal.config import Config
from raycal.sessions.windows import Part
from raycal.training.optim import Updater

WAYS = {"plain": {}, "compiled": {"diffusion.compiled": 1}, "computed twice": {"diffusion.checkpointing": 1}}
WARM = 5  # steps that are not timed


def main() -> None:
    arguments = parsed()
    if arguments.way:
        print(json.dumps(measured(arguments)))
        return
    rows = {}
    for way in WAYS:
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--way", way], stdout=subprocess.PIPE,
                              text=True, check=True)
        rows[way] = json.loads(done.stdout.splitlines()[-1])
        print(f"{way:<16}" + "  ".join(f"{k} {v:.4g}" for k, v in rows[way].items()), flush=True)
    gain = rows["compiled"]["windows_per_second"] / rows["plain"]["windows_per_second"]
    print(f"compiled: {gain:.2f} times the windows a second")
    common.finish({"core": arguments.core, "device": "cuda" if torch.cuda.is_available() else "cpu", "gain": gain,
                   **{f"{way}: {k}": v for way, row in rows.items() for k, v in row.items()}})


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", choices=("unet", "dit"), default="unet")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="windows")
    parser.add_argument("--length", type=int, default=64, help="frames")
    parser.add_argument("--neurons", type=int, default=150)
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(arguments: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = Config().replace({
        "model.family": "diffusion", "search.objective": "generation", "model.downsample": 2,
        "model.width": arguments.width, "diffusion.core": arguments.core, "diffusion.depth": arguments.depth,
        "windows.length": arguments.length, "training.precision": arguments.precision, **WAYS[arguments.way]})
    model = models.build(config, [arguments.neurons], 2).to(device).train()
    update = Updater(model, config, device)
    part = Part(0, torch.randn(arguments.batch, arguments.neurons, arguments.length, device=device),
                torch.randn(arguments.batch, 2, arguments.length, device=device), None)
    gc.collect()
    before, began = memory(device), time.perf_counter()
    for _ in range(WARM):
        update(model.loss, [[part]], 1e-4)
    first, seconds = since(began, device), []
    for _ in range(arguments.steps):
        began = clock(device)
        update(model.loss, [[part]], 1e-4)
        seconds.append(clock(device) - began)
    return {"windows_per_second": arguments.batch / statistics.median(seconds), "first": first,
            "peak_mib": (memory(device) - before) / 2**20}


def clock(device: torch.device) -> float:
    """Return seconds, of this process' own time on a CPU: others may keep the cores busy."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def since(began: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def memory(device: torch.device) -> float:
    """Return the peak bytes so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
