"""The one function that judges a model: fixed, in eval mode, from sums over a whole split.

Every frame of the part counts once, whatever the window; scores are in the fixed unit of the train
scaler, whichever normalisation was searched; nothing here is a mean of batch values. What is measured is its family's
to say: `measure` of raycal.training.measure_codes, measure_latents.
"""
from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from raycal import models
from raycal.config import Config

PREFIX = {"validation": "val", "train": "fit", "test": "test"}  # "train/" is what the loop sums in training mode


class Evaluation(NamedTuple):
    """metrics by name; arrays: what is left to draw, "examples" (a few windows) among it."""

    metrics: dict[str, float]
    arrays: dict[str, Any]


def evaluate(model: torch.nn.Module, dataset, config: Config, part: str = "validation") -> dict[str, float]:
    """Return the metrics of `measure`."""
    return measure(model, dataset, config, part).metrics


def measure(model: torch.nn.Module, dataset, config: Config, part: str = "validation") -> Evaluation:
    """Measure a model on a part of a prepared dataset. Names begin with val/, fit/ (the train part) or test/."""
    family = importlib.import_module(models.family(config).measure)
    with _judging(model):
        metrics, arrays = family.measure(model, dataset, config, part)
    return Evaluation({f"{PREFIX[part]}/{name}": value for name, value in metrics.items()}, arrays)


@contextlib.contextmanager
def _judging(model: torch.nn.Module) -> Iterator[None]:
    """Put the model in eval mode for the block; warnings of a diverged model's numbers are left to its loss."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), np.errstate(over="ignore", invalid="ignore"):
            yield
    finally:
        model.train(training)
