import itertools
import math

import pytest
import torch

from raycal.config import Config
from raycal.models import quantizers
from raycal.models.quantizers import scalar_levels


def build(size, dim):
    return quantizers.build(Config().replace({"quantizer.type": "fsq", "quantizer.codebook_size": size,
                                              "quantizer.code_dim": dim}).quantizer)


@pytest.mark.parametrize("size, levels", [
    (3, (3,)), (4, (4,)), (7, (7,)), (9, (8,)), (12, (4, 3)), (16, (4, 4)), (64, (8, 8)), (100, (5, 5, 4)),
    (128, (5, 5, 5)), (256, (7, 6, 6)), (512, (8, 8, 8)), (1024, (8, 5, 5, 5)), (4096, (8, 8, 8, 8))])
def test_levels_of_known_sizes(size, levels):
    assert scalar_levels(size) == levels


def test_levels_never_exceed_the_size_and_come_near_it():
    for size in [*range(3, 600), 1000, 2047, 5000, 65536]:
        product = math.prod(scalar_levels(size))
        assert 0.75 * size <= product <= size and (size < 25 or product >= 0.85 * size)
        assert size < 125 or min(scalar_levels(size)) >= 4


def test_codes_of_an_odd_and_an_even_number_of_levels_are_those_computed_by_hand():
    model = build(20, 2)  # 5 x 4: -2 .. 2 over 2, and -2 .. 1 over 2
    assert model.levels.tolist() == [5, 4]
    z = torch.tensor([[[0.0, 0.0], [9.0, 9.0], [-9.0, -9.0], [0.3, 0.0]]])
    out = model(z)
    # tanh(0.3) * 2.002 = 0.583 rounds to 1; an even bound at 0 is tanh(atanh(0.5 / 1.5015)) * 1.5015 - 0.5 = 0
    assert out.quantized.tolist() == [[[0, 0], [1, 0.5], [-1, -1], [0.5, 0]]]
    assert out.indices.flatten().tolist() == [2 + 5 * 2, 4 + 5 * 3, 0, 3 + 5 * 2]
    assert out.loss == 0


def test_the_gradient_passes_the_rounding_and_is_that_of_the_bound():
    model = build(20, 2)
    z = torch.tensor([[[0.3, 0.4]]], requires_grad=True)
    out = model(z)
    found = torch.autograd.grad(out.quantized.sum(), z)[0].flatten()
    shift = math.atanh(0.5 / (1.5 * 1.001))
    expected = [(1 - math.tanh(0.3) ** 2) * 2.002 / 2, (1 - math.tanh(0.4 + shift) ** 2) * 1.5015 / 2]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_every_code_is_reached_and_stands_at_its_own_index():
    model = build(120, 3)  # 6 x 5 x 4
    sizes = model.levels.tolist()
    centres = [[(d - size // 2) for d in range(size)] for size in sizes]
    bounded = torch.tensor(list(itertools.product(*centres)), dtype=torch.float32)
    z = torch.atanh((bounded + model.offset) / model.reach) - model.shift
    out = model(z[None])
    assert sorted(out.indices.flatten().tolist()) == list(range(120))
    torch.testing.assert_close(out.quantized[0], bounded / model.middle)
    assert torch.equal(model.lookup(out.indices), out.quantized)


def test_maps_stand_between_where_dimensions_differ_and_only_there():
    assert not list(build(20, 2).parameters())
    model = build(125, 8)
    assert model.project_in.weight.shape == (3, 8) and model.project_out.weight.shape == (8, 3)
    model(torch.randn(2, 5, 8)).quantized.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
