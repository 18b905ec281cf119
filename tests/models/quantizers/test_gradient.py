import pytest
import torch

from raycal.config import Config
from raycal.models import quantizers


def build(codes, **values):
    codes = torch.tensor(codes)
    model = quantizers.build(Config().replace({
        "quantizer.type": "vq", "quantizer.codebook_size": len(codes), "quantizer.code_dim": codes.shape[1],
        "quantizer.revive": 0.0, **{f"quantizer.{k}": v for k, v in values.items()}}).quantizer)
    with torch.no_grad():
        model.book.codes.copy_(codes[None])
    model.book.steps.fill_(1)
    return model


def test_the_loss_pulls_codes_to_latents_and_latents_to_codes_at_their_own_weights():
    model = build([[0.0, 0.0], [9.0, 9.0]], commitment=0.25)
    z = torch.ones(1, 1, 2, requires_grad=True)
    loss = model(z).loss
    assert loss.item() == 1.25
    of_z, of_codes = torch.autograd.grad(loss, [z, model.book.codes])
    assert of_z.tolist() == [[[0.25, 0.25]]]  # the commitment
    assert of_codes.tolist() == [[[-1.0, -1.0], [0.0, 0.0]]]  # the codebook, at weight 1


def test_the_decoders_gradient_does_not_reach_the_codes():
    model = build([[0.0, 0.0], [9.0, 9.0]])
    z = torch.ones(1, 3, 2, requires_grad=True)
    model(z).quantized.sum().backward()
    assert model.book.codes.grad is None or not model.book.codes.grad.any()


def test_codes_are_a_parameter_that_only_the_optimizer_and_revival_move():
    model = build([[0.0, 0.0], [9.0, 9.0]], decay=0.5)
    before = model.book.codes.detach().clone()
    model(torch.randn(1, 8, 2))
    assert [name for name, _ in model.named_parameters()] == ["book.codes"]
    assert torch.equal(model.book.codes, before)
    torch.optim.SGD(model.parameters(), lr=0.1)  # an optimizer built before the start holds the same object
    assert isinstance(model.book.codes, torch.nn.Parameter)


def test_a_dead_code_is_revived_while_a_gradient_waits():
    model = build([[0.0, 0.0], [99.0, 99.0]], decay=0.5, revive=2.0)
    z = torch.randn(1, 8, 2)
    model(z).loss.backward()
    assert (z[0] == model.book.codes[0, 1]).all(-1).any()


def test_lookup_gives_back_what_was_quantized():
    model = build(torch.randn(7, 3).tolist())
    out = model.eval()(torch.randn(2, 5, 3))
    assert torch.equal(model.lookup(out.indices), out.quantized)


def test_training_recovers_cluster_centres():
    torch.manual_seed(0)
    centres = 5 * torch.eye(4)
    model = quantizers.build(Config().replace({"quantizer.type": "vq", "quantizer.codebook_size": 4,
                                               "quantizer.code_dim": 4, "quantizer.init": "batch"}).quantizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(60):
        z = centres.repeat(20, 1) + 0.1 * torch.randn(80, 4)
        optimizer.zero_grad()
        model(z[None]).loss.backward()
        optimizer.step()
    assert torch.cdist(centres, model.book.codes[0].detach()).min(-1).values.max() == pytest.approx(0, abs=0.3)
