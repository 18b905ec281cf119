import pytest
import torch

from raycal.models.denoiser import Denoiser
from raycal.models.dit import DiT
from raycal.models.unet import UNet


def network(n_neurons=(5, 3), n_behaviors=2, core="dit", awake=True, shared=False):
    torch.manual_seed(0)
    core = DiT(16, 2, 2, embedding=8) if core == "dit" else UNet(16, (1, 2), 1, 2, embedding=8)
    out = Denoiser(core, n_neurons, n_behaviors, 16, 8, shared)
    if awake:
        with torch.no_grad():
            for p in out.parameters():
                p.add_(0.1 * torch.randn(p.shape))
    return out


@pytest.mark.parametrize("core", ["dit", "unet"])
@pytest.mark.parametrize("shared", [False, True])
def test_sessions_of_different_neurons_pass_at_once_as_alone(core, shared):
    net = network(core=core, shared=shared)
    x = [torch.randn(2, 5, 12), torch.randn(3, 3, 12)]
    t, behavior = [torch.rand(2), torch.rand(3)], [torch.randn(2, 2, 12), None]
    both = net.joint(x, t, behavior, [0, 1], [None, None])
    for s in (0, 1):
        assert both[s].shape == x[s].shape
        torch.testing.assert_close(both[s], net(x[s], t[s], behavior[s], s), rtol=1e-4, atol=1e-5)


def test_a_new_network_answers_0_and_learns_from_the_first_step():
    net = network(awake=False)
    x, t = torch.randn(4, 5, 12), torch.rand(4)
    out = net(x, t)
    assert not out.any()
    (out - x).square().sum().backward()
    moved = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"read_out", "gain"} <= moved


def test_no_behaviour_is_unknown_behaviour_and_known_behaviour_matters():
    net, x, t = network(), torch.randn(2, 5, 12), torch.rand(2)
    assert torch.equal(net(x, t), net(x, t, torch.full((2, 2, 12), torch.nan)))
    assert not torch.allclose(net(x, t), net(x, t, torch.zeros(2, 2, 12)))


def test_an_unconditional_network_pays_no_heed_to_behaviour():
    net, x, t = network(n_behaviors=0), torch.randn(2, 5, 12), torch.rand(2)
    assert torch.equal(net(x, t), net(x, t, torch.randn(2, 2, 12)))
    assert not any("behavior" in name for name, _ in net.named_parameters())


def test_what_was_not_measured_reaches_no_other_value():
    net, x, t = network(), torch.randn(2, 5, 12), torch.rand(2)
    valid = torch.rand(2, 5, 12) < 0.6
    a, b = (net(torch.where(valid, x, filler), t, valid=valid) for filler in (0.0, 1e3))
    assert torch.equal(a[valid], b[valid])


def test_fewer_channels_than_neurons_can_still_denoise_noise():
    """Of white data the best velocity is (2 t - 1) / (t^2 + (1 - t)^2) x_t: of full rank, and the gain's to make."""
    torch.manual_seed(0)
    core = DiT(4, 1, 1, embedding=32)
    net = Denoiser(core, [40], 0, 4, 32)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(300):
        x, eps, t = torch.randn(64, 40, 4), torch.randn(64, 40, 4), torch.rand(64)
        x_t = torch.lerp(x, eps, t[:, None, None])
        loss = (net(x_t, t) - (eps - x)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    t = torch.linspace(0.1, 0.9, 9)
    x_t = torch.randn(9, 40, 4)
    best = ((2 * t - 1) / (t**2 + (1 - t) ** 2))[:, None, None] * x_t
    assert (net(x_t, t) - best).square().mean() < 0.1 * best.square().mean()
