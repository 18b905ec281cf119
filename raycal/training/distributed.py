"""What several workers of one training say to each other; with one worker every function is the identity."""
from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class _Loss(nn.Module):
    """A module whose forward is the model's loss: DistributedDataParallel only sees what passes through forward."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model.loss(batch)


def parallel(model: nn.Module, world: int, sessions: int,
             shards: bool = False) -> Callable[[Any], tuple[torch.Tensor, dict]]:
    """Return batch -> (loss, terms), with gradients averaged over the workers when there are several.

    shards: the model is a loss whose parameters are spread over the workers (sharding.py), and sees to them itself.
    """
    if shards:
        return model
    if world == 1:
        return model.loss
    ddp = nn.parallel.DistributedDataParallel
    # Buffers are not broadcast: the quantizers reduce their own statistics, and are equal on every worker.
    renamed = "forward_sync_buffers" in inspect.signature(ddp).parameters  # torch 2.13 warns of the older name
    buffers = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    # A worker's share of a batch may hold no window of some session, so that session's layers get no gradient there.
    return ddp(_Loss(model), find_unused_parameters=sessions > 1, **buffers)


def local(loss: Callable, last: bool):
    """Return the context in which gradients of all but the last part of an accumulated batch stay on the worker."""
    return contextlib.nullcontext() if last or not hasattr(loss, "no_sync") else loss.no_sync()


def summed(values: torch.Tensor, world: int) -> torch.Tensor:
    """Return the sum of values over the workers."""
    if world > 1:
        torch.distributed.all_reduce(values)
    return values


def from_first(make: Callable[[], Any], rank: int, world: int) -> Any:
    """Return make() of rank 0 on every worker: no two workers may disagree on whether to stop."""
    box = [make() if rank == 0 else None]
    if world > 1:
        torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
