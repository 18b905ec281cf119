"""What networks made of steered blocks share: windows brought to whole steps, blocks computed twice, zeroed outputs."""
from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raycal.errors import UserError
from raycal.models.layers import pad_to


def refuse_short(length: int, downsample: int) -> None:
    """Raise UserError where a window of `length` frames is shorter than one step of the network."""
    if length < downsample:
        raise UserError(f"windows.length={length} is shorter than the {downsample} frames that the network makes one "
                        f"step of; use at least windows.length={downsample}, fewer levels or a smaller patch")


def padded(x: Tensor, downsample: int) -> Tensor:
    """Return (b, C, L) with the last frame repeated up to whole steps; raise UserError for less than one step."""
    refuse_short(x.shape[-1], downsample)
    return pad_to(x, downsample)


def run(block: nn.Module, twice: bool, x: Tensor, embedding: Tensor) -> Tensor:
    """Return block(x, embedding); twice: drop its activations, and compute them again in the backward pass."""
    return checkpoint(block, x, embedding, use_reentrant=False) if twice else block(x, embedding)


def zeroed(layer: nn.Module) -> nn.Module:
    """Return the layer with all its weights and biases at 0."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer
