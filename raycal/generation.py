"""New windows drawn from a trained generative model, in the unit of its recordings.

    raycal generate RUN --windows 1000 [--behaviour FILE]

    windows = raycal.load("runs/diffusion-1/best").generate(1000)     # (1000, N, L)

Shapes: n windows, N neurons, K behaviours, L frames.
"""
from __future__ import annotations

import io
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from raycal.errors import UserError
from raycal.generative import behavior_of, entry_of
from raycal.inference import Trained, load

if TYPE_CHECKING:
    from raycal.sessions.session import Session

RATES = 0.01  # share by which a behaviour's rate may differ from the model's


def run(model: str, windows: int, *, behavior: str | None = None, out: str | None = None, session: str | None = None,
        seed: int = 0, device: str = "auto", say: Callable[[str], None] = print) -> pathlib.Path:
    """Draw windows and write them with what they are of to an .npz; return its path.

    model: folder of a run or of a trained model. behavior: a recording whose behaviour they are drawn for. out: the
    file; by default generated.npz in the folder. session: which of the model's recordings, by default the first.
    The pictures go to the folder figures/ beside the file. Raise UserError where the model or a file cannot be used.
    """
    from raycal.config import Config
    from raycal.report import generated, pictures
    from raycal.search.folder import write_atomically
    from raycal.training import examples
    from raycal.training.loop import device_of

    trained = load(model, device_of(Config().replace({"training.device": device})))
    check(trained)
    entry, target = entry_of(trained, session or trained.sessions[0]), _target(model, out)
    given = None if behavior is None else behavior_windows(trained, entry, _recording(behavior, trained), windows)
    normalized = drawn(trained, entry, windows, given, seed)
    arrays = {"windows": own_unit(normalized, entry), "neurons": np.array([str(n) for n in entry["neurons"]]),
              "rate": np.float64(entry["rate"]), "session": np.array(entry["id"]), "seed": np.int64(seed),
              "fingerprint": np.array(trained.fingerprint)}
    if given is not None:
        scale = (entry[f"behavior_{k}"].numpy()[:, None] for k in ("spread", "center"))
        arrays |= {"behavior": given * next(scale) + next(scale), "behavior_names": np.array(trained.behavior_names)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    try:
        write_atomically(target, file.getvalue())
    except OSError as e:
        raise UserError(f"--out {target}: cannot be written ({e.strerror or e}); give a file in a folder that you may "
                        "write to") from None
    say(f"{windows} windows of {entry['id']}: {normalized.shape[1]} neurons, {normalized.shape[2]} frames at "
        f"{entry['rate']:.4g} Hz{'' if behavior is None else f', for the behaviour of {behavior}'}")
    said = trained.arrays.get("generated")
    if said and said["session"] == entry["id"]:
        figures = _compared(said, _standardised(arrays["windows"], entry), examples)
        for path in pictures.write(target.parent, generated.draw(figures)):
            say(f"picture      {path}")
    say(f"windows      {target}")
    return target


def check(trained: Trained) -> None:
    """Raise UserError unless the model draws windows."""
    from raycal.models import family

    if family(trained.config).gives != "windows":
        raise UserError(f"a {trained.config.model.family} model draws no windows; generate from one of --space "
                        "diffusion, or apply this one with raycal apply")


def drawn(trained: Trained, entry: Mapping[str, Any], n: int, behavior: np.ndarray | None, seed: int) -> np.ndarray:
    """Return n windows (n, N, L) float32 in the normalised unit; behavior (n, K, L) in train-sd units, None: any."""
    import torch

    from raycal.models.diffusion import drawing

    given = None if behavior is None else torch.from_numpy(behavior)
    windows = trained.model.draw(n, trained.config.windows.length, trained.index(entry), given,
                                 drawing(trained.config), seed)
    return windows.float().cpu().numpy()


def own_unit(windows: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    return windows * entry["spread"].numpy()[:, None] + entry["center"].numpy()[:, None]


def behavior_windows(trained: Trained, entry: Mapping[str, Any], session: Session, n: int) -> np.ndarray:
    """Return behaviour (n, K, L) float32, train-sd units: the session's windows end to end, from the first again where
    they are fewer. Raise UserError where the model was trained without behaviour, or the session is no guide to it."""
    from raycal.seen import Seen

    names, length = trained.behavior_names, trained.config.windows.length
    if not names:
        raise UserError("--behaviour: the model was trained without behaviour, so there is none to draw windows for; "
                        "leave it out")
    seen = Seen.of(session, entry).session
    rate = seen.rate if np.isfinite(seen.rate) else entry["rate"]
    if abs(rate - entry["rate"]) > RATES * entry["rate"]:
        raise UserError(f"--behaviour: {session.id} has {rate:.4g} Hz, the model {entry['rate']:.4g}; resample it, or "
                        "train with sessions.resample")
    values = behavior_of(trained, session, entry)
    values = (values - entry["behavior_center"].numpy()) / entry["behavior_spread"].numpy()
    starts = [start for a, b in seen.segments for start in range(a, b - length + 1, length)]
    if not starts:
        raise UserError(f"--behaviour: {session.id} has no {length} frames in a row, which is a window of the model")
    rows = np.resize(starts, n)[:, None] + np.arange(length)
    return np.ascontiguousarray(np.swapaxes(values[rows], 1, 2), np.float32)


def _recording(path: str, trained: Trained) -> Session:
    from raycal import api

    found = api.read([path], trained.config.sessions.traces)
    if len(found) != 1:
        raise UserError(f"--behaviour {path}: holds {len(found)} recordings; give one")
    return found[0]


def _target(model: str, out: str | None) -> pathlib.Path:
    if out:
        return pathlib.Path(out if out.endswith(".npz") else f"{out}.npz")
    folder = pathlib.Path(model)
    return (folder if folder.is_dir() else folder.parent) / "generated.npz"


def _standardised(windows: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    return (windows - entry["mean"].numpy()[:, None]) / entry["sd"].numpy()[:, None]


def _compared(said: Mapping[str, Any], windows: np.ndarray, examples: Any) -> dict[str, Any]:
    """Return what pictures show of new windows beside the held-out ones that the model was judged on."""
    neurons, shown = (np.asarray(said[key]) for key in ("neurons", "shown"))
    return {**said, "drawn": examples.portrait(windows, neurons, shown)}
