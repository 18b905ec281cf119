"""A trained model applied to whole recordings: what it says of each, and how well that holds.

    raycal apply RUN/best --sessions 'new/*.nwb' --out applied

    applied = raycal.load("runs/grvq-1/best").apply(session)
    applied.arrays["codes"], applied.metrics["nmse"]

Shapes: T frames, N neurons, K behaviours, S code steps, C codebooks, D code dimension.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raycal.config import Config
from raycal.errors import UserError
from raycal.inference import Trained, load, restored_model
from raycal.metrics import codebook
from raycal.metrics.decoding import r2
from raycal.metrics.reconstruction import ReconstructionSums, mean_r
from raycal.models import quantizers
from raycal.report.applied import AppliedFolder
from raycal.sessions.behavior import named
from raycal.sessions.scalers import Scaler, behavior_scaler, float32, scalers

if TYPE_CHECKING:
    from raycal.sessions.prepare import Dataset
    from raycal.sessions.session import Session

ROWS = 4096  # frames summed at a time in float64


class Applied(NamedTuple):
    """What a model says of one session.

    arrays: `codes` (S, C), `code_frames` (S,) the first frame of each, `latents` (S, D) before quantization,
    `reconstruction` (T, N) in the session's own unit, `behavior` (T, K) decoded, `behavior_names`, `behavior_units`
    (K,) and `times` (T,) in s. NaN where the model says nothing: outside segments, and neurons that it does not see.
    Of a family without codes: `latents` (T, D), `reconstruction` and `times`.
    metrics: figures of the whole session, as raycal.report.applied.ABOUT defines them.
    """

    arrays: dict[str, np.ndarray]
    metrics: dict[str, Any]


def run(model: str, sessions: Sequence[Any], out: str, *, adapt: bool = False, epochs: int | None = None,
        format: str = "npz", device: str = "auto", settings: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = print) -> AppliedFolder:
    """Apply the model of a folder or file to sessions and write what it says to the folder `out`.

    adapt: fit a read-in and a read-out for each session first, of at most `epochs` epochs, and write its model too.
    settings: sessions.traces, and with adapt those of raycal.adaptation.SETTABLE. Every session is checked before
    anything is written. Raise UserError where the model or a session cannot be used, or out is in use or unwritable.
    """
    from raycal import adaptation, api
    from raycal.training.loop import device_of

    folder, settings = AppliedFolder(out, format), dict(settings or {})
    where = device_of(Config().replace({"training.device": device}))
    trained = load(model, where)
    trained.check_says()
    traces = settings.pop("sessions.traces", trained.config.sessions.traces)
    if not adapt and (settings or epochs):
        raise UserError(f"{next(iter(settings), '--epochs')}: has a use with --adapt alone; leave it out")
    config = adaptation.configure(trained, epochs, settings, device) if adapt else trained.config
    recordings = api.read(sessions, config.replace({"sessions.traces": traces}).sessions.traces)
    if not recordings:
        raise UserError("no session to apply the model to; give at least one with --sessions")
    ready = [adaptation.prepared(config, s, say) if adapt else trained.entry(s) for s in recordings]
    folder.make([s.id for s in recordings], {"model": str(model), "fingerprint": trained.fingerprint})
    for session, known in zip(recordings, ready):
        used, facts = _adapted(trained, config, known, folder, where, say) if adapt else (trained, {})
        arrays, metrics = apply(used, session)
        say(folder.write(session.id, arrays, {**metrics, **facts}))
    return folder


def _adapted(trained: Trained, config: Config, dataset: Dataset, folder: AppliedFolder, device,
             say: Callable[[str], None]) -> tuple[Trained, dict[str, Any]]:
    """Fit and write the model of one new session; return it and what metrics.json says of it."""
    from raycal import adaptation
    from raycal.report.latents import judged

    id = dataset.recordings[0].id
    state = adaptation.fit(trained, config, dataset,
                           lambda e: say(f"{id:<14} epoch {e.epoch:3d}  val NMSE {e.objective:.4f}"))
    name = folder.write_model(id, state)
    validation = {k.removeprefix("val/"): v for k, v in state["metrics"].items() if k.startswith("val/")}
    adapted = restored_model(state, device)
    facts = {"model": name, "epochs": state["epoch"], "best_epoch": state["best"]["epoch"], "validation": validation,
             "code_length": judged(adapted, dataset, drawn=False)[0]}
    return adapted, facts


def apply(trained: Trained, session: Session) -> Applied:
    """Return everything a model says of a session; raise UserError where it has no read-in for it."""
    entry, seen = trained.entry(session), _seen_in_training(trained, session)
    arrays = {"latents": np.concatenate(trained.encode(session)) if trained.coded else trained.latents(session),
              "reconstruction": trained.reconstruct(session), "times": session.times}
    if trained.coded:
        arrays |= {"codes": trained.codes(session), "code_frames": trained.code_frames(session),
                   "behavior": trained.decode_behavior(session),
                   "behavior_names": np.array(trained.behavior_names, str),
                   "behavior_units": np.array(trained.data["behavior_units"], str)}
    seconds = sum(stop - start for start, stop in session.segments) / _rate(session, entry)
    metrics = {"seen_in_training": seen, "read_in_of": entry["id"], "frames": session.n_frames, "seconds": seconds,
               "neurons": len(entry["kept"]),
               **_reconstruction(session, arrays["reconstruction"], np.array(entry["kept"]),
                                 _train_scaler(trained, entry) if seen else None)}
    if trained.coded:
        metrics |= {**_codes(arrays["codes"], trained.config, seconds, trained.code_length(session)),
                    "behavior_r2": _decoding(trained, session, arrays["behavior"], entry, bool(seen))}
    return Applied(arrays, metrics)


def _seen_in_training(trained: Trained, session: Session) -> bool | None:
    """Tell whether the model was trained on this content; None where the id says so and the content differs."""
    if session.fingerprint in [s["fingerprint"] for s in trained.data["sessions"]]:
        return True
    return None if session.id in trained.sessions else False


def _rate(session: Session, entry: dict[str, Any]) -> float:
    """Return the session's frames a second, those of its training where it states none."""
    return session.rate if math.isfinite(session.rate) else entry.get("recorded_rate", entry["rate"])


def _train_scaler(trained: Trained, entry: dict[str, Any]) -> Scaler | None:
    """Return mean and sd (kept,) of the train blocks; None where an older export of another scaler lacks them."""
    names = ("mean", "sd") if "mean" in entry else ("center", "spread") if trained.data["normalize"] == "zscore" else ()
    return tuple(entry[name].numpy() for name in names) or None


def _reconstruction(session: Session, prediction: np.ndarray, kept: np.ndarray,
                    train: Scaler | None) -> dict[str, Any]:
    """Return NMSE and correlations of prediction (T, N) over all values that were measured and predicted."""
    counted = ~np.isnan(prediction) & ~np.isnan(session.traces)
    if session.valid is not None:
        counted &= session.valid
    own = None if train else scalers(session.traces, ~counted, np.arange(session.n_frames), kept)["zscore"]
    sums = ReconstructionSums(len(kept), (0.0, 1.0), train or float32(*own))  # arrays come in the session's own unit
    for first in range(0, session.n_frames, ROWS):
        target, said, used = (a[first:first + ROWS, kept].T[None] for a in (session.traces, prediction, counted))
        sums.add(target, said, valid=used)
    each = np.full(session.n_neurons, np.nan)
    each[kept] = sums.r
    return {"nmse": sums.nmse, "nmse_about": "train" if train else "session", "r": mean_r([sums]),
            "neuron_r": each.tolist()}


def _codes(codes: np.ndarray, config: Config, seconds: float, bits: float | None) -> dict[str, float]:
    """Return the figures of codes (S, C); bits: their code length where there is no codebook to count in."""
    sizes = quantizers.codebook_sizes(config.quantizer)
    if bits is not None:
        return {"codes": len(codes), "bits_per_second": bits / seconds, "usage": float((codes != 0).any(0).mean())}
    found = codebook.summary([codebook.count(column, size) for column, size in zip(codes.T, sizes)])
    return {"codes": len(codes), "bits_per_second": found.pop("bits") * len(codes) / seconds, **found}


def _decoding(trained: Trained, session: Session, prediction: np.ndarray, entry: dict[str, Any],
              seen: bool) -> dict[str, float]:
    """Return {behaviour: R2} of prediction (T, K), of those that the session has and that vary in it."""
    names = trained.behavior_names
    target = named(session, names, trained.config.sessions, _rate(session, entry))
    said = ~np.isnan(prediction).any(axis=1)
    target, prediction = target[said], prediction[said]
    scaler = [entry[f"behavior_{k}"].numpy() for k in ("center", "spread")] if seen else behavior_scaler(target)
    return {name: float(value) for name, value in zip(names, r2(target, prediction, *scaler).train)
            if not np.isnan(value)}
