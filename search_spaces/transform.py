"""VQ-VAE whose latents are transform coded: bits go where the variance is, as classical coding has it (Goyal 2001).

The default begins as principal axes over neurons and cosines over time under one quantizer step, with scales that
follow what was coded before; the search finds the window, the axes, and what a network adds. Every proposal spends the
rate of the default, 12 bits a frame.
"""
from raycal.config import Config
from search_spaces.vq import training

BITS = 12.0  # a frame
BASE = Config().replace({"quantizer.type": "transform", "quantizer.bits": BITS, "quantizer.code_dim": 128,
                         "model.linear": 1, "model.downsample": 1, "model.width": 32, "model.residual_blocks": 1,
                         "windows.length": 32, "optimizer.lr": 1e-4, "training.epochs": 9})


def propose(trial, base):
    trial.suggest_categorical("model.downsample", [1, 2])
    trial.suggest_categorical("quantizer.code_dim", [64, 128, 256])
    trial.suggest_categorical("model.width", [16, 32, 64])
    trial.suggest_int("model.residual_blocks", 0, 2)
    trial.suggest_float("model.dropout", 0.0, 0.5)
    trial.suggest_categorical("windows.length", [16, 24, 32, 48, 64, 96])
    trial.suggest_float("windows.noise", 0.0, 0.5)
    return coder(trial, base, training(trial))


def coder(trial, base, chosen):
    """Return the configuration of a transform coder that spends the rate of the base on what else is chosen."""
    trial.suggest_categorical("quantizer.context", [1, 0])
    trial.suggest_float("quantizer.rate", 0.1, 3.0, log=True)
    bits = base.quantizer.bits / base.model.downsample  # a frame
    return base.replace({**chosen, **trial.params, "quantizer.bits": bits * chosen["model.downsample"]})
