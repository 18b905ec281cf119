"""Side by side with vector-quantize-pytorch, where it implements the same thing.

On purpose raycal differs from it in these:
- Its ResidualVQ adds the straight-through outputs of its levels, so that the gradient comes out once a level;
  raycal passes it once, on the sum.
- It returns the rotated latent, equal to the code but for rounding; raycal returns the code itself.
- Its LFQ clamps every probability of the softmax at 1e-5 in the logarithm; raycal's entropy of one latent is exact.
- Its moving averages smooth counts by eps = 1e-5 (Laplace), which moves codes by parts in 1e5; raycal's do not.
- Its SimVQ begins with a random map, raycal's with the identity.
"""
import pytest
import torch

from raycal.config import Config
from raycal.models import quantizers
from raycal.models.quantizers.base import rotated

library = pytest.importorskip("vector_quantize_pytorch")


def build(**values):
    values = {"codebook_size": 32, "code_dim": 8, "revive": 0.0, "decay": 0.9, **values}
    return quantizers.build(Config().replace({f"quantizer.{k}": v for k, v in values.items()}).quantizer)


def theirs(kind=None, **values):
    values = {"codebook_size": 32, "dim": 8, "decay": 0.9, "rotation_trick": False, "commitment_weight": 0.25,
              "threshold_ema_dead_code": 0, **values}
    return (kind or library.VectorQuantize)(**values)


def same_start(model, other):
    """Put the library's codes into the codebooks of a model, past their start."""
    stacks = other.rvqs if hasattr(other, "rvqs") else [other]
    levels = [[v._codebook for v in getattr(s, "layers", [s])] for s in stacks]
    for r, book in enumerate([m for m in model.modules() if hasattr(m, "counts")]):
        for g, group in enumerate(levels):
            book.codes.data[g] = group[r].embed[0]
            book.counts[g] = 1.0
        book.steps.fill_(1)
    return levels


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_moving_averages_agree_over_ten_steps(gradient, distance):
    torch.manual_seed(0)
    other = theirs(use_cosine_sim=distance == "cosine", rotation_trick=gradient == "rotation")
    model = build(type="ema", gradient=gradient, distance=distance)
    same_start(model, other)
    for _ in range(10):
        z = torch.randn(4, 50, 8)
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        out, (quantized, indices, loss) = model(a), other(b)
        weight = torch.randn_like(z)
        assert torch.equal(out.indices[..., 0], indices)
        torch.testing.assert_close(out.quantized, quantized, atol=2e-5, rtol=0)
        torch.testing.assert_close(out.loss, loss.squeeze(), atol=1e-5, rtol=0)
        found = [torch.autograd.grad((q * weight).sum() + l.sum(), x)[0]
                 for q, l, x in ((out.quantized, out.loss, a), (quantized, loss, b))]
        torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.levels[0].vectors()[0], other.codebook, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind, groups, levels", [("rvq", 1, 3), ("grvq", 2, 2)])
def test_residual_codebooks_agree_over_ten_steps_and_their_gradient_comes_once(kind, groups, levels):
    torch.manual_seed(0)
    if kind == "rvq":
        other = theirs(library.ResidualVQ, num_quantizers=levels)
    else:
        other = theirs(library.GroupedResidualVQ, groups=groups, num_quantizers=levels)
    model = build(type=kind, groups=groups, levels=levels)
    books = same_start(model, other)
    for _ in range(10):
        z = torch.randn(4, 50, 8)
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        out, (quantized, indices, losses) = model(a), other(b)
        indices = indices if kind == "rvq" else indices.permute(1, 2, 0, 3).flatten(2)
        assert torch.equal(out.indices, indices)
        torch.testing.assert_close(out.quantized, quantized, atol=5e-5, rtol=0)
        torch.testing.assert_close(out.loss, losses.mean(), atol=1e-5, rtol=0)
    ours, gradient = (torch.autograd.grad(q.sum(), x)[0] for q, x in ((out.quantized, a), (quantized, b)))
    assert torch.equal(ours, torch.ones_like(z))
    torch.testing.assert_close(gradient, levels * torch.ones_like(z))  # the difference on purpose
    for g, group in enumerate(books):
        for level, book in zip(model.levels, group):
            torch.testing.assert_close(level.codes[g], book.embed[0], atol=1e-5, rtol=0)


def test_learned_codebooks_agree_over_ten_steps():
    torch.manual_seed(0)
    other = theirs(learnable_codebook=True, ema_update=False, commitment_weight=1.0)
    model = build(type="vq", commitment=1.0)
    same_start(model, other)
    optimizers = [torch.optim.SGD(m.parameters(), lr=1.0) for m in (model, other)]
    for _ in range(10):
        z = torch.randn(4, 50, 8)
        out, (_, indices, loss) = model(z), other(z)
        assert torch.equal(out.indices[..., 0], indices)
        torch.testing.assert_close(out.loss, 2 * loss.squeeze())  # there one term pulls both, here each has its own
        for optimizer, value in zip(optimizers, (out.loss, loss)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    torch.testing.assert_close(model.book.codes[0].data, other.codebook.data)


def test_rotated_gradients_agree():
    torch.manual_seed(0)
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

    z, codes, weight = torch.randn(300, 6), 3 * torch.randn(300, 6), torch.randn(300, 6)
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    ours, other = rotated(a, codes), rotate_to(b, codes)
    torch.testing.assert_close(ours, other, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours, codes)
    found = [torch.autograd.grad((q * weight).sum(), x)[0] for q, x in ((ours, a), (other, b))]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size, dim", [(64, 2), (125, 3), (240, 8), (1000, 4), (4096, 4)])
def test_finite_scalars_agree(size, dim):
    torch.manual_seed(0)
    levels = list(quantizers.scalar_levels(size))
    model, other = build(type="fsq", codebook_size=size, code_dim=dim), library.FSQ(levels, dim=dim)
    other.load_state_dict(model.state_dict(), strict=False)
    z = 2 * torch.randn(3, 100, dim)
    a, b, weight = z.clone().requires_grad_(), z.clone().requires_grad_(), torch.randn_like(z)
    out, (quantized, indices) = model(a), other(b)
    assert torch.equal(out.indices[..., 0], indices.long())
    torch.testing.assert_close(out.quantized, quantized)
    torch.testing.assert_close(model.lookup(out.indices), other.indices_to_codes(indices))
    found = [torch.autograd.grad((q * weight).sum(), x)[0] for q, x in ((out.quantized, a), (quantized, b))]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("size, dim", [(16, 4), (256, 8), (512, 5)])
def test_lookup_free_codes_and_losses_agree(size, dim):
    torch.manual_seed(0)
    model = build(type="lfq", codebook_size=size, code_dim=dim, commitment=0.25, entropy=0.1)
    other = library.LFQ(dim=dim, codebook_size=size, entropy_loss_weight=0.1, commitment_loss_weight=0.25)
    other.load_state_dict(model.state_dict(), strict=False)
    z = 0.02 * torch.randn(3, 100, dim)
    a, b, weight = z.clone().requires_grad_(), z.clone().requires_grad_(), torch.randn_like(z)
    out, (quantized, indices, loss) = model(a), other(b)
    assert torch.equal(out.indices[..., 0], indices.long())
    torch.testing.assert_close(out.quantized, quantized)
    torch.testing.assert_close(out.loss, loss, atol=5e-4, rtol=0)
    found = [torch.autograd.grad((q * weight).sum() + l, x)[0]
             for q, l, x in ((out.quantized, out.loss, a), (quantized, loss, b))]
    torch.testing.assert_close(*found, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_mapped_codes_agree(gradient):
    torch.manual_seed(0)
    other = library.SimVQ(dim=8, codebook_size=32, rotation_trick=gradient == "rotation")
    model = build(type="simvq", gradient=gradient)
    model.book.codes[0] = other.frozen_codebook
    model.book.map.weight.data.copy_(other.code_transform.weight)
    model.book.steps.fill_(1)
    z = 0.3 * torch.randn(3, 100, 8)
    a, b, weight = z.clone().requires_grad_(), z.clone().requires_grad_(), torch.randn_like(z)
    out, (quantized, indices, loss) = model(a), other(b)
    assert torch.equal(out.indices[..., 0], indices)
    torch.testing.assert_close(out.quantized, quantized, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.loss, loss)
    pairs = ((out.quantized, out.loss, [a, model.book.map.weight]), (quantized, loss, [b, other.code_transform.weight]))
    for ours, their in zip(*(torch.autograd.grad((q * weight.to(q)).sum() + l, x) for q, l, x in pairs)):
        torch.testing.assert_close(ours, their, atol=1e-4, rtol=1e-4)
