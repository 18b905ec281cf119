import torch

from raycal.models.quantizers import laplace
from raycal.models.quantizers.context import FEATURES, features, fit_weights

STEP, SCALES = torch.tensor(0.5), torch.rand(1, 8, 6) + 0.5


def test_a_scale_depends_on_what_was_coded_before_alone():
    n = torch.randint(-3, 4, (1, 8, 6))
    base = features(n, SCALES, STEP)
    for frequency, latent in ((0, 0), (3, 2), (7, 5)):
        other = n.clone()
        other[:, frequency, latent] += 5
        changed = (features(other, SCALES, STEP) != base).any(-1)[0]
        order = torch.arange(48).view(8, 6)
        assert not changed[order <= order[frequency, latent]].any()


def test_the_first_coefficient_has_no_context():
    assert not features(torch.randint(-3, 4, (2, 8, 6)), SCALES, STEP)[:, 0, 0].any()


def test_weights_of_louder_windows_are_found_and_save_bits():
    loudness = torch.randn(300, 1, 1).exp()
    sign = torch.randint(0, 2, (300, 8, 6)) * 2 - 1
    x = sign * torch.empty(300, 8, 6).exponential_() * SCALES * loudness
    n, scales = laplace.integers(x, STEP), SCALES.expand(300, 8, 6)
    weights = fit_weights(n, scales, STEP, windows=300)
    assert weights.shape == (FEATURES + 1,) and weights[:3].sum() > 0.5
    plain = laplace.bits(n, scales, STEP).sum()
    followed = laplace.bits(n, scales * torch.exp(features(n, scales, STEP) @ weights[:-1] + weights[-1]), STEP).sum()
    assert followed < 0.95 * plain


def test_few_windows_leave_the_weights_near_zero():
    n = torch.randint(-3, 4, (20, 8, 6))
    assert fit_weights(n, SCALES.expand(20, 8, 6), STEP, windows=1e-3).abs().max() < 0.05
