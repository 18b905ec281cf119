"""Quantizers by name; a new one is one new module with `build(settings)` and one line here.

Imports no framework: sizes and rates are known before anything is trained.
"""
from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from raycal.config import Quantizer as Settings
    from raycal.models.quantizers.base import Quantizer

_ENOUGH = 0.85  # a product of levels from here on is near its codebook size: within a quarter of a bit


class Kind(NamedTuple):
    module: str  # holds build(settings)
    sizes: Callable[[Settings], tuple[int, ...]]  # of its codebooks


QUANTIZERS = {
    "vq": Kind("gradient", lambda s: (s.codebook_size,)),
    "ema": Kind("ema", lambda s: (s.codebook_size,)),
    "rvq": Kind("residual", lambda s: (s.codebook_size,) * s.levels),
    "grvq": Kind("grouped_residual", lambda s: (s.codebook_size,) * (s.groups * s.levels)),
    "fsq": Kind("fsq", lambda s: (math.prod(scalar_levels(s.codebook_size)),)),
    "lfq": Kind("lfq", lambda s: (2 ** signs(s.codebook_size),)),
    "simvq": Kind("simvq", lambda s: (s.codebook_size,)),
    "transform": Kind("transform", lambda s: ()),  # whole numbers of any size
}


def build(settings: Settings) -> Quantizer:
    """Return a new quantizer of settings.type."""
    return importlib.import_module(f"{__name__}.{QUANTIZERS[settings.type].module}").build(settings)


def codebook_sizes(settings: Settings) -> tuple[int, ...]:
    """Return the size of every codebook, in the order of the columns of the indices."""
    return QUANTIZERS[settings.type].sizes(settings)


def bits_per_code(settings: Settings) -> float:
    """Return the nominal bits of one code step: sum of log2 K over its codebooks, or what it is steered to."""
    return sum(math.log2(size) for size in codebook_sizes(settings)) or settings.bits


def signs(size: int) -> int:
    """Return how many signs a lookup-free code of at most `size` values has: 2 ** signs comes nearest from below."""
    return size.bit_length() - 1


@functools.cache  # a plan draws 10 000 configurations
def scalar_levels(size: int) -> tuple[int, ...]:
    """Return the levels of a finite scalar code: their product comes nearest to `size` from below, or is it.

    They are 5 to 8, for fewer than 5 code worse (arXiv 2309.15505); where no such product reaches 85 % of
    the size, 4 and then 3 are admitted. Of equal products the one of fewest dimensions is taken: 8 x 8 for 64,
    5 x 5 x 5 for 128, 8 x 5 x 5 x 5 for 1024.
    """
    best: tuple[int, ...] = (min(size, 3),)
    for least in (5, 4, 3):
        best = max([best, *_products(least, size)], key=math.prod)
        if math.prod(best) >= _ENOUGH * size:
            break
    return best


def _products(least: int, size: int) -> list[tuple[int, ...]]:
    """Return all levels from 8 down to least whose product does not exceed size, the fewest dimensions first."""
    most = int(math.log(size, least) + 1e-9)
    return [found for count in range(1, most + 1)
            for found in itertools.combinations_with_replacement(range(8, least - 1, -1), count)
            if math.prod(found) <= size]
