"""A trained model applied to recordings, without Ray.

    model = raycal.load("runs/vq-1/best")
    codes = model.codes(session)          # (S, C) integers
    again = model.reconstruct(session)    # (T, N), in the session's own unit

Shapes: T frames, N neurons, K behaviours, S code steps, C codebooks, D code dimension. Every frame of
every segment is covered: windows of the training length lie end to end, the last is moved back to end
with its segment, and what it covers twice counts once. A segment shorter than a window is one window.
A model trained with sessions.resample or sessions.smooth sees the recording resampled and smoothed (over its whole
segments) in the same way, and what it says is brought back to the frames that were recorded.
"""
from __future__ import annotations

import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raycal.config import Config
from raycal.errors import UserError
from raycal.sessions.resample import Grid, grid_of, paced, resample, restored
from raycal.sessions.smoothing import smoothed

if TYPE_CHECKING:
    import torch

    from raycal.application import Applied
    from raycal.sessions.session import Session

BATCH = 256  # windows at a time


def load(folder: str | os.PathLike, device: str | torch.device = "cpu") -> Trained:
    """Return the model of a folder that holds model.pt, of a run by its best/model.pt, or of such a file itself.

    Raise UserError when there is none, or the file is damaged or of another format.
    """
    from raycal.training import checkpoint

    folder = pathlib.Path(folder)
    path = next((p for p in (folder, folder / "model.pt", folder / "best" / "model.pt") if p.is_file()), None)
    if path is None:
        raise UserError(f"{folder}: holds no model.pt; give the folder of a trained model, such as RUN/best")
    state = checkpoint.load(path)
    if not state["model"]:
        raise UserError(f"{path}: its training ended ({state['ended_by']}) before there was a model; train again")
    return restored_model(state, device)


def restored_model(state: dict[str, Any], device: str | torch.device = "cpu") -> Trained:
    """Return the model of a state as `checkpoint.export` gives it."""
    from raycal import models

    config, data = Config().replace(state["config"]), state["data"]
    model = models.build(config, [len(s["kept"]) for s in data["sessions"]], len(data["behavior_names"]),
                         [s["neurons"] for s in data["sessions"]])
    model.load_state_dict(state["model"])
    return Trained(config, model.to(device).eval(), data, state["metrics"], state["fingerprint"], state["versions"],
                   state.get("arrays", {}))


@dataclass(frozen=True, eq=False)
class Trained:
    """A model and what it was trained with; metrics are those of its epoch on the validation part."""

    config: Config
    model: torch.nn.Module = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    metrics: dict[str, float] = field(repr=False)
    fingerprint: str
    versions: dict[str, str]
    arrays: dict[str, Any] = field(default_factory=dict, repr=False)  # what its last judgement left to draw

    def __str__(self) -> str:
        described = ", ".join(f"{s['id']} ({s['n_neurons']} neurons)" for s in self.data["sessions"])
        known = ("val/generation", "val/cosmoothing_r2", "val/nmse", "val/r", "val/behavior_r2")
        shown = [k for k in known if k in self.metrics]
        scores = "  ".join(f"{k.removeprefix('val/')} {self.metrics[k]:.4g}" for k in shown)
        return f"{self.config.model.family} of {described}\non validation: {scores}"

    @property
    def sessions(self) -> tuple[str, ...]:
        """Ids of the recordings it was trained on."""
        return tuple(s["id"] for s in self.data["sessions"])

    @property
    def behavior_names(self) -> tuple[str, ...]:
        return tuple(self.data["behavior_names"])

    def encode(self, session: Session) -> list[np.ndarray]:
        """Return the latents before quantization, (S, D) float32 for each segment.

        Raise UserError of a family that draws new windows and says nothing of given ones.
        """
        self.check_says()
        seen = self._seen(session)
        kept: list[list[np.ndarray]] = [[] for _ in session.segments]
        for window, latents in self._windows(seen, lambda p: self.model.encode(p.traces, p.session, p.valid)):
            kept[seen.origin(window.segment)].append(latents[self._first_code(window):])
        nothing = next(k[0][:0] for k in kept if k)
        return [np.concatenate([nothing, *k]) for k in kept]

    def codes(self, session: Session) -> np.ndarray:
        """Return the code indices (S, C) int64 of all segments, in time; `code_frames` says where each begins.

        Raise UserError of a family that writes no codes.
        """
        self._check_coded()
        return np.concatenate([codes[self._first_code(window):] for window, codes in self._windows(
            self._seen(session), lambda part: self.model([part])[0][0].indices)])

    def code_length(self, session: Session) -> float | None:
        """Return the bits of all codes under the model of them that was fitted on train; None for codebooks."""
        if self.model.quantizer.codebook_sizes:
            return None
        windows = self._windows(self._seen(session), lambda part: self.model([part])[0][0].bits)
        return float(sum(bits * (1 - w.seen / w.length) for w, bits in windows))

    def code_frames(self, session: Session) -> np.ndarray:
        """Return the first of the session's own frames (S,) that each row of `codes` stands for.

        Rows are model.downsample frames of the model's rate apart, less where the last window of a segment was moved
        back.
        """
        step, starts, seen = self.config.model.downsample, [], self._seen(session)
        for window in _cover(seen.session.segments, self.config.windows.length):
            starts.append(np.arange(window.start, window.start + window.length, step)[self._first_code(window):])
        frames = np.concatenate(starts)
        return frames if seen.grid is None else seen.grid.first[frames]

    def reconstruct(self, session: Session) -> np.ndarray:
        """Return traces (T, N) float32 in the session's own unit and frames, decoded from the codes.

        NaN outside segments, in stretches too short for one frame of the model's rate, and for neurons the model was
        not trained on (not among sessions.neurons, constant or NaN ones). Raise UserError as `encode` does.
        """
        self.check_says()
        seen = self._seen(session)
        entry = seen.entry
        out = self._filled(seen, len(entry["kept"]), lambda part: self.model([part])[0][0].reconstruction.mT)
        whole = np.full(session.traces.shape, np.nan, np.float32)
        whole[:, entry["kept"]] = out * entry["spread"].numpy() + entry["center"].numpy()
        return whole

    def decode_behavior(self, session: Session) -> np.ndarray:
        """Return behaviour (T, K) float32 in the unit it was trained in, columns as `behavior_names`.

        NaN outside segments. Raise UserError of a family that decodes none.
        """
        self._check_coded()
        seen = self._seen(session)
        out = self._filled(seen, len(self.behavior_names), lambda part: self.model([part])[0][0].behavior.mT)
        return out * seen.entry["behavior_spread"].numpy() + seen.entry["behavior_center"].numpy()

    def generate(self, n: int, session: str | None = None, behavior: Session | None = None,
                 seed: int = 0) -> np.ndarray:
        """Return n new windows (n, N, L) float32 of one of `sessions` (the first), in its own unit.

        behavior: a recording whose behaviour they are drawn for; None: any. The same seed gives the same windows. Raise
        UserError of a family that draws none (raycal.generation).
        """
        from raycal import generation

        generation.check(self)
        entry = generation.entry_of(self, session)
        given = None if behavior is None else generation.behavior_windows(self, entry, behavior, n)
        return generation.own_unit(generation.drawn(self, entry, n, given, seed), entry)

    def apply(self, session: Session) -> Applied:
        """Return everything the model says of a session, and how well it holds there (raycal.application)."""
        from raycal.application import apply

        return apply(self, session)

    def adapt(self, session: Session, epochs: int | None = None, settings: Mapping[str, Any] | None = None) -> Trained:
        """Return this model with a read-in and a read-out for other neurons (raycal.adaptation); this one stays."""
        from raycal import adaptation

        config = adaptation.configure(self, epochs, settings or {})
        return restored_model(adaptation.fit(self, config, adaptation.prepared(config, session)))

    @property
    def coded(self) -> bool:
        """Whether the model writes codes, and decodes behaviour from them."""
        from raycal.models import family

        return family(self.config).coded

    def check_says(self) -> None:
        """Raise UserError where the model says nothing of a recording."""
        from raycal.models import family

        if family(self.config).gives == "windows":
            raise UserError(f"a {self.config.model.family} model draws new windows and says nothing of given ones: "
                            "raycal generate; apply a model of another space")

    def _check_coded(self) -> None:
        self.check_says()
        if not self.coded:
            raise UserError(f"a {self.config.model.family} writes no codes and decodes no behaviour; its latents are "
                            "what encode(session) returns")

    def _filled(self, seen: _Seen, n_columns: int, function: Callable) -> np.ndarray:
        """Return function's values (T, n_columns) at the frames that were recorded, NaN outside segments."""
        out = np.full((seen.session.n_frames, n_columns), np.nan, np.float32)
        for window, values in self._windows(seen, function):
            out[window.start + window.seen:window.start + window.length] = values[window.seen:]
        return restored(out, seen.grid, seen.recorded)

    def _seen(self, session: Session) -> _Seen:
        """Bring a session to the rate that the model was trained at."""
        entry = self.entry(session)
        resample_to = entry.get("resample", 0.0)  # exports of before there was such a thing lack it
        if not resample_to:
            return _Seen(entry, session, session, None)
        recorded = paced(session, entry["recorded_rate"])
        return _Seen(entry, recorded, resample(recorded, resample_to), grid_of(recorded, resample_to))

    def _windows(self, seen: _Seen, function: Callable) -> Iterator[tuple[_Window, np.ndarray]]:
        """Yield every window in time with its row of function(Part)."""
        import torch

        from raycal.sessions.windows import Part

        index = next(i for i, s in enumerate(self.data["sessions"]) if s is seen.entry)
        device = next(self.model.parameters()).device
        traces, valid = _normalized(seen.session, seen.entry)
        for group in _batches(_cover(seen.session.segments, self.config.windows.length)):
            cut = [slice(w.start, w.start + w.length) for w in group]
            part = Part(index, torch.from_numpy(np.stack([traces[c].T for c in cut])).to(device),
                        torch.empty(len(cut), 0, group[0].length, device=device),
                        None if valid is None else torch.from_numpy(np.stack([valid[c].T for c in cut])).to(device))
            with torch.inference_mode():
                values = function(part).cpu().numpy()
            yield from zip(group, values)

    def _first_code(self, window: _Window) -> int:
        """Return the first code of a window that stands for some frame not covered before."""
        return window.seen // self.config.model.downsample

    def entry(self, session: Session) -> dict[str, Any]:
        """Return what is known of the session: by its content, its id, its labels, or as the only one of its size."""
        known = [s for s in self.data["sessions"] if s["n_neurons"] == session.n_neurons]
        tests = (lambda s: s["fingerprint"] and s["fingerprint"] == session.fingerprint,
                 lambda s: s["id"] == session.id,
                 lambda s: any(s["neurons"]) and s["neurons"] == [session.neurons[i] for i in s["kept"]],
                 lambda s: len(self.data["sessions"]) == 1)
        for test in tests:
            if found := [s for s in known if test(s)]:
                return found[0]
        described = ", ".join(f"{s['id']} ({s['n_neurons']} neurons)" for s in self.data["sessions"])
        fit = "" if self.config.sessions.mode == "pad" else "; or fit a read-in for it with raycal apply --adapt"
        raise UserError(f"session {session.id!r} ({session.n_neurons} neurons): the model has no read-in for it; it "
                        f"was trained on {described}\ngive one of these, or a recording with the neuron labels of "
                        f"one{fit}")


class _Seen(NamedTuple):
    """A session as the model sees it, before it is normalised."""

    entry: dict[str, Any]  # what the export says of it
    recorded: Session
    session: Session  # at the model's rate
    grid: Grid | None  # how its frames come from the recorded ones; None: they are the same

    def origin(self, segment: int) -> int:
        """Return the recorded segment that a segment of the session comes from."""
        if self.grid is None:
            return segment
        first = self.grid.runs[segment][0][0]
        return next(i for i, (start, stop) in enumerate(self.recorded.segments) if start <= first < stop)


class _Window(NamedTuple):
    segment: int
    start: int  # frame
    length: int
    seen: int  # leading frames that the window before it covered already


def _cover(segments: Sequence[tuple[int, int]], length: int) -> list[_Window]:
    """Return windows over every frame of every segment, in time."""
    windows = []
    for i, (start, stop) in enumerate(segments):
        size = min(length, stop - start)
        for at in range(start, stop, size):
            begin = min(at, stop - size)
            windows.append(_Window(i, begin, size, at - begin))
    return windows


def _batches(windows: list[_Window]) -> Iterator[list[_Window]]:
    """Yield runs of neighbouring windows of one length, at most BATCH."""
    for _, run in itertools.groupby(windows, key=lambda w: w.length):
        while group := list(itertools.islice(run, BATCH)):
            yield group


def _normalized(session: Session, entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return traces (T, N kept) in the unit of training, 0 where not measured, and where they were measured."""
    traces = session.traces[:, entry["kept"]]
    valid = ~np.isnan(traces) if session.valid is None else session.valid[:, entry["kept"]] & ~np.isnan(traces)
    rate = session.rate if math.isfinite(session.rate) else entry["rate"]
    traces = smoothed(traces, None if valid.all() else ~valid, session.segments, entry.get("smooth", 0.0) * rate)
    traces = (traces - entry["center"].numpy()) / entry["spread"].numpy()
    if valid.all():
        return traces, None
    return np.where(valid, traces, np.float32(0.0)), valid
