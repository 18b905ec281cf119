import pytest
import torch

from raycal.metrics.transform_code import TransformCode
from raycal.models.quantizers import laplace

STEP = torch.tensor(0.7)


def drawn(scale, count=200_000):
    sign = torch.randint(0, 2, (count,)) * 2 - 1
    return sign * torch.empty(count).exponential_(1 / scale)


def test_values_within_two_thirds_of_a_step_are_zero_and_every_further_step_counts_one():
    x = torch.tensor([0.0, 0.66, -0.66, 0.67, -1.66, 1.67, 9.7]) * STEP
    assert laplace.integers(x, STEP).tolist() == [0, 0, 0, 1, -1, 2, 10]


@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0, 20.0])
def test_integers_centroids_and_bits_are_those_of_the_classical_code(scale):
    x = drawn(scale, 1000).view(10, 10, 10)
    code = TransformCode(None, torch.full((10, 10), scale).double().numpy())
    n = laplace.integers(x, STEP)
    assert n.tolist() == code.encode(x.numpy(), float(STEP)).tolist()
    decoded = laplace.decode(n, torch.tensor(scale), STEP)
    size = decoded[n != 0].abs()
    assert ((size - STEP * (n[n != 0].abs() - 1 + laplace.DEAD)) <= STEP).all()
    bits = laplace.bits(n, torch.tensor(scale), STEP).double().sum((1, 2)).numpy()
    assert bits == pytest.approx(code.bits(n.numpy(), float(STEP)), rel=1e-3)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_decoded_and_expected_values_are_the_means_of_what_rounds_to_them(scale):
    x = drawn(scale)
    n, scales = laplace.integers(x, STEP), torch.tensor(scale)
    for value in (0, 1, 2):
        mine = x[n == value].double()
        error = 4 * float(mine.std()) / len(mine) ** 0.5 + 1e-6
        assert float(laplace.decode(torch.tensor(value), scales, STEP)) == pytest.approx(float(mine.mean()), abs=error)
        expected = float(laplace.expected(torch.tensor(value), scales, STEP)) * scale
        assert expected == pytest.approx(float(mine.abs().mean()), abs=error)


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1e3])
def test_probabilities_of_all_integers_sum_to_one(scale):
    n = torch.arange(-200_000, 200_001)
    total = (2.0 ** -laplace.bits(n, torch.tensor(scale), STEP).double()).sum()
    assert float(total) == pytest.approx(1, abs=1e-4)


def test_impossible_integers_cost_a_finite_number_of_bits():
    assert laplace.bits(torch.tensor(10**6), torch.tensor(1e-9), STEP).isfinite()


def test_the_slope_of_the_soft_code_length_is_that_of_the_laplace_density():
    x = torch.tensor([2.0, -3.0, 0.9], requires_grad=True)
    scales = torch.tensor(0.5)
    slope = torch.autograd.grad(laplace.soft_bits(x, scales, STEP).sum(), x)[0]
    torch.testing.assert_close(slope, x.sign() / (0.5 * torch.log(torch.tensor(2.0))), rtol=0.05, atol=0)
    at_zero = torch.zeros(3, requires_grad=True)
    assert torch.autograd.grad(laplace.soft_bits(at_zero, scales, STEP).sum(), at_zero)[0].abs().max() < 1e-4
