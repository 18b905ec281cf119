"""The optimizer, and one update of the weights with all that is odd about it in one place."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from raycal.config import Config, Optimizer
from raycal.models.quantizers.base import Quantizer
from raycal.training import checkpoint, distributed

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer; weight decay reaches matrices and kernels only.

    Biases and norm gains are left out as usual. So are codebooks: decay would pull codes to the
    origin, away from the latents they stand for.
    """
    codes = {id(p) for m in model.modules() if isinstance(m, Quantizer) for p in m.parameters()}
    decayed, free = [], []
    for p in model.parameters():
        (free if p.ndim < 2 or id(p) in codes else decayed).append(p)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if settings.name == "sgd":
        return torch.optim.SGD(groups, settings.lr, momentum=0.9, nesterov=True, fused=True)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.name](groups, settings.lr, fused=True)


class Updater:
    """Calls of it are optimizer steps: losses, gradients, clipping, step.

    Mixed precision is used on a GPU alone: on a CPU it saves little on full models and nothing on
    small ones, and curves stay exact. fp16 needs loss scaling, bf16 has the range of float32.
    """

    def __init__(self, model: nn.Module, config: Config, device: torch.device):
        self.optimizer = build(model, config.optimizer)
        self._parameters, self._clip, self._device = list(model.parameters()), config.optimizer.clip, device
        self._dtype = DTYPES.get(config.training.precision) if device.type == "cuda" else None
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype is torch.float16)

    def __call__(self, loss: Callable, batches: Sequence[Any], lr: float) -> list[tuple[int, dict[str, torch.Tensor]]]:
        """Make one step on batches taken as one, and return (windows, loss terms) of each.

        loss: batch -> (scalar, terms). Each batch weighs as many windows as it has, so two half
        batches give the gradient of the whole one. The terms stay on the device, and are summed once
        an epoch: reading one would wait for the GPU, adding them up takes a CPU 1 % of a small step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        windows = [sum(part.traces.shape[0] for part in batch) for batch in batches]
        parts = []
        for i, (batch, n) in enumerate(zip(batches, windows, strict=True), start=1):
            with distributed.local(loss, last=i == len(batches)):
                value, terms = self._forward(loss, batch)
                share = value if len(batches) == 1 else value * (n / sum(windows))
                self._scaler.scale(share).backward()
            parts.append((n, {name: term.detach() for name, term in {"loss": value, **terms}.items()}))
        self._step()
        return parts

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(checkpoint.copied(state["optimizer"]))  # torch keeps the tensors it is given
        self._scaler.load_state_dict(state["scaler"])

    def _forward(self, loss: Callable, batch: Any):
        if self._dtype is None:
            return loss(batch)
        with torch.autocast(self._device.type, self._dtype):
            return loss(batch)

    def _step(self) -> None:
        if self._clip:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
