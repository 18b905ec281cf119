"""The cosine distance and the rotation trick, in every type that can have them."""
import pytest
import torch

from raycal.config import Config
from raycal.errors import UserError
from raycal.models import quantizers

VECTORS = ("vq", "ema", "simvq", "rvq", "grvq")


def settings(**values):
    values = {"codebook_size": 16, "code_dim": 4, "groups": 2, "levels": 2, **values}
    return Config().replace({f"quantizer.{k}": v for k, v in values.items()}).quantizer


@pytest.mark.parametrize("kind", VECTORS)
def test_a_rotated_gradient_turns_with_each_groups_sum_of_levels(kind):
    torch.manual_seed(0)
    model = quantizers.build(settings(type=kind, gradient="rotation")).eval()
    z, g = torch.randn(2, 9, 4, requires_grad=True), torch.randn(2, 9, 4)
    out = model(z)
    assert torch.equal(model.lookup(out.indices), out.quantized)
    found = torch.autograd.grad((out.quantized * g).sum(), z)[0]
    parts = [t.detach().unflatten(-1, (2 if kind == "grvq" else 1, -1)) for t in (z, out.quantized, g, found)]
    z, q, g, found = parts
    scale = q.norm(dim=-1) / z.norm(dim=-1)
    torch.testing.assert_close(found.norm(dim=-1), scale * g.norm(dim=-1))
    torch.testing.assert_close((found * z).sum(-1), (g * q).sum(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", VECTORS)
def test_by_the_cosine_codes_are_directions_and_the_length_of_a_latent_does_not_count(kind):
    torch.manual_seed(0)
    model = quantizers.build(settings(type=kind, distance="cosine", levels=1))
    for _ in range(4):
        model(torch.randn(2, 40, 4))
    model.eval()
    z = torch.randn(2, 20, 4)
    groups = 2 if kind == "grvq" else 1
    out = model(z)
    lengths = out.quantized.unflatten(-1, (groups, -1)).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert torch.equal(out.indices, model(100 * z).indices)
    book = (model.book if hasattr(model, "book") else model.levels[0]).vectors()
    cut = z.flatten(0, 1).unflatten(-1, (groups, -1)).transpose(0, 1)
    expected = torch.nn.functional.cosine_similarity(cut[:, :, None], book[:, None], dim=-1).argmax(-1)
    assert torch.equal(out.indices.flatten(0, 1).T, expected)


@pytest.mark.parametrize("kind", ["vq", "ema", "simvq"])
def test_by_the_cosine_no_gradient_lengthens_a_latent(kind):
    z = torch.randn(2, 20, 4, requires_grad=True)
    out = quantizers.build(settings(type=kind, distance="cosine"))(z)
    found = torch.autograd.grad((out.quantized * torch.randn(4)).sum() + out.loss, z)[0]
    assert found.abs().sum() > 0
    torch.testing.assert_close((found * z).sum(-1), torch.zeros(2, 20), atol=1e-6, rtol=0)


def test_the_direction_of_a_code_is_that_of_the_moving_average_of_its_latents():
    model = quantizers.build(settings(type="ema", distance="cosine", codebook_size=2, code_dim=2, decay=0.5,
                                      revive=0.0))
    book = model.levels[0]
    book.codes.copy_(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]))
    book.steps.fill_(1)
    model(torch.tensor([[[0.0, 3.0], [0.0, 0.5]]]))  # both at a right angle to both codes: the first has them
    # m = 0.5 * (1, 0) + 0.5 * 2 * (0, 1), N = 0.5 + 0.5 * 2
    assert book.codes[0, 0].tolist() == pytest.approx([0.5 / 1.5, 1 / 1.5])
    assert book.vectors()[0, 0].tolist() == pytest.approx([0.2 ** 0.5, 0.8 ** 0.5])


def test_learned_directions_are_revived_while_a_gradient_waits():
    model = quantizers.build(settings(type="vq", distance="cosine", codebook_size=8, revive=2.0, decay=0.0))
    for _ in range(3):
        model(torch.randn(1, 12, 4)).loss.backward()
    assert torch.isfinite(model.book.codes.grad).all()


@pytest.mark.parametrize("values, message", [
    ({"type": "fsq", "distance": "cosine"}, "rounds one number at a time.*use euclidean"),
    ({"type": "lfq", "gradient": "rotation"}, "rounds one number at a time.*use straight_through"),
    ({"type": "ema", "code_dim": 1, "gradient": "rotation"}, "no more than a sign"),
    ({"type": "grvq", "groups": 4, "gradient": "rotation"}, "no more than a sign"),
    ({"type": "rvq", "distance": "cosine"}, "quantizer.levels=2: a further level codes how much is left over"),
    ({"type": "fsq", "codebook_size": 2}, "at least 3 values.*quantizer.type=lfq")])
def test_options_that_make_no_sense_are_refused_with_the_reason(values, message):
    with pytest.raises(UserError, match=message):
        settings(**values)
