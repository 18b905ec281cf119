"""VQ-VAE under every quantizer at one rate: transform coding, and codebooks by gradient, averages, levels, groups ...

The rate limit is that of the default configuration: 3 bits a frame, spent where the variance is. The first trials are
one of each type, with 6 bits for 2 frames or 12 for 4, whichever it coded simulated sessions better with.
"""
from raycal.config import Config
from search_spaces.transform import coder
from search_spaces.vq import LINEAR, architecture, training

BASE = Config().replace({**LINEAR, "quantizer.type": "transform", "quantizer.bits": 3.0, "quantizer.code_dim": 128,
                         "model.downsample": 1, "windows.length": 64, "optimizer.lr": 3e-5})
TYPES = ["transform", "vq", "ema", "rvq", "grvq", "fsq", "lfq", "simvq"]
DIMS = [8, 16, 32, 64, 128]
AVERAGED, DIRECTED, RESIDUAL = ("ema", "rvq", "grvq"), ("vq", "ema", "simvq"), ("rvq", "grvq")


def propose(trial, base):
    kind = trial.suggest_categorical("quantizer.type", TYPES)
    if kind == "transform":
        trial.suggest_categorical("quantizer.code_dim", DIMS)
        return coder(trial, base, {**architecture(trial), **training(trial)})
    trial.suggest_int("quantizer.codebook_size", 4, 4096, log=True)
    if kind == "lfq":
        trial.suggest_float("quantizer.entropy", 0.01, 1.0, log=True)
    if kind != "fsq":
        trial.suggest_float("quantizer.commitment", 0.02, 2.0, log=True)
    if kind not in ("fsq", "lfq"):
        vectors(trial, kind)
    return base.replace({**trial.params, **architecture(trial), **training(trial)})


def vectors(trial, kind):
    """Suggest what only quantizers have whose codes are vectors."""
    trial.suggest_categorical("quantizer.code_dim", DIMS)
    trial.suggest_categorical("quantizer.gradient", ["straight_through", "rotation"])
    trial.suggest_categorical("quantizer.init", ["kmeans", "batch", "normal"])
    if kind in DIRECTED:
        trial.suggest_categorical("quantizer.distance", ["euclidean", "cosine"])
    if kind in RESIDUAL:
        trial.suggest_int("quantizer.levels", 1, 4)
    if kind == "grvq":
        trial.suggest_categorical("quantizer.groups", [2, 4])
    if kind in AVERAGED:
        trial.suggest_float("quantizer.decay", 0.8, 0.99)
    if kind != "simvq":
        trial.suggest_categorical("quantizer.revive", [0.0, 0.5, 1.0, 2.0])


def _first(kind, size, downsample, **shape):
    """Return the default with another quantizer; what its type does not read is not suggested."""
    return {**BASE.flat(), "quantizer.type": kind, "quantizer.codebook_size": size, "model.downsample": downsample,
            "quantizer.code_dim": 32, "windows.length": 32, **LINEAR,
            **{f"quantizer.{name}": value for name, value in shape.items()}}


FIRST = [_first("ema", 64, 2), _first("vq", 64, 2), _first("rvq", 64, 4, levels=2),
         _first("grvq", 8, 4, groups=4, levels=1), _first("fsq", 4096, 4), _first("lfq", 4096, 4),
         _first("simvq", 4096, 4)]
