"""A trained model applied to recordings, without Ray.

    model = raycal.load("runs/vq-1/best")
    codes = model.codes(session)          # (S, C) integers
    again = model.reconstruct(session)    # (T, N), in the session's own unit

Shapes: T frames, N neurons, K behaviours, S code steps, C codebooks, D code dimension. Every frame of
every segment is covered: windows of the training length lie end to end, the last is moved back to end
with its segment, and what it covers twice counts once. A segment shorter than a window is one window.
Of a family without codes windows overlap by half, and each says less of a frame the nearer its border
(raycal.overlap).
A model trained with sessions.resample or sessions.smooth sees the recording resampled and smoothed (over its whole
segments) in the same way, and what it says is brought back to the frames that were recorded.
"""
from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raycal.config import Config
from raycal.errors import UserError
from raycal.overlap import Window, blended, cover, told
from raycal.seen import Seen, in_own_unit
from raycal.sessions.resample import restored

if TYPE_CHECKING:
    import torch

    from raycal.application import Applied
    from raycal.sessions.session import Session


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
                         [s["neurons"] for s in data["sessions"]], data.get("first_stage"))
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
    arrays: dict[str, Any] = field(default_factory=dict, repr=False)  # what evaluate.measure left to draw

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

    def latent_name(self, latent: int) -> str:
        """Return what a column of `latents` is called."""
        from raycal.models import latent_name

        return latent_name(self.config, latent)

    def encode(self, session: Session) -> list[np.ndarray]:
        """Return the latents before quantization, (S, D) float32 for each segment; without codes, S are its frames.

        Raise UserError of a family that draws new windows and says nothing of given ones.
        """
        self.check_says()
        seen = self._seen(session)
        kept: list[list[np.ndarray]] = [[] for _ in session.segments]
        for segment, values in self._latents(seen):
            kept[seen.origin(segment)].append(values)
        nothing = next(k[0][:0] for k in kept if k)
        return [np.concatenate([nothing, *k]) for k in kept]

    def latents(self, session: Session) -> np.ndarray:
        """Return the latents (T, D) float32 at the session's own frames, NaN outside segments: the posterior's mean.

        Of traces alone: no behaviour is told. Raise UserError of a family that writes codes.
        """
        self.check_latents()
        seen = self._seen(session)
        return restored(self._blended(seen), seen.grid, seen.recorded)

    def decode(self, latents: np.ndarray, session: Session | str, behavior: np.ndarray | None = None) -> np.ndarray:
        """Return traces (T, N) of latents (T, D) in a session's own unit (raycal.generative)."""
        from raycal import generative

        return generative.decode(self, latents, session, behavior)

    def sample(self, session: Session | str, behavior: np.ndarray | Session | None = None, frames: int = 0,
               draws: int = 1, seed: int = 0) -> np.ndarray:
        """Return traces (draws, T, N) of latents drawn from the prior, under behaviour or none (raycal.generative)."""
        from raycal import generative

        return generative.sample(self, session, behavior, frames, draws, seed)

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
        for window in cover(seen.session.segments, self.config.windows.length):
            starts.append(np.arange(window.start, window.start + window.length, step)[self._first_code(window):])
        frames = np.concatenate(starts)
        return frames if seen.grid is None else seen.grid.first[frames]

    def reconstruct(self, session: Session) -> np.ndarray:
        """Return traces (T, N) float32 in the session's own unit and frames, decoded from the codes, or `latents`.

        NaN outside segments, in stretches too short for one frame of the model's rate, and for neurons the model was
        not trained on (not among sessions.neurons, constant or NaN ones). Raise UserError as `encode` does.
        """
        self.check_says()
        seen = self._seen(session)
        if not self.coded:
            return restored(self.decode(self._blended(seen), session), seen.grid, seen.recorded)
        out = self._filled(seen, len(seen.entry["kept"]), lambda part: self.model([part])[0][0].reconstruction.mT)
        return in_own_unit(out, seen.entry)

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
        entry = generation.entry_of(self, session or self.sessions[0])
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
                            "what latents(session) returns")

    def check_latents(self) -> None:
        """Raise UserError of a family that has no latents of frames."""
        self.check_says()
        if self.coded:
            raise UserError(f"a {self.config.model.family} has latents of code steps, not of frames; they are what "
                            "encode(session) returns, and code_frames(session) says where each begins")

    def _latents(self, seen: Seen) -> Iterator[tuple[int, np.ndarray]]:
        """Yield segments of the session as the model sees it and the latents of each, or of consecutive parts."""
        if self.coded:
            for window, values in self._windows(seen, lambda p: self.model.encode(p.traces, p.session, p.valid)):
                yield window.segment, values[self._first_code(window):]
            return
        whole = self._blended(seen)
        for segment, (start, stop) in enumerate(seen.session.segments):
            yield segment, whole[start:stop]

    def _blended(self, seen: Seen) -> np.ndarray:
        """Return the latents (T, D) of the frames that the model sees."""
        return blended(self.model, self.index(seen.entry), *seen.normalized(), seen.session.segments,
                       self.config.windows.length)

    def _filled(self, seen: Seen, n_columns: int, function: Callable) -> np.ndarray:
        """Return function's values (T, n_columns) at the frames that were recorded, NaN outside segments."""
        out = np.full((seen.session.n_frames, n_columns), np.nan, np.float32)
        for window, values in self._windows(seen, function):
            out[window.start + window.seen:window.start + window.length] = values[window.seen:]
        return restored(out, seen.grid, seen.recorded)

    def _seen(self, session: Session) -> Seen:
        return Seen.of(session, self.entry(session))

    def _windows(self, seen: Seen, function: Callable) -> Iterator[tuple[Window, np.ndarray]]:
        """Yield windows that cover every frame once, in time, each with its row of function(Part)."""
        windows = cover(seen.session.segments, self.config.windows.length)
        return told(function, self.index(seen.entry), *seen.normalized(), windows, next(self.model.parameters()).device)

    def _first_code(self, window: Window) -> int:
        """Return the first code of a window that stands for some frame not covered before."""
        return window.seen // self.config.model.downsample

    def index(self, entry: dict[str, Any]) -> int:
        """Return the number that the model knows an entry's session by."""
        return next(i for i, s in enumerate(self.data["sessions"]) if s is entry)

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
