import numpy as np
import pytest
import torch
from scipy.fft import dct

from raycal.config import Config
from raycal.models import quantizers
from raycal.models.quantizers.transform import cosines, cosines_back, rate_control


def build(steps=16, sessions=1, dim=6, **values):
    settings = {"quantizer.type": "transform", "quantizer.code_dim": dim, "quantizer.bits": 6.0,
                **{f"quantizer.{k}": v for k, v in values.items()}}
    return quantizers.build(Config().replace(settings).quantizer).sized(steps, sessions)


def latents(windows=64, steps=16, dim=6):
    """Return smooth latents, the first the largest."""
    return torch.randn(windows, steps, dim).cumsum(1) * torch.logspace(0, -1.5, dim)


def begun(**values):
    model, z = build(**values), latents()
    session = torch.zeros(len(z), dtype=torch.int64)
    model.begin(z, session, lambda: (z, session, float(len(z))))
    return model, z


def test_cosines_are_those_of_scipy_and_turn_back():
    z = torch.randn(3, 7, 2, dtype=torch.float64)
    np.testing.assert_allclose(cosines(z).numpy(), dct(z.numpy(), axis=1, norm="ortho"), atol=1e-12)
    torch.testing.assert_close(cosines_back(cosines(z)), z)


@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("bits", [1.0, 6.0, 20.0])
def test_the_step_spends_the_bits_on_what_it_was_steered_to(context, bits):
    model, _ = begun(context=context, bits=bits)
    model.eval()
    other, session = 3 * latents(40), torch.zeros(40, dtype=torch.int64)
    weight = torch.linspace(0.2, 1, 40)
    with model.steered(lambda: [(other[:10], session[:10], weight[:10]), (other[10:], session[10:], weight[10:])]):
        spent = model(other).bits @ weight / (16 * weight.sum())
    assert 0.98 * bits <= float(spent) <= bits


def test_a_steered_step_is_left_only_where_it_is_kept():
    model, z = begun()
    before, session = model.step.clone(), torch.zeros(len(z), dtype=torch.int64)
    for keep in (False, True):
        with model.steered(lambda: [(9 * z, session, torch.ones(len(z)))], keep=keep):
            assert model.step > 2 * before
        assert bool(model.step > 2 * before) == keep


def test_lookup_gives_back_what_was_quantized_also_of_shorter_windows():
    model, z = begun()
    model.eval()
    for part in (z, z[:, :9]):
        found = model(part)
        torch.testing.assert_close(model.lookup(found.indices), found.quantized, atol=1e-5, rtol=1e-5)


def test_the_gradient_passes_the_rounding_once():
    model, z = begun(rate=0.0)
    z = z.requires_grad_()
    weight = torch.randn_like(z)
    torch.testing.assert_close(torch.autograd.grad((model(z).quantized * weight).sum(), z)[0], weight)


def test_more_bits_leave_less_error_and_large_latents_get_them():
    errors = []
    for bits in (2.0, 8.0, 20.0):
        model, z = begun(bits=bits)
        model.eval()
        found = model(z)
        errors.append(float((found.quantized - z).square().mean()))
        coded = (found.indices != 0).float().mean((0, 1))
        assert coded[0] > coded[-1]
    assert errors == sorted(errors, reverse=True)


def test_every_session_has_sizes_of_its_own_and_training_follows_them():
    model = build(sessions=2, decay=0.5)
    z, session = torch.cat([latents(32), 5 * latents(32)]), torch.tensor([0] * 32 + [1] * 32)
    model.begin(z, session, lambda: (z, session, 64.0))
    assert 4 < float((model.sizes[1] / model.sizes[0]).median()) < 6
    model.train()
    for _ in range(10):
        model(3 * z, session)
    assert 14 < float((model.sizes[1] / model.sizes[0]).median()) * 3 < 16
    quiet = model.sizes[0].clone()
    model(z[32:], session[32:])
    assert torch.equal(model.sizes[0], quiet)  # no window of it, no change


def test_training_steers_towards_its_rate():
    model, z = begun()
    for _ in range(100):
        found = model(2 * z)
    assert float(found.bits.mean() / 16) == pytest.approx(6.0, rel=0.05)


def test_held_out_latents_correct_what_train_makes_look_quiet():
    model, z = build(), latents()
    session = torch.zeros(len(z), dtype=torch.int64)
    model.begin(z, session, lambda: (2 * z, session, 64.0))
    assert float(model.correction.median()) == pytest.approx(2, rel=0.05)


def test_without_a_beginning_the_first_batch_is_one():
    model = build()
    z = latents()
    model(z)
    assert model.started and float(model(z).bits.mean() / 16) == pytest.approx(6, rel=0.1)


def test_a_silent_latent_is_finite():
    z = latents()
    z[..., 3:] = 0
    model = build()
    found = model(z.requires_grad_())
    found.loss.backward()
    assert found.bits.isfinite().all() and z.grad.isfinite().all() and not found.indices[..., 3:].any()


@pytest.mark.parametrize("guess", [1e-6, 0.3, 50.0])
def test_the_rate_control_meets_a_known_cost_from_any_guess(guess):
    step = rate_control(100.0, lambda s: 40.0 / s, guess, 1e3)
    assert 99.8 <= 40.0 / step <= 100


def test_a_rate_that_cannot_be_spent_ends_with_the_finest_step():
    assert rate_control(100.0, lambda s: 10.0, 1.0, 1e3) < 1e-6
