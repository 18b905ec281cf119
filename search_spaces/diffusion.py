"""Flow matching and diffusion of traces: a network that draws new windows, with behaviour or without.

The default begins as the best linear denoiser of each session; the search finds what a network adds, what it is asked
for, and how windows are drawn. Judged by how drawn windows compare with held-out ones, over how real train windows do,
which holds no coefficient of the loss. The window length is not searched: scores of different lengths do not compare.
"""
from raycal.config import Config

BASE = Config().replace({"model.family": "diffusion", "search.objective": "generation", "model.width": 32,
                         "model.downsample": 2, "model.dropout": 0.1, "windows.length": 32, "windows.min_steps": 48,
                         "optimizer.lr": 3e-3, "optimizer.ema": 0.99, "training.epochs": 9})


def propose(trial, base):
    network(trial)
    noise(trial)
    if len(base.diffusion.first_stages) > 1:
        trial.suggest_categorical("diffusion.first_stage", list(base.diffusion.first_stages))
    trial.suggest_float("diffusion.guidance_dropout", 0.0, 0.9)
    trial.suggest_categorical("diffusion.sampler", ["midpoint", "heun", "euler", "ddim"])
    trial.suggest_int("diffusion.evaluations", 4, 64, log=True)
    trial.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True)
    trial.suggest_categorical("optimizer.ema", [0.0, 0.95, 0.99, 0.999])
    trial.suggest_categorical("windows.batch", [16, 32, 64])
    return base.replace(trial.params)


def network(trial):
    """Suggest what runs over time, how wide, deep and coarse it is, and whether linear denoising is given to it."""
    if trial.suggest_categorical("diffusion.core", ["unet", "dit"]) == "unet":
        trial.suggest_categorical("diffusion.heads", [4, 2, 0])
    trial.suggest_int("diffusion.depth", 1, 3)
    trial.suggest_categorical("model.width", [16, 32, 64])
    trial.suggest_categorical("model.downsample", [1, 2, 4])
    trial.suggest_float("model.dropout", 0.0, 0.4)
    trial.suggest_categorical("diffusion.base", [1, 0])


def noise(trial):
    """Suggest what noise is, how it comes, when it is looked at, and what the network says of it."""
    trial.suggest_categorical("diffusion.path", ["linear", "cosine"])
    trial.suggest_categorical("diffusion.target", ["velocity", "epsilon", "x0", "v"])
    trial.suggest_categorical("diffusion.times", ["logit_normal", "uniform", "mode"])
    trial.suggest_categorical("diffusion.weighting", ["even", "min_snr", "learned"])
    if trial.suggest_categorical("diffusion.prior", ["independent", "mixed", "heavy_tailed"]) == "mixed":
        trial.suggest_float("diffusion.share", 0.1, 0.9)
