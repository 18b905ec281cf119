import pytest
import torch

from raycal.models.embeddings import BehaviorEmbedding, TimeEmbedding, rotary, waves


def test_waves_tell_times_apart():
    t = torch.linspace(0, 1, 200)
    x = waves(t, 32)
    assert x.shape == (200, 32) and bool((x.square().sum(1) - 16).abs().max() < 1e-3)
    assert torch.cdist(x, x).fill_diagonal_(9).min() > 0.01
    assert TimeEmbedding(24)(t).shape == (200, 24)


def test_rotary_products_depend_on_the_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64).expand(2, 1, 1, 12, 16)
    products = (rotary(query) @ rotary(key).mT)[0, 0]
    for distance in range(-5, 6):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products[0].std() > 0.1


def test_rotary_keeps_lengths_and_leaves_the_first_step():
    x = torch.randn(2, 3, 7, 8)
    torch.testing.assert_close(rotary(x).norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotary(x)[..., 0, :], x[..., 0, :])


def test_unknown_behaviour_is_told_from_zero_and_reaches_nothing():
    torch.manual_seed(0)
    embed, behavior = BehaviorEmbedding(2, 6), torch.zeros(1, 2, 9)
    unknown = behavior.clone()
    unknown[:, 1] = torch.nan
    assert embed(unknown).isfinite().all() and not torch.allclose(embed(unknown), embed(behavior))
    other = unknown.clone()
    other[:, 0] = 1.0
    assert not torch.allclose(embed(other), embed(unknown))


@pytest.mark.parametrize("length", [1, 5, 64])
def test_behaviour_is_embedded_frame_by_frame(length):
    assert BehaviorEmbedding(3, 8)(torch.randn(2, 3, length)).shape == (2, 8, length)
