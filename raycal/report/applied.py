"""The folder of `raycal apply`: a file a session, metrics.json, and a model a session that one was adapted to.

    applied/
      mouse.npz      what the model says of mouse (raycal.application.Applied); mouse.h5 with --format hdf5
      mouse.pt       with --adapt: the model that has a read-in for mouse (raycal.load)
      metrics.json   how well it holds there
"""
from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raycal.errors import UserError, nearest
from raycal.search.folder import write_atomically

ABOUT = {
    "figures": "of the whole session as it was recorded, neither smoothed nor resampled; of one that was seen in "
               "training (null: it has the id of one, and other content) they hold the train frames and the sealed "
               "test frames alike: they are no test, and no model may be chosen by them",
    "nmse": "squared error over squared deviation from the mean that nmse_about names, each neuron in units of its sd "
            "about that mean, all pooled: 0 is perfect, 1 what that mean itself gives; behavior_r2 is about the same",
    "nmse_about": "train: the mean of the session's train blocks, where it was seen in training; session: the mean of "
                  "the whole session, where it was not",
    "neuron_r": "correlation of each recorded neuron; null where the model does not see it, or it does not vary",
    "bits_per_second": "sum of the codebooks' entropies over the session, times the codes a second of it; without "
                       "codebooks the code length under the model of codes that was fitted on train",
    "validation": "with --adapt: the adapted model on the session's validation blocks, by which its epoch was chosen; "
                  "nmse about the mean of its train blocks",
    "code_length": "with --adapt: bits/s that the codes of the validation blocks cost, under models of the codes that "
                   "were counted on the train blocks: each alone (independent), given the same codebook one step before "
                   "(conditional), given the codebook before at the same step (joint)",
}


def _write_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    with open(path, "wb") as f:  # a file object: savez would add .npz to a name
        np.savez(f, **arrays)


def _write_hdf5(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    import h5py

    with h5py.File(path, "w") as f:
        for name, array in arrays.items():
            words = array.dtype.kind == "U"  # h5py takes text as objects alone
            f.create_dataset(name, data=array.astype(object) if words else array,
                             dtype=h5py.string_dtype() if words else None)


FORMATS = {"npz": (".npz", _write_npz), "hdf5": (".h5", _write_hdf5)}


class AppliedFolder:
    """A folder that is made once, by one call, and holds whole files only."""

    def __init__(self, out: str | os.PathLike, format: str):
        """Raise UserError where out is in use, or the format is unknown; nothing is made yet."""
        if format not in FORMATS:
            raise UserError(f"--format {format}: must be one of {', '.join(FORMATS)}{nearest(format, FORMATS)}")
        self.path = pathlib.Path(out).expanduser()
        self._suffix, self._write = FORMATS[format]
        self._names: dict[str, str] = {}
        self.report: dict[str, Any] = {}
        with _said(self.path):
            if self.path.exists() and not (self.path.is_dir() and not any(self.path.iterdir())):
                raise UserError(f"--out {out}: already used; give a new or an empty folder")

    def make(self, ids: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Make the folder for sessions of these ids; raise UserError where it cannot be written to."""
        self._names = _file_names(ids)
        self.report = {**facts, "about": ABOUT, "sessions": {}}
        with _said(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._write_report()

    def write(self, id: str, arrays: Mapping[str, np.ndarray], metrics: Mapping[str, Any]) -> str:
        """Write a session's file and metrics.json anew; return the line that says so."""
        name = self._names[id] + self._suffix
        with _whole(self.path / name) as path:
            self._write(path, arrays)
        self.report["sessions"][id] = {"file": name, **metrics}
        self._write_report()  # after each session: what is interrupted keeps what it has
        return _line(id, self.report["sessions"][id])

    def write_model(self, id: str, state: dict[str, Any]) -> str:
        """Write the model adapted to a session; return the file's name."""
        from raycal.training import checkpoint

        name = f"{self._names[id]}.pt"
        with _whole(self.path / name) as path, open(path, "wb") as f:
            checkpoint.save(f, state)
        return name

    def closing(self) -> str:
        """Return where the results are, what their figures are not, and what to run next."""
        sessions = list(self.report["sessions"].values())
        file, model = self.path / sessions[0]["file"], sessions[0].get("model")
        opened = f"numpy.load({str(file)!r})" if self._suffix == ".npz" else f"h5py.File({str(file)!r})"
        shown = "codes" if "codes" in sessions[0] else "latents"
        code = f"import {opened.split('.')[0]}; print({opened}['{shown}'][:])"
        if model:
            code = f"import raycal; print(raycal.load({str(self.path / model)!r}))"
        code = f'"{code}"' if shlex.quote(str(file)) == str(file) else shlex.quote(code)
        lines = [f"results      {self.path}   (a {self._suffix} a session; metrics.json says what the figures mean)"]
        if model:
            lines += [f"models       {self.path}/*.pt   (raycal.load, raycal apply)",
                      "             val: validation blocks of the new session, which chose the epoch"]
        if any(s["seen_in_training"] is not False for s in sessions):
            lines += ["             figures of whole sessions that were seen in training hold their train frames"]
        return "\n".join([*lines, f"next         python -c {code}"])

    def _write_report(self) -> None:
        with _said(self.path / "metrics.json"):
            write_atomically(self.path / "metrics.json", json.dumps(_plain(self.report), indent=1, allow_nan=False))


@contextlib.contextmanager
def _said(path: pathlib.Path) -> Iterator[None]:
    """Turn what the system refuses within the block into a UserError."""
    try:
        yield
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e}); give with --out a folder with space that you "
                        "may write to") from None


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a path to write to; a reader of `path` never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with _said(path):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _file_names(ids: Sequence[str]) -> dict[str, str]:
    """Return {id: name of its files without suffix}: letters, digits, . + - and _ alone, short, no two alike."""
    names: dict[str, str] = {}
    for id in ids:
        stem = re.sub(r"[^\w.+-]+", "_", id, flags=re.ASCII).lstrip(".")[:100] or "session"
        taken = {name.lower() for name in names.values()}  # some file systems know no case
        names[id] = next(n for n in (stem, *(f"{stem}-{k}" for k in range(2, len(ids) + 2))) if n.lower() not in taken)
    return names


def _line(id: str, metrics: Mapping[str, Any]) -> str:
    shown = [f"NMSE {metrics['nmse']:.4f} about the {metrics['nmse_about']} mean", f"r {metrics['r']:.4f}",
             *([f"{metrics['bits_per_second']:.4g} bits/s"] if "bits_per_second" in metrics else []),
             *(f"{name} R2 {value:.4f}" for name, value in list(metrics.get("behavior_r2", {}).items())[:4])]
    if "validation" in metrics:
        shown[:0] = [f"val NMSE {metrics['validation']['nmse']:.4f} at epoch {metrics['best_epoch']}; whole session:"]
    return f"{id:<14} {'  '.join(shown)}{'  (seen in training)' if metrics['seen_in_training'] else ''}"


def _plain(value: Any) -> Any:
    """Turn numbers that are not finite into null: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
