import pytest
import torch

from raycal.config import Config
from raycal.models import quantizers


def build(groups, levels, **values):
    values = {"codebook_size": 16, "code_dim": 8, "revive": 0.0, **values}
    return quantizers.build(Config().replace({"quantizer.type": "grvq", "quantizer.groups": groups,
                                              "quantizer.levels": levels,
                                              **{f"quantizer.{k}": v for k, v in values.items()}}).quantizer)


def test_levels_sum_to_the_code_and_each_quantizes_the_rest():
    model = build(groups=1, levels=3)
    z = torch.randn(2, 30, 8)
    model(z)
    out = model.eval()(z)
    rest = z.flatten(0, 1)
    total = torch.zeros_like(rest)
    for r, level in enumerate(model.levels):
        index = torch.cdist(rest, level.codes[0]).argmin(-1)
        assert torch.equal(index, out.indices[..., r].flatten())
        rest, total = rest - level.codes[0][index], total + level.codes[0][index]
    torch.testing.assert_close(out.quantized.flatten(0, 1), total)


def test_columns_are_group_major_then_level_and_groups_hold_their_own_dimensions():
    model = build(groups=2, levels=2)
    model(torch.randn(2, 30, 8))
    out = model.eval()(torch.randn(2, 5, 8))
    assert out.indices.shape == (2, 5, 4) and out.indices.dtype == torch.int64
    for g in range(2):
        codes = sum(model.levels[r].codes[g][out.indices[..., 2 * g + r]] for r in range(2))
        torch.testing.assert_close(out.quantized[..., 4 * g:4 * g + 4], codes)


def test_lookup_gives_back_what_was_quantized():
    model = build(groups=4, levels=3)
    model(torch.randn(2, 30, 8))
    out = model.eval()(torch.randn(3, 5, 8))
    assert torch.equal(model.lookup(out.indices), out.quantized)


@pytest.mark.parametrize("groups, levels", [(1, 1), (1, 4), (4, 1), (4, 2)])
def test_the_gradient_passes_once_whatever_the_levels(groups, levels):
    z = torch.randn(2, 30, 8, requires_grad=True)
    quantized = build(groups, levels)(z).quantized
    assert torch.equal(torch.autograd.grad(quantized.sum(), z)[0], torch.ones_like(z))


def test_a_further_level_lowers_the_error():
    torch.manual_seed(0)
    z = torch.randn(8, 100, 8)
    errors = []
    for levels in (1, 2, 4):
        model = build(groups=2, levels=levels)
        for _ in range(5):
            model(z)
        errors.append((model.eval()(z).quantized - z).square().mean().item())
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]


def test_the_loss_is_the_mean_over_levels_of_what_is_left():
    model = build(groups=1, levels=2, commitment=0.5).eval()
    z = torch.randn(2, 10, 8)
    first = model.levels[0].lookup(model(z).indices[..., 0].flatten()[None]).view_as(z)
    left = [(z - first).square().mean(), (z - model(z).quantized).square().mean()]
    torch.testing.assert_close(model(z).loss, 0.5 * (left[0] + left[1]) / 2)


def test_one_group_and_level_is_the_moving_average_vq():
    torch.manual_seed(0)
    one = build(groups=1, levels=1)
    made = Config().replace({"quantizer.codebook_size": 16, "quantizer.code_dim": 8, "quantizer.revive": 0.0})
    two = quantizers.build(made.quantizer)
    two.load_state_dict(one.state_dict())
    for z in torch.randn(3, 2, 30, 8):
        a, b = one(z), two(z)
    assert torch.equal(a.indices, b.indices) and torch.equal(a.loss, b.loss)
