from __future__ import annotations

import pytest
import torch

from raycal.models.backbones import BACKBONES, positions

KINDS = sorted(BACKBONES)


def made(kind):
    torch.manual_seed(0)
    return BACKBONES[kind](8, 2, 2, 0.0).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_were_not_observed_reach_no_other(kind):
    model, x = made(kind), torch.randn(3, 10, 8)
    observed = torch.ones(3, 10, dtype=torch.bool)
    observed[0, 7:], observed[1, 2], observed[2] = False, False, False
    first, *others = (model(torch.where(observed[..., None], x, torch.full_like(x, fill)), observed)
                      for fill in (0.0, 1e6, -3.0))
    assert first.isfinite().all()
    for other in others:
        assert torch.equal(first[observed], other[observed])


@pytest.mark.parametrize("kind", KINDS)
def test_observed_frames_reach_their_neighbours_on_both_sides(kind):
    model, x = made(kind), torch.randn(1, 10, 8)
    x.requires_grad_()
    model(x, None)[0, 5].sum().backward()
    assert all(x.grad[0, t].abs().sum() > 0 for t in (4, 5, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_all_observed_is_no_mask(kind):
    model, x = made(kind), torch.randn(2, 6, 8)
    torch.testing.assert_close(model(x, torch.ones(2, 6, dtype=torch.bool)), model(x, None))


def test_positions_are_sines_and_cosines():
    p = positions(4, 6)
    assert p.shape == (4, 6) and torch.equal(p[0], torch.tensor([0.0, 1.0] * 3))
    torch.testing.assert_close(p[:, 0], torch.arange(4).float().sin())
