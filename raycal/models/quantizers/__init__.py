"""Quantizers by name; a new one is one new module with `build(settings)` and one line here.

Imports no framework: sizes and rates are known before anything is trained.
"""
from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings
    from raycal.models.quantizers.base import Quantizer

QUANTIZERS = {"vq": "gradient", "ema": "ema", "grvq": "grouped_residual"}
_GROUPED = ("grvq",)  # those that read quantizer.groups and quantizer.levels


def build(settings: Settings) -> Quantizer:
    """Return a new quantizer of settings.type."""
    return importlib.import_module(f"{__name__}.{QUANTIZERS[settings.type]}").build(settings)


def codebook_sizes(settings: Settings) -> tuple[int, ...]:
    """Return the size of every codebook, in the order of the columns of the indices."""
    copies = settings.groups * settings.levels if settings.type in _GROUPED else 1
    return (settings.codebook_size,) * copies


def bits_per_code(settings: Settings) -> float:
    """Return the nominal bits of one code step: sum of log2 K over its codebooks."""
    return sum(math.log2(size) for size in codebook_sizes(settings))
