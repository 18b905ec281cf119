import math

import pytest
import torch

from raycal.errors import UserError
from raycal.models.attention import Attention
from raycal.models.embeddings import rotary


def test_it_is_softmax_of_normalised_rotated_products():
    torch.manual_seed(0)
    layer, x = Attention(16, 2).double(), torch.randn(3, 7, 16, dtype=torch.float64)
    q, k, v = (p.unflatten(-1, (2, 8)).transpose(1, 2) for p in layer.project(x).chunk(3, dim=-1))
    q, k = (rotary(p / (p.square().mean(-1, keepdim=True) + torch.finfo(p.dtype).eps).sqrt()) for p in (q, k))
    expected = (q @ k.mT / math.sqrt(8)).softmax(-1) @ v
    torch.testing.assert_close(layer(x), layer.out(expected.transpose(1, 2).flatten(2)))


def test_the_scale_of_queries_and_keys_does_not_matter():
    torch.manual_seed(0)
    layer, x = Attention(16, 2).double(), torch.randn(1, 7, 16, dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        layer.project.weight[:32] *= 50.0
        layer.project.bias[:32] *= 50.0
    torch.testing.assert_close(layer(x), before, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (6, 2)])
def test_heads_of_an_odd_or_broken_size_are_refused(width, heads):
    with pytest.raises(UserError, match=f"width={width} in heads={heads}.*multiple of {2 * heads}"):
        Attention(width, heads)
