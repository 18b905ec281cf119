"""What every quantizer is: latents in, codes out, gradient passed once."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycal.models import quantizers

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings

_EPSILON = 1e-6  # least length that a direction is taken from


class Quantized(NamedTuple):
    quantized: Tensor  # (B, L, D)
    indices: Tensor  # (B, L, C) int64, a column a codebook: group-major, then level
    loss: Tensor  # scalar: what pulls latents and codes together, weighted
    bits: Tensor | None = None  # (B,) code length of each window under a model fitted on train; None: see its counts


class Quantizer(nn.Module):
    """Base of all quantizers; a subclass defines `quantize` and `lookup` on float32."""

    per_session: tuple[str, ...] = ()  # buffers whose rows are sessions

    def __init__(self, settings: Settings):
        super().__init__()
        self.codebook_sizes = quantizers.codebook_sizes(settings)
        self.bits_per_code = quantizers.bits_per_code(settings)
        self.commitment = settings.commitment
        self.cosine = settings.distance == "cosine"
        self.passed = _PASSED[settings.gradient]

    def sized(self, steps: int, sessions: int) -> Quantizer:
        """Return this quantizer for windows of `steps` code steps from so many sessions; most serve any."""
        return self

    def forward(self, z: Tensor, session: Tensor | None = None) -> Quantized:
        """Quantize z (B, L, D) of any float type; codes are found and moved in float32.

        session: (B,) int64 of the windows; left out, all are of the first.
        """
        if session is None:
            session = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        with torch.autocast(z.device.type, enabled=False):  # a bf16 distance picks wrong codes
            found = self.quantize(z.float(), session)
            return found._replace(quantized=found.quantized.to(z.dtype))

    def begin(self, z: Tensor, session: Tensor, held_out: Callable[[], tuple[Tensor, Tensor, float]]) -> None:
        """Fit what training starts from to the latents (B, L, D) of train windows; codebooks start as settings.init.

        held_out: gives latents of such windows and their sessions under axes that were fitted without them, and how
        many independent windows they amount to.
        """
        training = self.training
        self.train()
        with torch.no_grad():
            self(z, session)
        self.train(training)

    def steered(self, latents: Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]], keep: bool = False):
        """Return a context in which the nominal rate is spent on latents [(z, session, (B,) share that counts)].

        keep: what was steered stays so afterwards. Codebooks spend what they spend.
        """
        return contextlib.nullcontext()

    def quantize(self, z: Tensor, session: Tensor) -> Quantized:
        """Return exactly what `lookup` gives of the indices, with its gradient to z: `passed` once, to the sum."""
        raise NotImplementedError

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the vectors (B, L, D) that the indices (B, L, C) stand for."""
        raise NotImplementedError


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """Return exactly `codes`, with dq/dz = 1 (Bengio et al. 2013, arXiv 1308.3432)."""
    return codes.detach() + (z - z.detach())


def rotated(z: Tensor, codes: Tensor) -> Tensor:
    """Return exactly `codes`, with dq/dz the rotation and scaling that take z (..., d) to its code (arXiv 2410.06424).

    With u, q the directions of z and its code and w that of u + q: R = 1 - 2 w w' + 2 q u' (section 4.2).
    """
    with torch.no_grad():
        length = z.norm(dim=-1, keepdim=True).clamp_min(_EPSILON)
        reach = codes.norm(dim=-1, keepdim=True).clamp_min(_EPSILON)
        u, q, scale = z / length, codes / reach, reach / length
        w = unit(u + q)
    turned = z - 2 * w * (w * z).sum(-1, keepdim=True) + 2 * q * (u * z).sum(-1, keepdim=True)
    return straight_through(scale * turned, codes)


def unit(x: Tensor) -> Tensor:
    """Return the directions of x (..., d), for codes compared by their cosine (ViT-VQGAN, arXiv 2110.04627)."""
    return F.normalize(x, dim=-1, eps=_EPSILON)


_PASSED = {"straight_through": straight_through, "rotation": rotated}
