"""VQ-VAE with one codebook: gradient or moving-average updates."""
from raycal.config import Config

LINEAR = {"model.linear": 1, "optimizer.lr": 5e-4}  # training then begins at a classical code, and may only refine it
BASE = Config().replace({**LINEAR, "quantizer.type": "ema", "quantizer.codebook_size": 128, "windows.length": 32})


def propose(trial, base):
    kind = trial.suggest_categorical("quantizer.type", ["vq", "ema"])
    trial.suggest_int("quantizer.codebook_size", 16, 1024, log=True)
    trial.suggest_int("quantizer.code_dim", 4, 64, log=True)
    trial.suggest_float("quantizer.commitment", 0.02, 2.0, log=True)
    if kind == "ema":
        trial.suggest_float("quantizer.decay", 0.8, 0.99)
        trial.suggest_categorical("quantizer.revive", [0.0, 0.5, 1.0, 2.0])
    return base.replace({**trial.params, **architecture(trial), **training(trial)})


def architecture(trial):
    """Suggest what every VQ-VAE has around its quantizer."""
    trial.suggest_categorical("model.linear", [1, 0])
    trial.suggest_categorical("model.width", [32, 64, 128])
    trial.suggest_int("model.residual_blocks", 0, 3)
    trial.suggest_categorical("model.downsample", [1, 2, 4, 8])
    trial.suggest_categorical("model.activation", ["relu", "gelu", "elu"])
    trial.suggest_float("model.dropout", 0.0, 0.3)
    trial.suggest_int("windows.length", 16, 96, step=8)
    return trial.params


def training(trial):
    """Suggest how it is trained; the weights below scale the loss, never the objective."""
    trial.suggest_float("loss.behavior", 0.01, 1.0, log=True)
    trial.suggest_float("optimizer.lr", 1e-5, 1e-2, log=True)
    trial.suggest_categorical("optimizer.schedule", ["cosine", "constant", "step"])
    trial.suggest_categorical("windows.batch", [16, 32, 64])
    return trial.params
