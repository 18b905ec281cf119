import pytest
import torch

from raycal.errors import UserError
from raycal.models.blocks import padded, refuse_short, zeroed


def test_windows_are_filled_up_with_their_last_frame():
    x = torch.arange(6.0).view(1, 1, 6)
    assert padded(x, 4).flatten().tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert padded(x, 3) is x


def test_a_window_of_less_than_one_step_is_refused_with_value_and_fix():
    with pytest.raises(UserError, match="windows.length=7 is shorter than the 8 frames.*at least windows.length=8"):
        padded(torch.zeros(1, 1, 7), 8)
    refuse_short(8, 8)


def test_zeroed_layers_answer_nothing():
    assert not zeroed(torch.nn.Conv1d(2, 3, 3))(torch.randn(1, 2, 5)).any()
