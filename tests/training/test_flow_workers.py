"""What is done to train a large generative model changes no loss: workers, accumulation, activations computed twice."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from raycal import models
from raycal.config import Config
from raycal.models.flow.objective import Objective
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate
from raycal.sessions.windows import WindowSampler
from raycal.training import loop

L = 16
SETTINGS = {"model.family": "diffusion", "search.objective": "generation", "model.width": 16, "model.downsample": 2,
            "model.dropout": 0.0, "diffusion.heads": 2, "diffusion.embedding": 16, "diffusion.evaluations": 2,
            "diffusion.guidance_dropout": 0.0, "windows.length": L, "windows.min_steps": 4, "windows.batch": 16,
            "windows.stride": 64, "training.epochs": 2, "optimizer.ema": 0.9, "training.device": "cpu"}


def drawn(self, traces, generator=None):
    """Times and noise that follow from the windows alone: what a worker draws must not depend on who has them."""
    first = traces.flatten(1)[:, :8].double()
    t = torch.sigmoid(first.sum(1)).float()
    return t, torch.stack([torch.randn(traces.shape[1:], generator=torch.Generator().manual_seed(int(1e6 * abs(x))))
                           for x in first.sum(1).tolist()])


@pytest.fixture(scope="module")
def dataset():
    session = simulate(n_neurons=9, n_frames=1500, rate=5.0, seed=1, id="s").session
    return prepare([session], Config().sessions, L, log=lambda _: None)


def losses(dataset, monkeypatch, **changes):
    monkeypatch.setattr(Objective, "draw", drawn)
    return [e.metrics["train/loss"] for e in loop.train(Config().replace({**SETTINGS, **changes}), dataset)]


def test_accumulated_batches_count_as_one(dataset, monkeypatch):
    """Four batches of 4 make the step of one of 16; the windows that are drawn for them are the same."""
    config, seen = Config().replace(SETTINGS), []
    for changes in ({}, {"windows.batch": 4, "windows.min_steps": 16, "optimizer.accumulate": 4}):
        sampler = WindowSampler(dataset, config.replace(changes).windows, "zscore")
        seen.append(torch.cat([p.traces for batch in sampler.epoch(0, 0) for p in batch]))
    assert torch.equal(*seen)
    whole = losses(dataset, monkeypatch)
    parts = losses(dataset, monkeypatch, **{"windows.batch": 4, "windows.min_steps": 16, "optimizer.accumulate": 4})
    assert parts == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("core", ["unet", "dit"])
def test_activations_that_are_computed_twice_give_the_same_gradients(core, dataset, monkeypatch):
    monkeypatch.setattr(Objective, "draw", drawn)
    found = []
    for twice in (0, 1):
        torch.manual_seed(0)
        config = Config().replace({**SETTINGS, "diffusion.core": core, "diffusion.checkpointing": twice})
        model = models.build(config, dataset.n_neurons, 2).train()
        with torch.no_grad():
            for p in model.network.read_out.parameters():
                p.add_(0.1)
        batch = next(iter(WindowSampler(dataset, config.windows, "zscore").epoch(0, 0)))
        calls: list = []
        block = next(m for n, m in model.network.core.named_modules() if type(m).__name__ == "Block")
        block.register_forward_pre_hook(lambda *_: calls.append(1))
        model.loss(batch)[0].backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
        assert len(calls) == 1 + twice
    assert len(found[0]) == len(found[1]) > 10
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


WORKER = """
    import sys, json, importlib.util, torch, torch.distributed as dist
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("shared", sys.argv[5])
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    from raycal.config import Config
    from raycal.models.flow.objective import Objective
    from raycal.sessions.prepare import prepare
    from raycal.sessions.simulate import simulate
    from raycal.training import checkpoint
    from raycal.training.loop import train

    Objective.draw = shared.drawn
    rank, world, folder, changes = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    resume = changes.pop("resume", None)
    config = Config().replace({**shared.SETTINGS, **changes})
    sessions = [simulate(n_neurons=9, n_frames=1500, rate=5.0, seed=s, id=f"s{s}").session for s in range(2)]
    saved = []
    epochs = list(train(config, prepare(sessions, config.sessions, 16, log=lambda _: None), rank=rank, world=world,
                        resume=checkpoint.load(resume) if resume else None, save=saved.append))
    if rank == 0:
        for epoch, state in enumerate(saved, 1):
            checkpoint.save(f"{folder}/{epoch}.pt", state)
    print(json.dumps([{k: v for k, v in e.metrics.items() if k != "seconds"} for e in epochs]))
    if world > 1:
        dist.destroy_process_group()
"""


@pytest.fixture
def trained(tmp_path):
    """Train on so many workers at once; return the metrics of every epoch, the same of all workers."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    def start(name, world, **changes):
        folder = tmp_path / name
        folder.mkdir()
        return [subprocess.Popen([sys.executable, str(script), str(rank), str(world), str(folder), json.dumps(changes),
                                  __file__], stdout=subprocess.PIPE, text=True, env=environment)
                for rank in range(world)]

    def metrics(started):
        first, *others = (json.loads(p.communicate(timeout=280)[0].splitlines()[-1]) for p in started)
        assert all(other == first for other in others)
        return first

    return start, metrics


def alike(found, expected):
    for two, one in zip(found, expected, strict=True):
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)
        assert two["val/flow"] == pytest.approx(one["val/flow"], rel=1e-3)
        assert np.isfinite(two["val/generation"])


def test_two_workers_have_the_loss_of_one_with_weights_spread_or_not(trained, tmp_path):
    """Sessions of one size, so that every worker's share weighs the same."""
    start, metrics = trained
    alone, two, spread = start("alone", 1), start("two", 2), start("spread", 2, **{"training.shard": 1})
    alone, two, spread = map(metrics, (alone, two, spread))
    alike(two, alone)
    alike(spread, alone)
    whole, parts = (torch.load(tmp_path / name / "1.pt", weights_only=True) for name in ("alone", "spread"))
    assert {k: v.shape for k, v in parts["model"].items()} == {k: v.shape for k, v in whole["model"].items()}


@pytest.mark.slow
def test_what_spread_weights_saved_goes_on_with_another_number_of_workers(trained, tmp_path):
    start, metrics = trained
    batch = {"windows.batch": 12}  # which 1, 2 and 3 workers share evenly
    whole = metrics(start("spread", 2, **batch, **{"training.shard": 1}))
    more = {**batch, "resume": str(tmp_path / "spread" / "1.pt")}
    alone, three = start("alone", 1, **more), start("three", 3, **more, **{"training.shard": 1})
    alike(metrics(alone), whole[1:])
    alike(metrics(three), whole[1:])
