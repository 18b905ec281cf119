"""Residual VQ: each level quantizes what those before it left over (SoundStream, arXiv 2107.03312, algorithm 1)."""
from __future__ import annotations

from typing import TYPE_CHECKING

from raycal.models.quantizers.grouped_residual import GroupedResidual

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings


def build(settings: Settings) -> GroupedResidual:
    """Return settings.levels levels of one group; settings.groups is not read."""
    return GroupedResidual(settings, groups=1, levels=settings.levels)
