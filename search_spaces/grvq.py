"""VQ-VAE whose code is cut into groups, each quantized in residual levels (HiFi-Codec, arXiv 2305.02765).

The quantizer type is searched too: at the rate limit of the default configuration a single
codebook competes with groups and levels of small ones.
"""
from raycal.config import Config
from search_spaces.vq import LINEAR, architecture, training

BASE = Config().replace({**LINEAR, "quantizer.type": "grvq", "quantizer.groups": 4, "quantizer.levels": 2,
                         "quantizer.codebook_size": 64, "quantizer.code_dim": 32, "windows.length": 32})


def propose(trial, base):
    kind = trial.suggest_categorical("quantizer.type", ["grvq", "ema", "vq"])
    if kind == "grvq":
        trial.suggest_categorical("quantizer.groups", [1, 2, 4, 8])
        trial.suggest_int("quantizer.levels", 1, 4)
    trial.suggest_int("quantizer.codebook_size", 16, 512, log=True)
    trial.suggest_categorical("quantizer.code_dim", [8, 16, 32, 64])
    trial.suggest_float("quantizer.commitment", 0.02, 2.0, log=True)
    if kind != "vq":
        trial.suggest_float("quantizer.decay", 0.8, 0.99)
        trial.suggest_categorical("quantizer.revive", [0.0, 0.5, 1.0, 2.0])
    return base.replace({**trial.params, **architecture(trial), **training(trial)})
