import pytest
import torch

from raycal.config import Config
from raycal.models import quantizers


def build(**values):
    values = {"codebook_size": 16, "code_dim": 4, **values}
    return quantizers.build(Config().replace({"quantizer.type": "simvq",
                                              **{f"quantizer.{k}": v for k, v in values.items()}}).quantizer)


def test_the_map_is_all_that_learns_and_the_codes_stay_where_they_started():
    model = build()
    model(torch.randn(2, 30, 4))
    frozen = model.book.codes.clone()
    assert [name for name, _ in model.named_parameters()] == ["book.map.weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.randn(2, 30, 4) + 1).loss.backward()
        optimizer.step()
    assert torch.equal(model.book.codes, frozen)
    assert torch.equal(model.book.vectors(), model.book.map(frozen)) and not torch.equal(model.book.vectors(), frozen)


def test_one_hit_code_moves_those_that_nothing_hit():
    model = build(codebook_size=2)
    model(torch.randn(1, 30, 4))
    model.book.codes.copy_(torch.tensor([[[1.0, 0, 0, 0], [1.0, 1, 0, 0]]]))
    z = torch.tensor([[[0.5, 0, 0, 0]]])
    out = model(z)
    assert out.indices.item() == 0
    # loss of the map: |z - W e|^2 / 4, so dW = -2 (z - W e) e' / 4: only its first entry
    gradient = torch.autograd.grad(out.loss, model.book.map.weight)[0]
    assert gradient[0, 0].item() == pytest.approx(0.25) and gradient.count_nonzero() == 1
    with torch.no_grad():
        model.book.map.weight -= gradient
    assert model.book.vectors()[0, 1].tolist() == [0.75, 1, 0, 0]


def test_the_loss_pulls_the_map_and_the_latents_at_their_own_weights():
    model = build(commitment=0.5, codebook_size=2)
    model(torch.randn(1, 30, 4))
    z = torch.randn(1, 6, 4, requires_grad=True)
    out = model(z)
    error = (out.quantized.detach() - z.detach()).square().mean()
    torch.testing.assert_close(out.loss.detach(), 1.5 * error)
    torch.testing.assert_close(torch.autograd.grad(out.loss, z)[0],
                               0.5 * 2 * (z - out.quantized).detach() / z.numel())


@pytest.mark.parametrize("init", ["kmeans", "batch", "normal"])
def test_codes_start_at_the_latents(init):
    torch.manual_seed(0)
    model = build(init=init, codebook_size=64)
    z = 20 + torch.randn(4, 50, 4)
    out = model(z)
    assert (out.quantized - z).square().mean() < 2 and (model.book.vectors().mean() - 20).abs() < 1
