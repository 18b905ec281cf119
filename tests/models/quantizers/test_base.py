import math

import pytest
import torch

from raycal.models.quantizers.base import rotated, straight_through, unit


def test_straight_through_gives_exactly_the_codes_and_the_gradient_unchanged():
    z, codes = torch.randn(3, 5, requires_grad=True), 1e6 * torch.randn(3, 5)
    out = straight_through(z, codes)
    assert torch.equal(out, codes)
    weight = torch.randn(3, 5)
    assert torch.equal(torch.autograd.grad((out * weight).sum(), z)[0], weight)


def test_a_quarter_turn_turns_the_gradient_back_as_computed_by_hand():
    z, code = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 2.0]])
    out = rotated(z, code)
    assert out.tolist() == [[0.0, 2.0]]
    # q = 2 R z with R the turn by 90 degrees: dL/dz = 2 R' g
    for g, expected in (([1.0, 0.0], [0.0, -2.0]), ([0.0, 1.0], [2.0, 0.0])):
        found = torch.autograd.grad((out * torch.tensor([g])).sum(), z, retain_graph=True)[0]
        torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=0)


def test_a_rotation_keeps_angles_between_gradient_and_code():
    torch.manual_seed(0)
    z, codes, g = torch.randn(50, 6, requires_grad=True), torch.randn(50, 6), torch.randn(50, 6)
    found = torch.autograd.grad((rotated(z, codes) * g).sum(), z)[0]
    scale = codes.norm(dim=-1) / z.norm(dim=-1)
    torch.testing.assert_close(found.norm(dim=-1), scale * g.norm(dim=-1))  # R turns, the scale stretches
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(found, z), cosine(g, codes), atol=1e-5, rtol=1e-5)


def test_a_code_on_its_latent_turns_nothing():
    z, g = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    torch.testing.assert_close(torch.autograd.grad((rotated(z, z.detach()) * g).sum(), z)[0], g)


@pytest.mark.parametrize("z, code", [([0.0, 0.0], [1.0, 0.0]), ([1.0, 0.0], [0.0, 0.0]), ([1.0, 0.0], [-1.0, 0.0])])
def test_a_rotation_without_a_direction_is_finite(z, code):
    z = torch.tensor([z], requires_grad=True)
    out = rotated(z, torch.tensor([code]))
    assert out.tolist() == [code] and torch.isfinite(torch.autograd.grad(out.sum(), z)[0]).all()


def test_directions_have_length_one():
    assert unit(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.6, 0.8])
    assert not unit(torch.zeros(2)).any() and math.isclose(unit(torch.randn(7)).norm().item(), 1.0, rel_tol=1e-6)
