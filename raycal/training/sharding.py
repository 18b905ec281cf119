"""Weights, gradients and moments of a trial spread over its workers (fully_shard), for models that fill a GPU.

The whole model stays beside the shards, to be judged and saved: what a worker saves of memory is gradients, the
optimizer's moments and averages. States are saved whole, so that any number of workers can take them up again.
Where a function says so, all workers have to call it together.
"""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


class Loss(nn.Module):
    """A module whose forward is the model's loss, which every parameter enters.

    A worker's share of a batch may hold no window of some session; were its layers left without a gradient there, the
    workers would add up gradients of different parameters.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: Sequence[Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        value, terms = self.model.loss(batch)
        return value + 0.0 * sum(p.sum() for p in self.parameters() if p.requires_grad), terms


def sharded(model: nn.Module, world: int) -> Loss:
    """Return the loss of a copy of a generative model whose parameters are spread over all workers, block by block."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    loss, mesh = Loss(copy.deepcopy(model)), init_device_mesh(next(model.parameters()).device.type, (world,))
    for block in blocks(loss.model.network.core):
        fully_shard(block, mesh=mesh, reshard_after_forward=False)  # the loss reads every parameter
    return fully_shard(loss, mesh=mesh)


def blocks(core: nn.Module) -> list[nn.Module]:
    """Return the blocks of a U-Net or of a transformer."""
    from raycal.models import dit, unet

    return [m for m in core.modules() if isinstance(m, (unet.Block, unet.AttentionBlock, dit.Block))]


@torch.no_grad()
def gather(model: nn.Module, shards: nn.Module) -> None:
    """Bring the whole model to what the shards hold; of all workers together."""
    for whole, part in zip(model.parameters(), shards.parameters(), strict=True):
        whole.copy_(joined(part))


@torch.no_grad()
def scatter(model: nn.Module, shards: nn.Module) -> None:
    """Bring the shards to what the whole model holds, and the buffers, which every worker has whole."""
    for whole, part in zip(model.parameters(), shards.parameters(), strict=True):
        part.copy_(cut(whole, part))
    for whole, mine in zip(model.buffers(), shards.buffers(), strict=True):
        mine.copy_(whole)


def joined(tree: Any) -> Any:
    """Return a nested state with whole tensors in place of shards; of all workers together."""
    from torch.distributed.tensor import DTensor

    if isinstance(tree, DTensor):
        return tree.detach().full_tensor()
    if isinstance(tree, dict):
        return {k: joined(v) for k, v in tree.items()}
    return type(tree)(joined(v) for v in tree) if isinstance(tree, (list, tuple)) else tree


def cut(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a whole tensor spread as another one is; itself where that one is whole."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.detach().to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def cut_state(state: Mapping[str, Any], shards: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return a whole state of a training with averages and moments spread as the parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {i: {k: cut(v, parameters[i]) if getattr(v, "shape", None) == parameters[i].shape else v
                   for k, v in one.items()} for i, one in state["optimizer"]["state"].items()}
    average = [cut(a, p) for a, p in zip(state["ema"]["average"], shards.parameters())]
    return {**state, "optimizer": {**state["optimizer"], "state": moments}, "ema": {**state["ema"], "average": average}}
