import pytest
import torch
import torch.nn.functional as F

from raycal.models.layers import (ACTIVATIONS, ReadIn, ReadOut, Residual, doubling, frames_of, halving, norm, pad_to,
                                  residuals)


@pytest.mark.parametrize("width", [4, 6, 7, 32, 100])
def test_the_norm_has_groups_that_divide_any_width(width):
    assert norm(width)(torch.randn(2, width, 5)).shape == (2, width, 5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_residual_block_keeps_the_shape_and_starts_near_the_identity_when_its_branch_is_off(activation):
    block = Residual(8, 5, activation, 0.0)
    torch.nn.init.zeros_(block.body[-1].weight)
    torch.nn.init.zeros_(block.body[-1].bias)
    x = torch.randn(2, 8, 9)
    assert torch.equal(block(x), x)


def test_residual_blocks_do_not_share_weights():
    one, two = residuals(2, 8, 4, "relu", 0.0)
    assert not {id(p) for p in one.parameters()} & {id(p) for p in two.parameters()}


@pytest.mark.parametrize("downsample", [1, 2, 4, 8])
def test_halving_and_doubling_are_exact(downsample):
    x = torch.randn(2, 6, 16)
    down = torch.nn.Sequential(*halving(6, downsample))(x)
    assert down.shape == (2, 6, 16 // downsample)
    assert torch.nn.Sequential(*doubling(6, downsample))(down).shape == x.shape


def test_padding_repeats_the_last_frame_up_to_the_multiple():
    x = torch.arange(5.0).view(1, 1, 5)
    assert pad_to(x, 4).flatten().tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert pad_to(x, 5) is x


def test_a_shared_read_in_equals_explicit_zero_padding():
    read_in, x = ReadIn([3, 7], 5, shared=True), torch.randn(2, 3, 6)
    full = read_in.maps[0](F.pad(x, (0, 0, 0, 4)))
    torch.testing.assert_close(read_in(x, 0), full)
    assert len(read_in.maps) == 1 and read_in.maps[0].in_channels == 7


def test_a_shared_read_out_gives_the_first_neurons_of_the_padded_one():
    read_out, x = ReadOut([3, 7], 5, shared=True), torch.randn(2, 5, 6)
    torch.testing.assert_close(read_out(x, 0), read_out.maps[0](x)[:, :3])
    assert read_out(x, 1).shape == (2, 7, 6)


def test_separate_sessions_have_their_own_weights():
    read_in = ReadIn([3, 7], 5, shared=False)
    assert [m.in_channels for m in read_in.maps] == [3, 7]
    with pytest.raises(ValueError, match="session 1 has 7 neurons; the traces given have 3"):
        read_in(torch.randn(2, 3, 6), 1)


def test_values_that_were_not_measured_do_not_enter():
    read_in, x = ReadIn([3], 5, shared=False), torch.randn(2, 3, 6)
    valid = torch.rand(2, 3, 6) > 0.5
    expected = read_in(torch.where(valid, x, 0.0), 0)
    x[~valid] = torch.nan
    assert torch.equal(read_in(x, 0, valid), expected)


def test_frames_are_in_order_within_their_code_step():
    steps = torch.randn(1, 6, 5)
    frames = frames_of(steps, 3)
    assert frames.shape == (1, 2, 15)
    for k in range(2):
        for s in range(5):
            assert torch.equal(frames[0, k, 3 * s:3 * s + 3], steps[0, 3 * k:3 * k + 3, s])
