from __future__ import annotations

import pytest
import torch

from raycal.errors import UserError
from raycal.models.neurons import Factors, Identities, Pooling, Readings, pooling, rows_of

KINDS = ["factors", "mean", "attention", "identity"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pool(kind):
    made = pooling(kind, 6, 8, 2, 3)
    for parameter in made.parameters():  # so that what begins at zero takes part
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def test_a_label_is_one_identity_in_all_sessions_and_a_neuron_without_one_is_itself():
    count, rows = rows_of([["AVA", "", "AVB"], ["", "AVB", "AVA", "AVA"]])
    assert rows == [[0, 1, 2], [3, 2, 0, 4]] and count == 5  # the second AVA of a session is another neuron
    identities = Identities([["AVA", "x"], ["y", "AVA"]], 4)
    assert torch.equal(identities(0)[0], identities(1)[1]) and not torch.equal(identities(0)[1], identities(1)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_seen_reaches_nothing_whatever_value_it_holds(kind):
    made, identity, x = pool(kind), torch.randn(5, 6), torch.randn(3, 5, 7)
    seen = torch.rand(3, 5, 7) > 0.3
    seen[0, :, 2] = False  # a frame of which nothing was seen
    values = [torch.where(seen, x, torch.full_like(x, fill)) for fill in (0.0, 1e6, torch.nan, torch.inf)]
    first, *others = (made(v, identity, seen) for v in values)
    assert all(torch.equal(first, other) for other in others) and first.isfinite().all()
    assert torch.equal(first[0, 2], torch.zeros(8))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_with_more_neurons_changes_nothing(kind):
    made, identity, x = pool(kind), torch.randn(5, 6), torch.randn(3, 5, 7)
    padded, seen = torch.cat((x, torch.full((3, 4, 7), torch.nan)), 1), torch.ones(3, 9, 7, dtype=torch.bool)
    seen[:, 5:] = False
    torch.testing.assert_close(made(padded, torch.cat((identity, torch.randn(4, 6))), seen), made(x, identity, None))


@pytest.mark.parametrize("kind", KINDS)
def test_order_does_not_matter_but_who_is_active_does(kind):
    made, identity, x = pool(kind), torch.randn(5, 6), torch.randn(3, 5, 7)
    turned = [3, 0, 4, 1, 2]
    torch.testing.assert_close(made(x[:, turned], identity[turned], None), made(x, identity, None))
    assert (made(x[:, turned], identity, None) - made(x, identity, None)).abs().max() > 0.01  # S2's encoder: 0


@pytest.mark.parametrize("kind", ["mean", "attention", "identity"])
def test_pooling_equals_tokens_of_every_frame_and_neuron_pooled_one_by_one(kind):
    made, identity, x = pool(kind), torch.randn(5, 6), torch.randn(2, 5, 4)
    functions = torch.stack((x, x.abs(), torch.ones_like(x)), -1)  # (b, N, L, 3)
    tokens = torch.einsum("bnlp,pnc->bnlc", functions, torch.stack([v(identity) for v in made.values]))
    if kind == "mean":
        scores = torch.zeros(2, 5, 4, 1)
    elif kind == "attention":
        scores = torch.einsum("bnlp,ph->bnlh", functions[..., :2], made.scores)
    else:
        scores = torch.einsum("bnlp,pnh->bnlh", functions, torch.stack([s(identity) for s in made.scores]))
    shares = scores.softmax(1).repeat_interleave(8 // scores.shape[-1], -1)
    torch.testing.assert_close(made(x, identity, None), 8.0 * (shares * tokens).sum(1))


def test_factors_are_the_posterior_mean_of_a_linear_model_given_the_seen_neurons():
    made, identity, x = Factors(6, 3, 3), torch.randn(5, 6), torch.randn(2, 5, 4)
    torch.nn.init.eye_(made.out.weight)
    seen = torch.tensor([True, False, True, True, False])
    noise = (-made.log_precision(identity)).exp().squeeze(1)
    loadings = made.loading(identity)
    covariance = loadings @ loadings.T + noise.diag()
    expected = loadings[seen].T @ torch.linalg.solve(covariance[seen][:, seen], x[:, seen])  # Gaussian conditioning
    torch.testing.assert_close(made(x, identity, seen[None, :, None].expand(2, 5, 4)), expected.mT)


def test_masks_of_windows_and_of_frames_give_the_same_factors():
    made, identity, x = pool("factors"), torch.randn(5, 6), torch.randn(2, 5, 4)
    steady = torch.tensor([[1, 0, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()[..., None].repeat(1, 1, 4)
    unsteady = steady.clone()
    unsteady[0, 0, 3] = False
    torch.testing.assert_close(made(x, identity, unsteady)[:, :3], made(x, identity, steady)[:, :3])


def test_a_reading_is_loading_gain_and_bias_of_the_identity():
    made, identity, hidden = Readings(6, 8), torch.randn(5, 6), torch.randn(2, 4, 8)
    torch.nn.init.normal_(made.gain_bias.weight)
    gain, bias = made.gain_bias(identity).unbind(1)
    expected = torch.einsum("blc,nc->bnl", hidden, made.loading(identity)) * (1 + gain)[:, None] + bias[:, None]
    torch.testing.assert_close(made(hidden, identity), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_table_of_another_length_is_refused(kind):
    with pytest.raises(UserError, match="4 identities for traces of 5 neurons"):
        pool(kind)(torch.zeros(1, 5, 3), torch.zeros(4, 6), None)


def test_every_kind_is_made():
    assert isinstance(pool("factors"), Factors)
    assert all(isinstance(pool(k), Pooling) and pool(k).kind == k for k in KINDS[1:])
