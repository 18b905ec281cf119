"""Checkpoints: everything a result needs, in tensors and plain values, so that loading runs no code.

The state of a training (what `loop.train` hands to `save`, and takes back as `resume`):
    model, optimizer, scaler, ema   of the last epoch
    epoch, history                  the last epoch's number (from 1), the metrics of every epoch
    kl                              of a model with latents of frames: the KL divergence of every epoch (epochs, D), nats a frame
    best                            {"epoch", "value", "model", "arrays"}: weights as they were judged, and what
                                    evaluate.measure left to draw of them
    done, ended_by                  whether training is over, and why
    until                           the epoch it ends after whatever comes, 0 where it is judged
    config, data, fingerprint, versions, objective, format
`export` leaves what a delivered model needs: the best weights, their metrics and arrays, and the last line.
"""
from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import tempfile
from collections.abc import Sequence
from typing import Any

from raycal.errors import UserError

FORMAT = 1
SLACK = 2**16  # bytes of a file beside its weights: names, settings, metrics
HISTORY = 2**11  # bytes that the metrics of an epoch take at most


def save(target: str | os.PathLike | Any, state: dict[str, Any]) -> None:
    """Write a state to a path or to an open binary file; a reader of the path never sees half of it."""
    import torch

    if hasattr(target, "write"):
        torch.save(state, target)
        return
    path = pathlib.Path(target)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            torch.save(state, f)
        os.replace(temporary, path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(e.__context__, OSError):  # torch says "unexpected pos" of a disk that is full
            raise e.__context__ from None
        raise


def size(config: Any, n_neurons: Sequence[int], n_behaviors: int) -> tuple[int, int]:
    """Return the bytes that the state of a training under this Config takes at most, and an export of it."""
    import torch

    from raycal import models
    from raycal.training import first_stage

    first = first_stage.of(config)
    with torch.device("meta"):
        model = models.build(config, n_neurons, n_behaviors, first=first)
    weights = sum(t.nbytes for t in model.state_dict().values())
    trained = sum(p.nbytes for p in model.parameters())
    file = SLACK + 2**9 * len(model.state_dict()) + HISTORY * config.training.epochs + 4 * sum(n_neurons)
    if config.model.family == "vae":  # the KL divergence of each latent, epoch by epoch
        file += 4 * (config.vae.latents + config.vae.window_latents) * config.training.epochs
    moments = {"sgd": 1}.get(config.optimizer.name, 2)  # of the optimizer, each as large as the weights
    # of a running trial: the last weights, the best ones, the moments, the averaged weights
    return 2 * weights + moments * trained + bool(config.optimizer.ema) * weights + 2 * file, weights + file


def load(source: str | os.PathLike | Any, map_location: str = "cpu") -> dict[str, Any]:
    """Read a state; raise UserError when it is missing, damaged, or of another format."""
    import torch

    try:
        state = torch.load(source, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{source}: no such checkpoint") from None
    except Exception as e:  # torch raises RuntimeError, UnpicklingError, EOFError and others on damaged files
        raise UserError(f"{source}: is not a raycal checkpoint, or is damaged ({type(e).__name__}); copy it again, or "
                        "train again") from e
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise UserError(f"{source}: checkpoint of format {found}, this raycal reads format {FORMAT}; "
                        "use the version of raycal that wrote it, or train again")
    return state


def export(state: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a state that a delivered model needs: the best epoch's model, "metrics" and "arrays"."""
    best = state["best"]
    kept = ("format", "config", "data", "fingerprint", "versions", "objective", "ended_by", "history")
    metrics = state["history"][best["epoch"] - 1] if best["epoch"] else {}
    arrays = {**best.get("arrays", {}), **({"kl_by_epoch": state["kl"]} if len(state.get("kl", ())) else {})}
    return {**{k: state[k] for k in kept}, "model": best["model"], "metrics": metrics, "arrays": arrays,
            "best": {"epoch": best["epoch"], "value": best["value"]}, "epoch": state["epoch"], "done": state["done"]}


def copied(tree: Any) -> Any:
    """Return a nested state with every tensor and array as a CPU tensor of its own, which training does not change."""
    import numpy as np
    import torch

    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, np.ndarray):
        return torch.tensor(tree)
    if isinstance(tree, dict):
        return {k: copied(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(copied(v) for v in tree)
    return tree


def versions() -> dict[str, str]:
    """Return the versions a number may depend on."""
    import numpy
    import torch

    import raycal

    return {"raycal": raycal.__version__, "torch": str(torch.__version__), "numpy": numpy.__version__,
            "python": platform.python_version()}


def describe(dataset: Any, normalize: str) -> dict[str, Any]:
    """Return, in tensors and plain values, what applying a model to a recording takes.

    A session: id, fingerprint, rate (Hz, that the model works at), recorded_rate and resample (Hz), smooth (s), neurons
    (labels of the kept), kept (their columns in the recording), n_neurons (of the recording), center and spread
    (kept,) of the train part, mean and sd (kept,) of it in whichever normalisation, behavior_center and
    behavior_spread (K,).
    """
    return {"normalize": normalize, "mode": dataset.mode, "behavior_names": list(dataset.behavior_names),
            "behavior_units": list(dataset.behavior_units),
            "sessions": [_session(r, normalize) for r in dataset.recordings]}


def _session(recording: Any, normalize: str) -> dict[str, Any]:
    (center, spread), (mean, sd) = recording.scalers[normalize], recording.scalers["zscore"]
    return {"id": recording.id, "fingerprint": recording.fingerprint, "rate": float(recording.rate),
            "recorded_rate": float(recording.recorded_rate), "resample": float(recording.resample),
            "smooth": float(recording.smooth), "neurons": [str(label) for label in recording.neurons],
            "kept": list(recording.kept), "n_neurons": recording.n_recorded, "center": _tensor(center),
            "spread": _tensor(spread), "mean": _tensor(mean), "sd": _tensor(sd),
            "behavior_center": _tensor(recording.behavior_center),
            "behavior_spread": _tensor(recording.behavior_spread)}


def _tensor(array: Any):
    import torch

    return torch.tensor(array, dtype=torch.float32)
