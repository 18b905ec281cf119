"""The typed, frozen tree of settings: every number a run depends on, with its bounds.

Names are dotted paths ("quantizer.codebook_size"); a search space uses the same names for its
parameters. Precedence: defaults < space < --config FILE < --set key=value.
"""
from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from raycal.errors import UserError, nearest
from raycal.models import FAMILIES
from raycal.models.quantizers import QUANTIZERS


def setting(default, *, choices=None, low=None, high=None):
    """Declare a setting with the values it may take; low and high are inclusive."""
    return field(default=default, metadata={"choices": choices, "low": low, "high": high})


@dataclass(frozen=True)
class Sessions:
    mode: str = setting("separate", choices=("separate", "pad", "first_only"))
    split: str = setting("blocks", choices=("blocks", "file", "animals"))  # animals: blocks, and the last held out
    held_out: tuple[str, ...] = setting(())  # ids of sessions that train no weight which neurons share
    rounds: int = setting(3, low=1, high=100)  # one round reads -0.28 where three read +0.38 (ridge R2, worms)
    train: float = setting(0.6, low=0.05, high=0.95)
    validation: float = setting(0.2, low=0.02, high=0.9)  # the rest is the sealed test part
    gap: float = setting(8.0, low=0.0)  # s between parts: more than 4 decay times of GCaMP6s
    resample: float = setting(0.0, low=0.0, high=1000.0)  # Hz that every session is brought to; 0: each its own
    smooth: float = setting(0.0, low=0.0, high=10.0)  # s, sd of a Gaussian over traces; 0: none
    smooth_behavior: float = setting(0.0, low=0.0, high=10.0)  # s, the same over behaviour
    select: str = setting("all", choices=("all", "activity", "variance", "behavior", "variance_behavior"))
    neurons: int = setting(0, low=0)  # how many neurons of a session select keeps; 0: all
    normalize: str = setting("zscore", choices=("zscore", "robust", "minmax", "none"))
    behavior: tuple[str, ...] = setting(())  # to decode, also STIMULUS.PARAMETER; empty: what every session has
    features: float = setting(0.0, low=0.0, high=600.0)  # s: behaviour as mean, std, max, change of so long; 0: as is
    nan: str = setting("refuse", choices=("refuse", "drop", "mask"))
    rate: float = setting(0.0, low=0.0)  # Hz, for files that state none; 0 keeps the file's own
    traces: str = setting("")  # the key, series or plane to read where a file has several


@dataclass(frozen=True)
class Windows:
    length: int = setting(64, low=4, high=4096)  # frames
    stride: int = setting(8, low=1)  # an epoch draws one of this many training windows, at every offset
    min_steps: int = setting(24, low=1)  # batches of an epoch at least: six worms give 7, too few to learn from
    batch: int = setting(32, low=1, high=65536)
    noise: float = setting(0.0, low=0.0, high=2.0)  # sd added to normalised training traces


@dataclass(frozen=True)
class Model:
    family: str = setting("vqvae", choices=tuple(FAMILIES))
    linear: int = setting(0, choices=(0, 1))  # a path of principal axes and Haar wavelets, to which the network adds
    width: int = setting(64, low=4, high=4096)  # channels of the shared core
    residual_blocks: int = setting(2, low=0, high=32)
    residual_width: int = setting(32, low=1, high=4096)
    downsample: int = setting(4, choices=(1, 2, 4, 8))  # frames a code stands for
    activation: str = setting("gelu", choices=("relu", "gelu", "silu", "elu"))
    dropout: float = setting(0.0, low=0.0, high=0.9)
    behavior_width: int = setting(64, low=1, high=4096)


@dataclass(frozen=True)
class Quantizer:
    type: str = setting("ema", choices=tuple(QUANTIZERS))
    codebook_size: int = setting(128, low=2, high=65536)
    code_dim: int = setting(32, low=1, high=1024)
    groups: int = setting(1, low=1, high=64)  # grouped types only
    levels: int = setting(1, low=1, high=32)  # residual types only
    decay: float = setting(0.95, low=0.0, high=0.9999)
    commitment: float = setting(0.25, low=0.0, high=100.0)
    revive: float = setting(1.0, low=0.0)  # a code whose moving count falls below is reseeded; 0: never
    init: str = setting("kmeans", choices=("kmeans", "batch", "normal"))
    distance: str = setting("euclidean", choices=("euclidean", "cosine"))
    gradient: str = setting("straight_through", choices=("straight_through", "rotation"))  # past the codes
    entropy: float = setting(0.1, low=0.0, high=100.0)  # lfq only: weight of clear choices that use all codes
    bits: float = setting(12.0, low=0.01, high=10_000.0)  # transform only: of a code step, on average
    context: int = setting(1, choices=(0, 1))  # transform only: scales follow what was coded before
    rate: float = setting(1.0, low=0.0, high=100.0)  # transform only: weight of the code length in the loss


@dataclass(frozen=True)
class Loss:
    behavior: float = setting(0.1, low=0.0, high=100.0)


@dataclass(frozen=True)
class Vae:
    latents: int = setting(24, low=1, high=1024)  # of a frame
    window_latents: int = setting(0, low=0, high=1024)  # of a whole window besides
    identity: int = setting(32, low=1, high=1024)  # numbers that say who a neuron is
    pooling: str = setting("factors", choices=("factors", "mean", "attention", "identity"))  # over neurons
    backbone: str = setting("convolution", choices=("transformer", "convolution", "gru"))  # over time
    layers: int = setting(1, low=1, high=32)
    heads: int = setting(4, low=1, high=64)  # of attention over neurons and over time
    masking: float = setting(0.4, low=0.0, high=0.9)  # chance of a neuron to be hidden from a training window
    condition: str = setting("observed", choices=("observed", "always", "never"))  # on behaviour; always: or refuse
    behavior_dropout: float = setting(0.5, low=0.0, high=1.0)  # share of training windows that see no behaviour
    reconstruction: str = setting("mse", choices=("mse", "huber", "gaussian", "poisson"))
    huber: float = setting(1.0, low=1e-3, high=100.0)  # in units of the normalised traces


@dataclass(frozen=True)
class Kl:
    schedule: str = setting("linear", choices=("constant", "linear", "cosine", "sigmoid", "cyclical", "step", "target"))
    weight: float = setting(1.0, low=0.0, high=1000.0)  # the most it comes to; 1: the ELBO of the likelihood
    warmup: float = setting(0.2, low=0.0, high=1.0)  # share of the training until then
    cycles: int = setting(4, low=1, high=1000)  # cyclical only
    target: float = setting(8.0, low=0.0, high=10_000.0)  # nats a frame that the target schedule holds
    free_bits: float = setting(0.0, low=0.0, high=10.0)  # nats a frame of each latent that cost nothing


@dataclass(frozen=True)
class Diffusion:
    core: str = setting("unet", choices=("unet", "dit"))  # over time; model.width channels, model.downsample a step
    depth: int = setting(1, low=1, high=32)  # blocks: a level of the U-Net, or in all of the transformer
    heads: int = setting(4, low=0, high=64)  # of attention over time; 0: a U-Net without
    embedding: int = setting(128, low=8, high=4096)  # numbers that say how noisy a window is
    base: int = setting(1, choices=(0, 1))  # the best linear denoiser, to which the network adds
    path: str = setting("linear", choices=("linear", "cosine"))  # from data to noise
    target: str = setting("velocity", choices=("velocity", "epsilon", "x0", "v"))
    times: str = setting("logit_normal", choices=("uniform", "logit_normal", "mode"))  # of training
    prior: str = setting("independent", choices=("independent", "mixed", "heavy_tailed"))  # what noise is
    share: float = setting(0.5, low=0.0, high=0.99)  # mixed only: of the noise that all frames have in common
    freedom: int = setting(8, low=3, high=1000)  # heavy_tailed only: degrees of freedom
    weighting: str = setting("even", choices=("even", "min_snr", "learned"))  # of the error at each time
    guidance_dropout: float = setting(0.2, low=0.0, high=1.0)  # share of training windows that see no behaviour
    guidance: float = setting(1.0, low=0.0, high=20.0)  # by behaviour: 0 ignores it, 1 follows, more exaggerates
    sampler: str = setting("midpoint", choices=("euler", "midpoint", "heun", "ddim"))
    evaluations: int = setting(16, low=1, high=1000)  # of the network for each window that is drawn
    checkpointing: int = setting(0, choices=(0, 1))  # activations are computed twice and not kept: memory for time
    compiled: int = setting(0, choices=(0, 1))  # torch.compile over the network in time; its first steps take long
    first_stage: str = setting("")  # folder of a trained VQ-VAE or VAE, whose latents are generated; "": traces
    first_stages: tuple[str, ...] = setting(())  # of which a search takes one, such as VAEs of several KL weights


@dataclass(frozen=True)
class Optimizer:
    name: str = setting("adamw", choices=("adamw", "adam", "sgd"))
    lr: float = setting(3e-3, low=1e-8, high=10.0)
    weight_decay: float = setting(1e-4, low=0.0, high=10.0)
    schedule: str = setting("cosine", choices=("constant", "cosine", "cosine_plateau", "step", "plateau"))
    warmup: float = setting(0.05, low=0.0, high=0.9)  # share of the steps
    final: float = setting(0.05, low=0.0, high=1.0)  # share of lr that all but constant and step end at
    clip: float = setting(1.0, low=0.0)  # gradient norm; 0: never
    accumulate: int = setting(1, low=1, high=1024)
    ema: float = setting(0.0, low=0.0, high=0.99999)  # decay of the averaged weights; 0: none


@dataclass(frozen=True)
class Training:
    epochs: int = setting(27, low=1, high=1_000_000)
    patience: int = setting(0, low=0)  # epochs without a better objective; 0: never stop
    seed: int = setting(0, low=0, high=2**31 - 1)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"))
    precision: str = setting("float32", choices=("float32", "bf16", "fp16"))
    workers: int = setting(1, low=1, high=1024)  # Ray Train workers a trial
    shard: int = setting(0, choices=(0, 1))  # spread weights, gradients and moments over them; generative models only
    gpus: float = setting(0.0, low=0.0)  # GPUs a worker
    epoch_limit: float = setting(1800.0, low=1.0)  # s; an epoch over it ends the trial
    save_every: float = setting(10.0, low=0.0)  # s between checkpoints of a running trial


@dataclass(frozen=True)
class Search:
    trials: int = setting(20, low=1)
    objective: str = setting("nmse")
    rate_limit: float = setting(0.0, low=0.0)  # bits/s of recording; 0: that of the default configuration
    sampler: str = setting("tpe", choices=("tpe", "random", "gp", "nsga2"))
    pruner: str = setting("asha", choices=("asha", "hyperband", "median", "none"))
    warm_start: str = setting("")  # folder of another run, whose best configurations are tried first
    keep: int = setting(5, low=1)  # finished trials whose checkpoint is kept
    confirm_top: int = setting(2, low=0, high=1000)  # best trials that are trained again on fresh seeds; 0: none
    confirm_seeds: int = setting(3, low=2, high=1000)  # an interval takes two at least


@dataclass(frozen=True)
class Config:
    """All settings of a training; immutable, comparable, complete."""

    sessions: Sessions = Sessions()
    windows: Windows = Windows()
    model: Model = Model()
    quantizer: Quantizer = Quantizer()
    loss: Loss = Loss()
    vae: Vae = Vae()
    kl: Kl = Kl()
    diffusion: Diffusion = Diffusion()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    search: Search = Search()

    def __post_init__(self) -> None:
        from raycal.checks import check

        check(self)

    def replace(self, values: Mapping[str, Any]) -> Config:
        """Return a copy with the dotted names changed; raise UserError on an unknown name or a bad value."""
        changed: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            value = coerce(name, value)
            section, leaf = name.split(".")
            changed.setdefault(section, {})[leaf] = value
        return dataclasses.replace(
            self, **{s: dataclasses.replace(getattr(self, s), **v) for s, v in changed.items()})

    def get(self, name: str) -> Any:
        """Return the value of a dotted name."""
        _declared(name)
        section, leaf = name.split(".")
        return getattr(getattr(self, section), leaf)

    def flat(self) -> dict[str, Any]:
        """Return {dotted name: value} of every setting, in declaration order; tuples become lists."""
        return {f"{s}.{k}": list(v) if isinstance(v, tuple) else v
                for s, group in dataclasses.asdict(self).items() for k, v in group.items()}

    def to_yaml(self) -> str:
        import yaml

        tree: dict[str, dict[str, Any]] = {}
        for name, value in self.flat().items():
            section, leaf = name.split(".")
            tree.setdefault(section, {})[leaf] = value
        return yaml.safe_dump(tree, sort_keys=False)

    def gpu_wanted(self) -> bool:
        return self.training.gpus > 0 or self.training.device == "cuda"


def names() -> list[str]:
    """Return every dotted name."""
    return list(Config().flat())


def coerce(name: str, value: Any) -> Any:
    """Return value as the type of the setting; raise UserError on an unknown name or a bad value."""
    declared, hint = _declared(name)
    return _coerce(name, value, hint, declared.metadata)


def read_file(path: str | pathlib.Path) -> dict[str, Any]:
    """Read settings from YAML or JSON: {dotted name: value}; sections may also be nested."""
    import yaml

    path = pathlib.Path(path)
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file; give a YAML or JSON file of settings "
                        "(--print-config prints one)") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        mark = getattr(e, "problem_mark", None)
        reason = f"line {mark.line + 1}: {e.problem}" if mark else str(e).splitlines()[0]
        raise UserError(f"--config {path}: cannot be read as YAML or JSON ({reason}); --print-config prints a file to "
                        "begin with") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"--config {path}: holds a {type(tree).__name__}, not settings such as "
                        "'optimizer: {lr: 0.001}'")
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {str(key): value})
    return flat


def parse_set(text: str) -> tuple[str, Any]:
    """Parse "key=value"; the value is read as YAML, so numbers, lists and words need no quotes."""
    import yaml

    name, sep, value = text.partition("=")
    if not sep or not name:
        raise UserError(f"--set {text!r}: write it as key=value, such as --set optimizer.lr=0.001")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        return name.strip(), value


def _declared(name: str) -> tuple[dataclasses.Field, Any]:
    if name not in _declarations():
        raise UserError(f"unknown setting {name!r}{nearest(name, names())} (--print-config lists all)")
    return _declarations()[name]


@functools.cache  # a plan draws 10 000 configurations
def _declarations() -> dict[str, tuple[dataclasses.Field, Any]]:
    return {f"{section}.{f.name}": (f, get_type_hints(group)[f.name])
            for section, group in get_type_hints(Config).items() for f in dataclasses.fields(group)}


def _coerce(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """Return value as the declared type, or raise naming the value and what is allowed."""
    wanted = {int: "a whole number", float: "a number", str: "a word"}.get(hint, "a list of names")
    original = value
    if hint not in (int, float, str):
        value = tuple(value.split(",")) if isinstance(value, str) else value
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise UserError(f"{name}={original!r}: must be {wanted}, such as [velocity, head_angle]")
        return tuple(v.strip() for v in value if v.strip())
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a word
        try:
            value = float(value)
        except ValueError:
            pass
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, hint) or isinstance(value, bool):
        raise UserError(f"{name}={original!r}: must be {wanted}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}={original!r}: must be finite")
    choices, low, high = metadata.get("choices"), metadata.get("low"), metadata.get("high")
    if choices and value not in choices:
        hint_text = nearest(value, choices) if isinstance(value, str) else ""
        raise UserError(f"{name}={original!r}: must be one of {', '.join(map(str, choices))}{hint_text}")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UserError(f"{name}={original!r}: must be {bounds}")
    return value
