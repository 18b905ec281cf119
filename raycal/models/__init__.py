"""The model families: what each is called, how it starts and is measured, what it is judged by, what it costs in bits.

This module imports no framework, so that a search can be planned without one. A new family is a module that builds it,
one that starts it, one that measures it, and one entry of FAMILIES.
"""
from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raycal.errors import UserError, nearest
from raycal.models import quantizers

if TYPE_CHECKING:  # config takes its choices from here: importing it now would be circular
    from torch import nn

    from raycal.config import Config


class Family(NamedTuple):
    module: str  # holds build(config, n_neurons, n_behaviors, neurons)
    start: str  # module that holds start(model, dataset, config): what training starts from
    measure: str  # module that holds measure(model, dataset, config, part): (metrics, arrays)
    gives: str  # "codes", which cost bits and tell behaviour; "latents" of every frame; new "windows"
    objectives: Mapping[str, tuple[str, str]]  # name -> (metric, direction); none holds a searched coefficient

    @property
    def coded(self) -> bool:
        return self.gives == "codes"


FAMILIES = {
    "vqvae": Family("raycal.models.vqvae", "raycal.training.start", "raycal.training.measure_codes", "codes",
                    {"nmse": ("val/nmse", "minimize"), "correlation": ("val/r", "maximize"),
                     "behavior_r2": ("val/behavior_r2", "maximize"),
                     "bits_per_second": ("val/bits_per_second", "minimize")}),
    "vae": Family("raycal.models.vae", "raycal.training.start_vae", "raycal.training.measure_latents", "latents",
                  {"cosmoothing_r2": ("val/cosmoothing_r2", "maximize"), "nmse": ("val/nmse", "minimize"),
                   "correlation": ("val/r", "maximize"), "behavior_r2": ("val/behavior_r2", "maximize"),
                   "elbo": ("val/elbo", "maximize"), "iwae": ("val/iwae", "maximize")}),
    "diffusion": Family("raycal.models.diffusion", "raycal.training.start_diffusion", "raycal.training.measure_windows",
                        "windows", {"generation": ("val/generation", "minimize"),
                                    "behavior_r2": ("val/behavior_r2", "maximize"),
                                    "evaluations": ("val/evaluations", "minimize")}),
}


def build(config: Config, n_neurons: Sequence[int], n_behaviors: int,
          neurons: Sequence[Sequence[str]] | None = None, first: Mapping[str, Any] | None = None) -> nn.Module:
    """Return a new model of the configured family for sessions of these neuron counts; neurons: their labels.

    first: describes the model in whose latents it works (models.latentflow), None: in none.
    """
    module = importlib.import_module(family(config).module)
    return module.build(config, n_neurons, n_behaviors, neurons, *([first] if first else []))


def family(config: Config) -> Family:
    return FAMILIES[config.model.family]


def objectives(config: Config) -> tuple[tuple[str, str], ...]:
    """Return (metric, "minimize" or "maximize") of every name in search.objective; several make a Pareto search.

    Raise UserError where a name is no yardstick; a loss is none, for it holds searched coefficients.
    """
    return tuple(_objective(name.strip(), config.model.family) for name in config.search.objective.split(","))


def _objective(name: str, family: str) -> tuple[str, str]:
    known = FAMILIES[family].objectives
    found = known.get(name.removeprefix("val/")) or {m: (m, d) for m, d in known.values()}.get(name)
    if found:
        return found
    reason = ("a loss holds coefficients that the search changes (loss.behavior, kl.weight and such), so small "
              "weights would win, not good models" if "loss" in name or name.startswith("train/")
              else f"no such yardstick{nearest(name, known)}")
    raise UserError(f"search.objective={name!r}: {reason}\nuse one of {', '.join(known)}")


def latent_name(config: Config, latent: int) -> str:
    """Return what a column of a VAE's latents is called: those of whole windows stand after those of frames."""
    of_frames = config.vae.latents
    return f"latent {latent}" if latent < of_frames else f"window latent {latent - of_frames}"


def bits_per_second(config: Config, rate: float) -> float:
    """Return the nominal bits a second of recording at `rate` Hz costs, known before training; 0 without codes."""
    if not family(config).coded:
        return 0.0
    length = config.windows.length
    codes_per_frame = math.ceil(length / config.model.downsample) / length
    return quantizers.bits_per_code(config.quantizer) * codes_per_frame * rate
