"""VQ whose codebook follows the latents by moving averages (van den Oord et al. 2017, arXiv 1711.00937, A.1)."""
from __future__ import annotations

from typing import TYPE_CHECKING

from raycal.models.quantizers.grouped_residual import GroupedResidual

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings


def build(settings: Settings) -> GroupedResidual:
    """Return one codebook of one group and one level; settings.groups and settings.levels are not read."""
    return GroupedResidual(settings, groups=1, levels=1)
