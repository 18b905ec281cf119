"""A moving average of the weights, used wherever a model is judged or delivered."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


class WeightEMA:
    """Average of a module's parameters; decay 0 keeps none and costs nothing.

    Buffers are left alone: a codebook kept by moving averages is an average already.
    """

    def __init__(self, module: nn.Module, decay: float):
        self._decay, self._updates = decay, 0
        self._weights = list(module.parameters()) if decay else []
        self._average = [w.detach().clone() for w in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights.

        The decay is at most n / (n + 9): the average starts as a copy of the weights after the first
        step, so neither the random nor the data-made initialisation (k-means codes) lingers in it.
        """
        if not self._weights:
            return
        decay = min(self._decay, self._updates / (self._updates + 9.0))
        self._updates += 1
        torch._foreach_lerp_(self._average, self._weights, 1.0 - decay)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the average in place of the weights for the block; the weights come back bit for bit."""
        if not self._updates:
            yield
            return
        kept = [w.detach().clone() for w in self._weights]
        self._put(self._average)
        try:
            yield
        finally:
            self._put(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "average": [a.clone() for a in self._average]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._updates = state["updates"]
        for mine, saved in zip(self._average, state["average"], strict=True):
            mine.copy_(saved)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for w, value in zip(self._weights, values, strict=True):
            w.copy_(value)
