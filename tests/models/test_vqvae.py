from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from raycal import models
from raycal.config import Config
from raycal.errors import UserError
from raycal.models.quantizers.base import Quantized
from raycal.models.vqvae import OBJECTIVES, VQVAE, bits_per_second

SMALL = {"model.width": 8, "model.residual_width": 4, "model.residual_blocks": 1, "model.behavior_width": 8,
         "quantizer.code_dim": 4, "quantizer.codebook_size": 16, "windows.length": 32}


class Part(NamedTuple):
    session: int
    traces: torch.Tensor
    behavior: torch.Tensor
    valid: torch.Tensor | None = None


def config(**values):
    return Config().replace({**SMALL, **{k.replace("__", "."): v for k, v in values.items()}})


def part(session, neurons, length=32, windows=3, behaviors=2):
    return Part(session, torch.randn(windows, neurons, length), torch.randn(windows, behaviors, length))


def trained(model, batch, steps=5):
    """Return the model in evaluation mode after a few steps, its codebook started."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(batch)[0].backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("length", [31, 32, 33, 50])
@pytest.mark.parametrize("downsample", [1, 2, 4, 8])
def test_exactly_as_many_frames_come_out(length, downsample):
    model = VQVAE(config(windows__length=length, model__downsample=downsample), [5], 2)
    (out,), _ = model([part(0, 5, length)])
    assert out.reconstruction.shape == (3, 5, length) and out.behavior.shape == (3, 2, length)
    assert out.indices.shape[1] == model.codes_per_window == -(-length // downsample)


def test_frames_beyond_the_window_are_cut_from_its_end():
    model, quantized = VQVAE(config(), [5], 2), torch.randn(3, 9, 4)
    assert torch.equal(model.decode(quantized, 0, 33), model.decode(quantized, 0, 36)[..., :33])
    assert torch.equal(model.decode_behavior(quantized, 0, 33), model.decode_behavior(quantized, 0, 36)[..., :33])


@pytest.mark.parametrize("kind", ["vq", "ema", "grvq"])
def test_the_steps_compose_to_the_forward_pass(kind):
    batch = [part(0, 5), part(1, 7, windows=2)]
    model = trained(VQVAE(config(quantizer__type=kind, quantizer__groups=2, quantizer__levels=2), [5, 7], 2), batch)
    outputs, _ = model(batch)
    for p, out in zip(batch, outputs):
        codes = model.codes(p.traces, p.session)
        assert torch.equal(codes, out.indices)
        quantized = model.quantizer.lookup(codes)
        torch.testing.assert_close(model.decode(quantized, p.session, 32), out.reconstruction)
        torch.testing.assert_close(model.decode_behavior(quantized, p.session, 32), out.behavior)


@pytest.mark.parametrize("linear", [0, 1])
def test_nothing_passes_around_the_quantizer(linear):
    batch = [part(0, 5)]
    model = trained(VQVAE(config(model__linear=linear), [5], 2), batch)
    with torch.no_grad():
        quantized = model.quantizer.lookup(model.codes(batch[0].traces, 0))
        (out,), _ = model(batch)
        other = [batch[0]._replace(traces=torch.randn(3, 5, 32))]
        model.quantizer.forward = lambda z, session: Quantized(quantized, torch.zeros(3, 8, 1), z.new_zeros(()))
        (held,), _ = model(other)  # other traces, the same codes
    torch.testing.assert_close(held.reconstruction, out.reconstruction)
    torch.testing.assert_close(held.behavior, out.behavior)


@pytest.mark.parametrize("kind", ["ema", "transform"])
def test_shuffled_indices_change_the_output(kind):
    torch.manual_seed(0)
    batch = [part(0, 5, windows=8)]
    model = trained(VQVAE(config(quantizer__type=kind, model__linear=1), [5], 2), batch)
    codes = model.codes(batch[0].traces, 0)
    shuffled = codes.flatten()[torch.randperm(codes.numel())].view_as(codes)
    one, two = (model.decode(model.quantizer.lookup(c), 0, 32) for c in (codes, shuffled))
    assert (one - two).abs().max() > 1e-3


def test_unobserved_behaviour_does_not_reach_the_loss():
    model, p = VQVAE(config(), [5], 2).eval(), part(0, 5)
    half = p.behavior.clone()
    half[:, :, 16:] = torch.nan
    total, terms = model.loss([p._replace(behavior=half)])
    (out,), _ = model([p])
    expected = F.mse_loss(out.behavior[:, :, :16], p.behavior[:, :, :16])
    torch.testing.assert_close(terms["behavior"], expected.detach())
    total.backward()
    assert all(torch.isfinite(q.grad).all() for q in model.parameters() if q.grad is not None)


def test_behaviour_never_observed_adds_nothing():
    model, p = VQVAE(config(), [5], 2).eval(), part(0, 5)
    _, terms = model.loss([p._replace(behavior=torch.full_like(p.behavior, torch.nan))])
    assert terms["behavior"].item() == 0


def test_without_behaviour_there_is_no_head_and_no_term():
    model = VQVAE(config(), [5], 0)
    total, terms = model.loss([part(0, 5, behaviors=0)])
    assert model.behavior_head is None and terms["behavior"] == 0 and torch.isfinite(total)


@pytest.mark.parametrize("junk", [0.0, 1e6, float("nan")])
def test_masked_values_do_not_reach_loss_or_gradient(junk):
    torch.manual_seed(0)
    model, p = VQVAE(config(), [5], 2).eval(), part(0, 5)
    valid = torch.rand(3, 5, 32) > 0.3
    valid[:, 2] = False
    reference = model.loss([p._replace(valid=valid)])[0]
    other = model.loss([p._replace(valid=valid, traces=p.traces.masked_fill(~valid, junk))])[0]
    assert torch.equal(other, reference)
    other.backward()
    assert all(torch.isfinite(q.grad).all() for q in model.parameters())


def test_masked_reconstruction_is_the_mean_over_what_was_measured():
    model, p = VQVAE(config(), [5], 2).eval(), part(0, 5)
    valid = torch.rand(3, 5, 32) > 0.3
    p = p._replace(valid=valid)
    (out,), _ = model([p])
    expected = (out.reconstruction - p.traces)[valid].square().mean()
    torch.testing.assert_close(model.loss([p])[1]["reconstruction"], expected.detach())


def test_the_loss_pools_parts_by_what_they_hold_and_weights_each_term_once():
    model = VQVAE(config(loss__behavior=0.5), [5, 7], 2).eval()
    batch = [part(0, 5), part(1, 7, windows=2)]
    total, terms = model.loss(batch)
    outputs, quantizer = model(batch)
    errors = torch.cat([(o.reconstruction - p.traces).flatten() for o, p in zip(outputs, batch)])
    torch.testing.assert_close(terms["reconstruction"], errors.square().mean().detach())
    torch.testing.assert_close(total, terms["reconstruction"] + quantizer + 0.5 * terms["behavior"])


def test_the_moving_averages_see_the_whole_batch():
    torch.manual_seed(0)
    model = VQVAE(config(), [5, 7], 2)
    model([part(0, 5), part(1, 7, windows=2)])
    book = model.quantizer.levels[0]
    assert book.steps == 1 and book.counts.sum().item() == pytest.approx(5 * 8)


def test_pad_mode_equals_explicit_zero_padding():
    torch.manual_seed(0)
    model = VQVAE(config(sessions__mode="pad"), [3, 7], 2).eval()
    small = part(0, 3)
    padded = small._replace(session=1, traces=F.pad(small.traces, (0, 0, 0, 4)))
    (one,), _ = model([small])
    (two,), _ = model([padded])
    assert torch.equal(one.indices, two.indices)
    torch.testing.assert_close(one.reconstruction, two.reconstruction[:, :3])
    assert len(model.read_in.maps) == len(model.read_out.maps) == 1


def test_every_parameter_gets_a_gradient_and_none_is_replaced():
    model = VQVAE(config(), [5, 7], 2)
    before = {name: id(p) for name, p in model.named_parameters()}
    total, _ = model.loss([part(0, 5), part(1, 7)])
    total.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert {name: id(p) for name, p in model.named_parameters()} == before


def test_a_state_dict_restores_the_same_model():
    batch = [part(0, 5)]
    one, two = trained(VQVAE(config(), [5], 2), batch), VQVAE(config(), [5], 2).eval()
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(batch)[0][0].reconstruction, two(batch)[0][0].reconstruction)


def test_autocast_to_bf16_trains():
    model = VQVAE(config(), [5], 2)
    with torch.autocast("cpu", torch.bfloat16):
        total, terms = model.loss([part(0, 5)])
    total.backward()
    assert total.dtype == torch.float32 and torch.isfinite(total)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_training_lowers_the_reconstruction_error():
    torch.manual_seed(0)
    phase = torch.rand(16, 1, 1) * 6.28
    traces = torch.sin(phase + torch.arange(32) / 5 + torch.arange(5.0)[:, None])
    batch = [Part(0, traces, traces[:, :2])]
    model = VQVAE(config(), [5], 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        total, terms = model.loss(batch)
        total.backward()
        optimizer.step()
    assert terms["reconstruction"] < 0.15 and terms["behavior"] < 0.25  # the variance is 0.5


def test_bits_per_second_of_known_configurations():
    made = config(windows__length=48, model__downsample=4, quantizer__codebook_size=512)
    assert bits_per_second(made, 1.0) == 2.25  # bits a frame: a 9-bit index every 4 frames
    assert bits_per_second(made, 10.0) == 22.5
    ragged = config(windows__length=50, model__downsample=4, quantizer__codebook_size=512)
    assert bits_per_second(ragged, 10.0) == pytest.approx(9 * 13 / 50 * 10)
    grouped = config(quantizer__type="grvq", quantizer__groups=4, quantizer__levels=2, quantizer__codebook_size=128)
    assert bits_per_second(grouped, 30.0) == pytest.approx(56 / 4 * 30)


def test_a_family_is_built_by_name():
    assert isinstance(models.build(config(), [5], 2), VQVAE)
    assert set(models.FAMILIES) == {"vqvae", "vae", "diffusion"}


def test_objectives_are_yardsticks_and_a_loss_is_refused_with_the_reason():
    assert models.objectives(config()) == (("val/nmse", "minimize"),) == (OBJECTIVES["nmse"],)
    both = models.objectives(config(search__objective="val/behavior_r2, nmse"))
    assert both == (("val/behavior_r2", "maximize"), ("val/nmse", "minimize"))
    with pytest.raises(UserError, match="train/loss.*coefficients"):
        models.objectives(config(search__objective="train/loss"))
    with pytest.raises(UserError, match="did you mean 'correlation'"):
        models.objectives(config(search__objective="corelation"))
