"""VQ-VAE whose latents are transform coded: bits go where the variance is, as classical coding has it (Goyal 2001).

The default begins as principal axes over neurons and cosines over time under one quantizer step, with scales that
follow what was coded before; the search finds the window, the axes, and what a network adds. On recordings of a few
thousand frames it adds nothing and the small learning rate of the default keeps it from doing harm. Every proposal
spends the rate of the default, 12 bits a frame.
"""
from raycal.config import Config

BITS = 12.0  # a frame
BASE = Config().replace({"quantizer.type": "transform", "quantizer.bits": BITS, "quantizer.code_dim": 256,
                         "model.linear": 1, "model.downsample": 1, "model.width": 32, "model.residual_blocks": 1,
                         "windows.length": 64, "optimizer.lr": 1e-5, "training.epochs": 9})


def propose(trial, base):
    trial.suggest_categorical("model.downsample", [1, 2])
    trial.suggest_categorical("quantizer.code_dim", [64, 128, 256, 512])
    trial.suggest_categorical("model.width", [16, 32, 64])
    trial.suggest_int("model.residual_blocks", 0, 2)
    trial.suggest_float("model.dropout", 0.0, 0.5)
    trial.suggest_int("windows.length", 16, 96)
    trial.suggest_float("windows.noise", 0.0, 0.5)
    trial.suggest_float("optimizer.lr", 1e-6, 3e-3, log=True)
    trial.suggest_float("loss.behavior", 0.01, 1.0, log=True)
    return coder(trial, base, trial.params)


def coder(trial, base, chosen):
    """Return the configuration of a transform coder that spends the rate of the base on what else is chosen."""
    trial.suggest_categorical("quantizer.context", [1, 0])
    trial.suggest_float("quantizer.rate", 0.1, 3.0, log=True)
    bits = base.quantizer.bits / base.model.downsample  # a frame
    return base.replace({**chosen, **trial.params, "quantizer.bits": bits * chosen["model.downsample"]})
