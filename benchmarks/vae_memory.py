"""Peak memory that a training step of the VAE takes, against the number of neurons and against a naive decoder.

    python benchmarks/vae_memory.py [--windows 8] [--frames 100] [--width 64]

Every measurement is a process of its own: the growth of its peak resident memory over a forward and backward pass, the
smallest of the passes before it (4 neurons) having loaded all code. `step` is the loss of the whole model, `decoder`
its decoder alone, `naive` a decoder that joins hidden vector and identity for every frame and neuron, (B, T, N, H + E),
before two layers: as published (urlicht/CeNeuroVAE, model/vae.py), at the same width. `linear` is how many times the
memory grows from the least to the most neurons over how many times the neurons do.
"""
from __future__ import annotations

import argparse
import multiprocessing
import resource

import common
import torch
from torch import nn

NEURONS = (150, 300, 600)


class Naive(nn.Module):
    """The decoder whose memory is that of every hidden vector of every neuron of every frame."""

    def __init__(self, latents: int, width: int, identity: int, n_neurons: int):
        super().__init__()
        self.identities = nn.Parameter(torch.randn(n_neurons, identity))
        self.hidden = nn.Sequential(nn.Linear(latents, width), nn.GELU(), nn.Linear(width, width))
        self.out = nn.Sequential(nn.Linear(width + identity, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        shape = (*latents.shape[:2], len(self.identities), -1)
        hidden = self.hidden(latents)[:, :, None].expand(shape)
        return self.out(torch.cat((hidden, self.identities.expand(shape)), -1)).squeeze(-1).mT


def passes(what: str, n_neurons: int, windows: int, frames: int, width: int):
    """Return a function that does one forward and one backward pass."""
    from raycal import models
    from raycal.config import Config
    from raycal.sessions.windows import Part

    config = Config().replace({"model.family": "vae", "model.downsample": 1, "model.width": width,
                               "search.objective": "cosmoothing_r2", "windows.length": frames})
    torch.manual_seed(0)
    latents = torch.randn(windows, frames, config.vae.latents, requires_grad=True)
    if what == "naive":
        naive = Naive(config.vae.latents, width, config.vae.identity, n_neurons)
        return lambda: naive(latents).square().mean().backward()
    model = models.build(config, [n_neurons], 3)
    if what == "decoder":
        return lambda: model.decode(latents, 0).square().mean().backward()
    part = Part(0, torch.randn(windows, n_neurons, frames), torch.randn(windows, 3, frames), None)
    return lambda: model.loss([part])[0].backward()


def growth(what: str, n_neurons: int, shape: tuple[int, int, int], pipe) -> None:
    """Send the bytes by which the peak grows."""
    torch.set_num_threads(1)
    passes(what, 4, *shape)()
    made = passes(what, n_neurons, *shape)
    before = peak()
    made()
    pipe.send(peak() - before)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(what: str, n_neurons: int, shape: tuple[int, int, int]) -> int:
    context = multiprocessing.get_context("spawn")  # a fork would begin with the peak of this process
    ours, theirs = context.Pipe()
    process = context.Process(target=growth, args=(what, n_neurons, shape, theirs))
    process.start()
    found = ours.recv()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    args = parser.parse_args()
    shape = (args.windows, args.frames, args.width)
    result: dict[str, float] = {}
    print(f"{'neurons':>8}{'step, MiB':>12}{'decoder, MiB':>14}{'naive, MiB':>12}")
    for n in NEURONS:
        found = {what: measured(what, n, shape) / 2**20 for what in ("step", "decoder", "naive")}
        print(f"{n:8d}{found['step']:12.1f}{found['decoder']:14.1f}{found['naive']:12.1f}", flush=True)
        result |= {f"{what}_{n}": value for what, value in found.items()}
    least, most = NEURONS[0], NEURONS[-1]
    result["linear"] = result[f"step_{most}"] / result[f"step_{least}"] / (most / least)
    result["step_of_naive"] = result[f"step_{most}"] / result[f"naive_{most}"]
    result["decoder_of_naive"] = result[f"decoder_{most}"] / result[f"naive_{most}"]
    common.finish(result)


if __name__ == "__main__":
    main()
