import pytest
import torch

from raycal.models.quantizers.codebook import nearest


@pytest.mark.parametrize("size", [255, 256, 300, 1000])
def test_the_search_by_blocks_finds_what_the_minimum_of_all_distances_is(size, monkeypatch):
    torch.manual_seed(0)
    x, codes = torch.randn(3, 70, 5), torch.randn(3, size, 5)
    expected = torch.cdist(x.double(), codes.double()).argmin(-1)
    assert torch.equal(nearest(x, codes), expected)
    monkeypatch.setattr("raycal.models.quantizers.codebook._TILE", 3 * size * 9)
    assert torch.equal(nearest(x, codes), expected)


def test_of_equal_codes_the_first_is_found_within_a_block_and_across_blocks():
    codes = torch.randn(1, 320, 4)
    codes[:, [200, 210, 70, 300]] = torch.tensor([9.0, 9, 9, 9])
    assert nearest(torch.full((1, 2, 4), 9.0), codes).tolist() == [[70, 70]]
    codes[:, 70] = 0.0
    assert nearest(torch.full((1, 2, 4), 9.0), codes).tolist() == [[200, 200]]


def test_what_is_no_number_finds_some_code_of_a_padded_book():
    x = torch.randn(1, 4, 3)
    x[0, 0], x[0, 1, 1], x[0, 2] = torch.nan, torch.inf, -torch.inf
    codes = torch.randn(1, 290, 3)
    found = nearest(x, codes)
    assert 0 <= found.min() and found.max() < 290
    assert found[0, 3] == torch.cdist(x[:, 3:], codes).argmin()
