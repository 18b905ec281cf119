"""A space whose trials take a second: searched by the tests of searches and of what is said of them."""
from raycal.config import Config

BASE = Config().replace({"quantizer.codebook_size": 16, "quantizer.code_dim": 8, "model.width": 16,
                         "model.residual_blocks": 0, "windows.length": 16, "windows.min_steps": 4,
                         "windows.stride": 32, "training.epochs": 3})


def propose(trial, base):
    if trial.suggest_categorical("quantizer.type", ["ema", "vq"]) == "ema":
        trial.suggest_float("quantizer.decay", 0.8, 0.99)
    trial.suggest_int("quantizer.codebook_size", 8, 16, log=True)
    trial.suggest_float("optimizer.lr", 1e-3, 1e-2, log=True)
    return base.replace(trial.params)
