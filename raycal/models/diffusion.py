"""The generative model of a configuration: a `TraceFlow` around a U-Net or a transformer over time.

    model = models.build(config, n_neurons=(48, 36), n_behaviors=2)      # model.family=diffusion
    windows = model.draw(100, length=32, session=0, how=drawing(config))
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from raycal.checks import check_conditions
from raycal.models.blocks import refuse_short
from raycal.models.denoiser import Denoiser
from raycal.models.dit import DiT
from raycal.models.flow.objective import Objective
from raycal.models.flow.paths import PATHS
from raycal.models.flow.priors import PRIORS, Prior
from raycal.models.flow.process import Process
from raycal.models.flow.times import TIMES
from raycal.models.flow.wiener import Wiener
from raycal.models.latentflow import FirstStage, LatentFlow
from raycal.models.traceflow import Drawing, TraceFlow
from raycal.models.unet import UNet

if TYPE_CHECKING:
    from raycal.config import Config, Diffusion

MULTIPLIERS = (1, 2, 2, 2)  # channels of a U-Net's levels, of which every one but the first halves the frames


def build(config: Config, n_neurons: Sequence[int], n_behaviors: int,
          neurons: Sequence[Sequence[str]] | None = None, first: Mapping[str, Any] | None = None) -> TraceFlow:
    """Return a new model for sessions of these neuron counts, which their labels do not change.

    first: describes the trained model whose latents are generated (latentflow.FirstStage); its weights come later.
    """
    d, length, shared = config.diffusion, config.windows.length, config.sessions.mode == "pad"
    check_conditions(config, range(n_behaviors))
    process, prior = Process(PATHS[d.path](), d.target), _prior(d)
    objective = Objective(process, TIMES[d.times](), prior, d.weighting)
    stage = FirstStage(first) if first else None
    if stage:
        n_neurons, length, shared = [stage.dim], -(-length // stage.downsample), False
        refuse_short(length, config.model.downsample)
    base = Wiener(process, n_neurons, length, prior) if d.base and n_neurons[0] > 1 else None
    network = Denoiser(_core(config), n_neurons, n_behaviors, config.model.width, d.embedding, shared, base)
    return LatentFlow(stage, network, objective, d.guidance_dropout) if stage else \
        TraceFlow(network, objective, d.guidance_dropout)


def drawing(config: Config) -> Drawing:
    """Return how windows of a model are drawn."""
    d = config.diffusion
    return Drawing(d.sampler, d.evaluations, d.guidance)


def _core(config: Config) -> nn.Module:
    d, model = config.diffusion, config.model
    options = {"embedding": d.embedding, "dropout": model.dropout, "checkpointing": bool(d.checkpointing)}
    if d.core == "dit":
        core = DiT(model.width, d.depth, d.heads, model.downsample, **options)
    else:
        core = UNet(model.width, MULTIPLIERS[:model.downsample.bit_length()], d.depth, d.heads, **options)
    if d.compiled:
        core.compile()  # in place: its weights keep their names
    return core


def _prior(d: Diffusion) -> Prior:
    options = {"mixed": {"share": d.share}, "heavy_tailed": {"freedom": d.freedom}}
    return PRIORS[d.prior](**options.get(d.prior, {}))
