"""What the quantizers cost beside vector-quantize-pytorch, alone and within a training step of the full-size model.

    python benchmarks/quantizers.py [--rounds 7]

Like for like: one thread, float32, training mode; moving averages without revival, straight-through gradients,
commitment 0.25, in both. A step is forward, backward and the update of the codes; the whole step adds the model of
150 neurons (batch of 32 windows of 48 frames, width 128), gradient clipping and AdamW. Both sides alternate in one
process and are timed in CPU seconds, so that the load of others hits both; a speedup is the median over the rounds
of theirs / ours, and over B = 32, 64, 256 windows of 12 latents of 64 dimensions (whole steps: B = 32). grvq is 2
groups of 4 levels, grvq_4x2 4 groups of 2. Both sides give the same codes (tests/models/quantizers/test_library.py).
"""
from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import time

import common
import torch
import vector_quantize_pytorch as library
from torch import Tensor, nn

from raycal import models
from raycal.config import Config
from raycal.models import quantizers
from raycal.models.quantizers.base import Quantized
from raycal.sessions.windows import Part
from raycal.training.optim import Updater

DIM, STEPS = 64, 12
WINDOWS, SIZES = (32, 64, 256), (512, 2048)
SHAPES = {"ema": {}, "grvq": {"quantizer.groups": 2, "quantizer.levels": 4},
          "grvq_4x2": {"quantizer.groups": 4, "quantizer.levels": 2}}
BURST = 0.02  # CPU s that one side is timed for at a time, at least
BASE = Config().replace({
    "quantizer.code_dim": DIM, "quantizer.revive": 0.0, "quantizer.init": "batch", "model.width": 128,
    "model.residual_width": 64, "model.residual_blocks": 2, "windows.length": 4 * STEPS, "training.device": "cpu"})


class Library(nn.Module):
    """The library's quantizer behind raycal's interface."""

    def __init__(self, settings):
        super().__init__()
        options = {"codebook_size": settings.codebook_size, "decay": settings.decay, "rotation_trick": False,
                   "threshold_ema_dead_code": 0, "commitment_weight": settings.commitment, "dim": settings.code_dim}
        self.inner = library.VectorQuantize(**options) if settings.type == "ema" else \
            library.GroupedResidualVQ(groups=settings.groups, num_quantizers=settings.levels, **options)

    def forward(self, z: Tensor, session: Tensor | None = None) -> Quantized:
        quantized, indices, loss = self.inner(z)
        if indices.ndim == 4:  # (G, B, L, R)
            indices = indices.permute(1, 2, 0, 3).flatten(2)
        return Quantized(quantized, indices, loss.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="pairs of a measurement, thrice as many of a whole step")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; torch {torch.__version__}, "
          f"vector-quantize-pytorch {importlib.metadata.version('vector-quantize-pytorch')}", flush=True)
    print(f"{'':<27}{'B':>5}{'raycal ms':>11}{'library ms':>12}{'speedup':>9}")
    result = {}
    for kind, shape in SHAPES.items():
        config = BASE.replace({"quantizer.type": kind.split("_")[0], **shape})
        for size in SIZES:
            sized = config.replace({"quantizer.codebook_size": size})
            speedups = [alone(f"{kind} K={size}", sized, windows, rounds) for windows in WINDOWS]
            result[f"{kind}_k{size}_speedup"] = statistics.median(speedups)
        sized = config.replace({"quantizer.codebook_size": SIZES[0]})
        result[f"{kind}_step_speedup"] = whole(f"{kind} K={SIZES[0]} whole step", sized, WINDOWS[0], 3 * rounds)
    common.finish(result)


def alone(name: str, config: Config, windows: int, rounds: int) -> float:
    """Return the speedup of forward + backward + update of the quantizer itself."""
    z = torch.randn(windows, STEPS, DIM)

    def stepping(quantizer: nn.Module):
        def step() -> None:
            found = quantizer(z.requires_grad_())
            (found.quantized.square().mean() + found.loss).backward()
        return step

    sides = (quantizers.build(config.quantizer), Library(config.quantizer))
    return compare(name, windows, *map(stepping, sides), rounds=rounds)


def whole(name: str, config: Config, windows: int, rounds: int) -> float:
    """Return the speedup of a whole training step, with raycal's own optimizer on both sides."""
    batch = [Part(0, torch.randn(windows, 150, 4 * STEPS), torch.randn(windows, 2, 4 * STEPS), None)]

    def stepping(replace: bool):
        model = models.build(config, [150], 2)
        if replace:
            model.quantizer = Library(config.quantizer)
        update = Updater(model, config, torch.device("cpu"))
        return lambda: update(model.loss, [batch], 1e-3)

    return compare(name, windows, stepping(False), stepping(True), rounds=rounds)


def compare(name: str, windows: int, ours, theirs, rounds: int) -> float:
    """Alternate the two and print a row; return the median ratio."""
    timed(ours), timed(theirs)  # the start of the codebooks, and what torch imports at its first step
    pairs = [(timed(ours), timed(theirs)) for _ in range(rounds)]
    speedup = statistics.median(b / a for a, b in pairs)
    a, b = (statistics.median(column) * 1e3 for column in zip(*pairs))
    print(f"{name:<27}{windows:>5}{a:>11.2f}{b:>12.2f}{speedup:>9.2f}", flush=True)
    return speedup


def timed(step) -> float:
    """Return CPU seconds a step, over as many as fill the burst."""
    begun, count = time.process_time(), 0
    while (spent := time.process_time() - begun) < BURST or not count:
        step()
        count += 1
    return spent / count


if __name__ == "__main__":
    main()
