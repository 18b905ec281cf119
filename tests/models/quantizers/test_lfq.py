import itertools
import math

import pytest
import torch

from raycal.config import Config
from raycal.models import quantizers
from raycal.models.quantizers.lfq import entropy_terms


def build(size, dim, **values):
    return quantizers.build(Config().replace({
        "quantizer.type": "lfq", "quantizer.codebook_size": size, "quantizer.code_dim": dim,
        **{f"quantizer.{k}": v for k, v in values.items()}}).quantizer)


@pytest.mark.parametrize("size, used", [(2, 2), (3, 2), (64, 64), (1000, 512), (1024, 1024)])
def test_the_codebook_is_the_power_of_two_below(size, used):
    assert build(size, 8).codebook_sizes == (used,) and build(size, 8).bits_per_code == math.log2(used)


def test_codes_are_signs_and_the_first_counts_most():
    out = build(8, 3)(torch.tensor([[[1.0, -2.0, 0.1], [-1.0, -1.0, 0.0], [0.1, 0.1, 0.1]]]))
    assert out.quantized.tolist() == [[[1, -1, 1], [-1, -1, -1], [1, 1, 1]]]
    assert out.indices.flatten().tolist() == [5, 0, 7]


def test_the_commitment_is_that_computed_by_hand():
    z = torch.tensor([[[0.5, -2.0]]], requires_grad=True)
    loss = build(4, 2, commitment=0.25, entropy=0.0)(z).loss
    assert loss.item() == 0.25 * (0.25 + 1.0) / 2
    assert torch.autograd.grad(loss, z)[0].tolist() == [[[0.25 * -0.5, 0.25 * -1.0]]]


def test_entropies_factor_into_those_of_the_softmax_over_all_codes():
    torch.manual_seed(0)
    x = 0.02 * torch.randn(40, 5, dtype=torch.float64)
    x.requires_grad_()
    codes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=5)), dtype=torch.float64)
    p = (2 * x @ codes.T / 0.01).softmax(-1)
    expected = -(p * p.clamp_min(1e-300).log()).sum(-1).mean() + (p.mean(0) * p.mean(0).log()).sum()
    found = entropy_terms(x)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    gradients = [torch.autograd.grad(value, x)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


def test_the_extremes_of_the_entropies():
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))
    assert entropy_terms(corners).item() == pytest.approx(-math.log(16), abs=1e-4)  # clear, and all in use
    assert entropy_terms(corners[:1].expand(9, 4)).item() == pytest.approx(0, abs=1e-3)  # clear, one in use
    assert entropy_terms(torch.zeros(9, 4)).item() == pytest.approx(0, abs=1e-5)  # all in use, none clear


def test_the_entropy_term_is_weighed_and_only_trains():
    z = torch.randn(2, 9, 4)
    weighed, plain = build(16, 4, entropy=0.3), build(16, 4, entropy=0.0)
    torch.testing.assert_close(weighed(z).loss, plain(z).loss + 0.3 * entropy_terms(z.flatten(0, 1)))
    assert torch.equal(weighed.eval()(z).loss, plain.eval()(z).loss)


def test_minimising_the_entropies_brings_all_codes_into_use():
    torch.manual_seed(0)
    z = (0.002 + 0.008 * torch.rand(1, 256, 4)).requires_grad_()
    model, optimizer = build(16, 4, entropy=1.0, commitment=0.0), torch.optim.SGD([z], lr=1e-2)
    assert len(model(z).indices.unique()) == 1
    for _ in range(300):
        optimizer.zero_grad()
        model(z).loss.backward()
        optimizer.step()
    assert len(model(z).indices.unique()) == 16


def test_bits_outside_float_range_stay_finite():
    z = torch.tensor([[[1e4, -1e4, 0.0, 1e-30]]]).requires_grad_()
    loss = build(16, 4)(z).loss
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()
