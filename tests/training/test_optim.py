from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch

from raycal.config import Config, Optimizer
from raycal.models import quantizers
from raycal.training.optim import Updater, build


class Part(NamedTuple):
    traces: torch.Tensor


class Regression(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 4))

    def loss(self, batch):
        x = torch.cat([part.traces for part in batch])
        value = (self.layers(x) - x).square().mean()
        return value, {"reconstruction": value}


def updater(model, **settings):
    config = Config().replace({f"optimizer.{k}": v for k, v in settings.items()})
    return Updater(model, config, torch.device("cpu"))


def gradients(batches) -> list[torch.Tensor]:
    """The step of plain gradient descent at rate 1, with the sign turned."""
    model = Regression()
    before = [p.detach().clone() for p in model.parameters()]
    step = updater(model, name="sgd", clip=0.0, weight_decay=0.0)
    step.optimizer.param_groups[0]["nesterov"] = step.optimizer.param_groups[1]["nesterov"] = False
    step(model.loss, batches, 1.0)
    return [b - p.detach() for b, p in zip(before, model.parameters())]


@pytest.mark.parametrize("cut", [8, 5])
def test_two_parts_of_a_batch_give_the_gradient_of_the_whole(cut):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    whole = gradients([[Part(x)]])
    parts = gradients([[Part(x[:cut])], [Part(x[cut:])]])
    for a, b in zip(whole, parts):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_terms_come_with_the_windows_they_are_means_of():
    model, x = Regression(), torch.ones(6, 4)
    wanted = model.loss([Part(x)])[0].item()
    parts = updater(model)(model.loss, [[Part(x[:2])], [Part(x[2:])]], 0.0)
    assert [n for n, _ in parts] == [2, 4]
    assert sum(n * terms["loss"].item() for n, terms in parts) / 6 == pytest.approx(wanted, rel=1e-6)
    assert all(terms["reconstruction"].item() == pytest.approx(terms["loss"].item()) for _, terms in parts)
    assert not any(term.requires_grad for _, terms in parts for term in terms.values())


def test_decay_skips_biases_gains_and_codes():
    codes = quantizers.build(Config().replace({"quantizer.type": "vq"}).quantizer)
    model = torch.nn.ModuleDict({"net": Regression(), "quantizer": codes})
    decayed, free = build(model, Optimizer(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0.0
    assert {tuple(p.shape) for p in decayed["params"]} == {(8, 4), (4, 8)}
    assert any(p is next(codes.parameters()) for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_clip_bounds_the_step():
    model, x = Regression(), 1e3 * torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    step = updater(model, name="sgd", clip=0.5, weight_decay=0.0)
    for group in step.optimizer.param_groups:
        group["nesterov"] = False
    step(model.loss, [[Part(x)]], 1.0)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_every_optimizer_learns_and_goes_on_from_its_state(name):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    a, b = Regression(), Regression()
    first, second = updater(a, name=name), updater(b, name=name)
    start = a.loss([Part(x)])[0].item()
    for _ in range(3):
        first(a.loss, [[Part(x)]], 0.01)
    b.load_state_dict(a.state_dict())
    second.load_state_dict(first.state_dict())
    for model, step in ((a, first), (b, second)):
        step(model.loss, [[Part(x)]], 0.01)
    assert a.loss([Part(x)])[0].item() < start
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_the_rate_is_set_in_every_group():
    model = Regression()
    step = updater(model)
    step(model.loss, [[Part(torch.ones(2, 4))]], 0.123)
    assert {g["lr"] for g in step.optimizer.param_groups} == {0.123}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_on_a_cpu_precision_changes_nothing(precision):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    results = []
    for p in ("float32", precision):
        model = Regression()
        step = Updater(model, Config().replace({"training.precision": p}), torch.device("cpu"))
        step(model.loss, [[Part(x)]], 0.01)
        results.append([q.detach().clone() for q in model.parameters()])
    assert all(itertools.starmap(torch.equal, zip(*results)))
