"""Behaviour-conditioned VAE: latents of every frame that tell hidden neurons from the others.

The default begins as factor analysis of each session; the search finds what a network adds over time, what to hide in
training, and what a latent may cost. Judged by co-smoothing on validation blocks, which holds no coefficient of the
loss.
"""
from raycal.config import Config

BASE = Config().replace({"model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2",
                         "windows.length": 32, "optimizer.lr": 5e-4, "model.dropout": 0.1, "training.epochs": 9})


def propose(trial, base):
    architecture(trial)
    kl(trial)
    trial.suggest_float("vae.masking", 0.0, 0.6)
    trial.suggest_float("vae.behavior_dropout", 0.0, 1.0)
    if trial.suggest_categorical("vae.reconstruction", losses(base)) == "huber":
        trial.suggest_float("vae.huber", 0.5, 2.0)
    trial.suggest_int("windows.length", 16, 96)
    trial.suggest_float("optimizer.lr", 3e-5, 3e-3, log=True)
    trial.suggest_float("optimizer.weight_decay", 1e-6, 1e-1, log=True)
    return base.replace(trial.params)


def architecture(trial):
    """Suggest what pools neurons, what runs over time, and how much passes between encoder and decoder."""
    trial.suggest_categorical("vae.pooling", ["factors", "mean", "attention", "identity"])
    trial.suggest_categorical("vae.backbone", ["transformer", "convolution", "gru"])
    trial.suggest_int("vae.layers", 1, 3)
    trial.suggest_categorical("model.width", [32, 64, 128])
    trial.suggest_float("model.dropout", 0.0, 0.5)
    trial.suggest_int("vae.latents", 4, 64, log=True)
    trial.suggest_categorical("vae.identity", [32, 80])
    trial.suggest_categorical("vae.window_latents", [0, 4])


def kl(trial):
    """Suggest what latents cost and when; none of it reaches the objective."""
    kind = trial.suggest_categorical("kl.schedule", ["linear", "constant", "cosine", "sigmoid", "cyclical", "step",
                                                     "target"])
    trial.suggest_float("kl.weight", 1e-3, 3.0, log=True)
    trial.suggest_float("kl.free_bits", 0.0, 0.5)
    if kind == "target":
        trial.suggest_float("kl.target", 1.0, 50.0, log=True)
    elif kind != "constant":
        trial.suggest_float("kl.warmup", 0.0, 0.6)


def losses(base):
    """Return the losses that these traces may be compared under: counts only where they are not normalised."""
    counts = base.sessions.normalize == "none" and not base.windows.noise
    return ["mse", "huber", "gaussian", *(["poisson"] if counts else [])]
