import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Draw the same latents at every run: tolerances are of rounding, which draws may stretch."""
    torch.manual_seed(0)
