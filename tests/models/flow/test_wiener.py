import pytest
import torch

from raycal.models.denoiser import Denoiser
from raycal.models.dit import DiT
from raycal.models.flow.objective import held_out_loss
from raycal.models.flow.paths import Cosine, Linear
from raycal.models.flow.priors import HeavyTailed, Independent, Mixed
from raycal.models.flow.process import TARGETS, Process
from raycal.models.flow.samplers import sample
from raycal.models.flow.wiener import FLOOR, Wiener, cosines

N, L = 5, 6


def known(process=Process(), prior=Independent(), n=N):
    """Return a denoiser of a drawn Gaussian and that Gaussian's covariance (N L, N L)."""
    generator = torch.Generator().manual_seed(0)
    every = torch.linalg.qr(torch.randn(L, n, n, generator=generator, dtype=torch.float64))[0]
    base = Wiener(process, [n], L, prior).double()
    variance = torch.rand(L, n, generator=generator, dtype=torch.float64) * 3.0
    base.axes_0.copy_(every[..., :-1])
    base.variance_0.copy_(variance)
    turn = cosines(L)
    each = every @ torch.diag_embed(variance) @ every.mT
    return base, torch.einsum("lf,fnm,kf->nlmk", turn, each, turn).reshape(n * L, n * L)


@pytest.mark.parametrize("prior", [Independent(), Mixed(0.4), HeavyTailed()], ids=repr)
@pytest.mark.parametrize("path", [Linear(), Cosine()], ids=repr)
@pytest.mark.parametrize("target", TARGETS)
def test_it_answers_the_conditional_mean_of_a_gaussian(prior, path, target):
    base, covariance = known(Process(path, target), prior)
    common = prior.share if isinstance(prior, Mixed) else 0.0
    eye = torch.eye(N, dtype=torch.float64)
    noise = torch.kron(eye, (1 - common) * torch.eye(L, dtype=torch.float64) + common)
    x_t = torch.randn(3, N, L, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    at = path.at(t)
    c, d = (v[:, 0, 0] for v in TARGETS[target](at))
    for i in range(3):
        a, s = at.data[i], at.noise[i]
        joint = c[i] * a * covariance + d[i] * s * noise
        expected = joint @ torch.linalg.solve(a**2 * covariance + s**2 * noise, x_t[i].flatten())
        torch.testing.assert_close(base(x_t, t)[i].flatten(), expected)


def test_its_flow_makes_the_gaussian_of_noise():
    base, covariance = known()
    noise = torch.randn(8000, N, L, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    windows = sample("heun", lambda x, t: base.process.estimate(base(x, t), x, t), base.process, noise, 64)
    found = windows.flatten(1).T @ windows.flatten(1) / 8000
    torch.testing.assert_close(found, covariance, atol=0.12, rtol=0)


def gaussian(n, seed):
    _, covariance = known(n=12)
    z = torch.randn(n, 12 * L, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (z @ torch.linalg.cholesky(covariance).T).view(n, 12, L).float()


class Alone(torch.nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x_t, t, behavior=None, session=0, valid=None):
        return self.base(x_t, t, session)


def test_a_fit_on_many_windows_denoises_held_out_ones_almost_as_the_truth_does():
    held_out = gaussian(500, 1)
    truth = Alone(known(n=12)[0].float())
    fitted = Wiener(Process(), [12], L)
    fitted.fit(0, gaussian(3000, 0))
    least = held_out_loss(truth, Process(), held_out)
    assert held_out_loss(Alone(fitted), Process(), held_out) < 1.02 * least
    assert held_out_loss(Alone(Wiener(Process(), [12], L)), Process(), held_out) > 1.05 * least


def test_every_neuron_keeps_its_own_spectrum():
    """What is slow is one neuron's, what is fast two neurons share: no axes common to all frequencies have both."""
    generator = torch.Generator().manual_seed(0)
    slow, fast = (torch.randn(4000, 1, L, generator=generator) @ torch.diag(v.sqrt()) @ cosines(L).float().T
                  for v in (torch.tensor([5.0, 0.6, 0.2, 0.1, 0.05, 0.05]),
                            torch.tensor([0.1, 0.1, 0.2, 0.6, 2.0, 3.0])))
    train = torch.cat([slow + fast, fast, 0.3 * torch.randn(4000, 1, L, generator=generator)], dim=1)
    base = Wiener(Process(), [3], L)
    base.fit(0, train)
    noise = torch.randn(4000, 3, L, generator=generator)
    drawn = sample("midpoint", lambda x, t: base.process.estimate(base(x, t), x, t), base.process, noise, 64)
    found, true = ((w @ cosines(L).float()).permute(2, 1, 0) for w in (drawn, train))
    torch.testing.assert_close(*(z.square().mean(2) for z in (found, true)), rtol=0.15, atol=0.02)
    torch.testing.assert_close(*(z @ z.mT / z.shape[2] for z in (found, true)), rtol=0.15, atol=0.06)


def test_fewer_windows_than_axes_leave_the_rest_next_to_absent():
    windows = torch.randn(3, 12, L, generator=torch.Generator().manual_seed(0))
    base = Wiener(Process(), [12], L)
    base.fit(0, windows)
    assert (base.variance_0[:, 3:] == FLOOR).all() and (base.axes_0[..., 3:] == 0).all()
    t = torch.full((3,), 0.5)
    answer = base(0.5 * windows, t)  # noise of 0 is met: eps - x_0 = (v - 1) x_0 / (v + 1) - x_0 of what it knows
    assert torch.isfinite(answer).all() and answer.norm() < 2.0 * windows.norm()


def test_windows_of_another_length_are_filtered_by_the_same_spectrum():
    """White over time stays white: the answer to a constant spectrum does not know the length."""
    base = known()[0]
    base.variance_0.fill_(2.0)
    t = torch.tensor([0.3], dtype=torch.float64)
    x = torch.randn(1, N, 9, dtype=torch.float64)
    torch.testing.assert_close(base(x, t)[..., :6], base(x[..., :6], t))


def test_a_new_network_begins_as_its_base_and_trains_nothing_of_it():
    base = Wiener(Process(), [12, 3], L)
    base.fit(0, gaussian(100, 0))
    network = Denoiser(DiT(16, 1, 2, embedding=8), [12, 3], 0, 16, 8, base=base)
    x, t = gaussian(4, 3), torch.rand(4)
    torch.testing.assert_close(network(x, t), base(x, t))
    assert not any(name.startswith("base") for name, _ in network.named_parameters())
    assert "base.axes_0" in network.state_dict()
    valid = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    a, b = (network(torch.where(valid, x, filler), t, valid=valid) for filler in (0.0, torch.nan))
    torch.testing.assert_close(a[valid], b[valid])


def test_what_a_network_adds_comes_with_the_square_of_the_signal():
    base = Wiener(Process(Cosine()), [N], L)
    alone, beside = (Denoiser(DiT(16, 1, 2, embedding=8), [N], 0, 16, 8, base=b) for b in (None, base))
    torch.nn.init.normal_(alone.read_out.maps[0].weight, generator=torch.Generator().manual_seed(0))
    beside.load_state_dict(alone.state_dict(), strict=False)
    x, t = torch.randn(4, N, L, generator=torch.Generator().manual_seed(1)), torch.tensor([0.0, 0.3, 0.9, 1.0])
    added, answer = beside(x, t) - base(x, t), alone(x, t)
    assert answer.abs().mean() > 0.01
    torch.testing.assert_close(added, torch.sin(torch.pi / 2 * (1 - t)).square()[:, None, None] * answer)


def test_behaviour_that_is_known_is_heard_in_noise_alone():
    network = Denoiser(DiT(16, 1, 2, embedding=8), [N], 1, 16, 8, base=Wiener(Process(), [N], L))
    torch.nn.init.normal_(network.read_out.maps[0].weight, generator=torch.Generator().manual_seed(0))
    x, t = torch.randn(2, N, L, generator=torch.Generator().manual_seed(1)), torch.ones(2)
    behavior = torch.tensor([1.0, torch.nan])[:, None, None].expand(2, 1, L)
    added = network(x, t, behavior) - network.base(x, t)
    assert added[0].abs().mean() > 0.01 and not added[1].any()


def test_mixed_precision_does_not_reach_it():
    base = known()[0].float()
    x, t = torch.randn(2, N, L), torch.tensor([0.2, 0.7])
    with torch.autocast("cpu", torch.bfloat16):
        inside = base(x, t)
    assert torch.equal(inside, base(x, t))


def test_axes_beyond_the_leading_ones_share_a_filter_and_count_as_many_as_they_are(monkeypatch):
    """Three strong axes and nine alike: four filters are the truth."""
    monkeypatch.setattr("raycal.models.flow.wiener.AXES", 3)
    generator = torch.Generator().manual_seed(0)
    every = torch.linalg.qr(torch.randn(12, 12, generator=generator))[0]
    sd = torch.tensor([3.0, 2.0, 1.5] + [0.5] * 9)

    def drawn(n):
        return torch.einsum("nm,bml->bnl", every * sd, torch.randn(n, 12, L, generator=generator))

    base, x, t = Wiener(Process(), [12], L), drawn(5), torch.tensor([0.5])
    base.fit(0, drawn(20_000))
    assert base.axes_0.shape == (L, 12, 3) and base.variance_0.shape == (L, 4)
    expected = 2 * every @ torch.diag((1 - sd**2) / (1 + sd**2)) @ every.T @ x  # (s - a v) / (a^2 v + s^2), a = s = 1/2
    torch.testing.assert_close(base(x, t.expand(5)), expected, atol=0.05, rtol=0.03)
