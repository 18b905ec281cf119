"""TensorBoard: one event file a trial, with HParams, every metric of every epoch, pictures and histograms.

The experiment summary that HParams reads its columns from names every parameter of the space,
conditional ones included, and the best value of a trial, not its last; it stands in the first
trial's file.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class TensorBoard:
    """Listens to a search and writes what TensorBoard shows; folder(number) is a trial's folder."""

    def __init__(self, folder, distributions: Mapping[str, Any], objective: str, params):
        self._folder, self._objective, self._params = folder, objective, params
        self._distributions = distributions
        self._writers: dict[int, Any] = {}
        self._extras: dict[int, dict[str, Any]] = {}
        self._columns: tuple[str, ...] = ()
        self._described = False

    def on_start(self, number: int, config: Any) -> None:
        from tensorboardX.summary import hparams

        from raycal.report.eventfile import writer as writer_in

        writer = writer_in(self._folder(number))
        self._writers[number] = writer
        params = self._params(number)
        samples = {**{name: _sample(d) for name, d in self._distributions.items()}, **params}
        self._columns = columns_of(config)
        columns = {f"best/{key.removeprefix('val/')}": 0.0 for key in self._columns}
        experiment, _, _ = hparams(samples, {"best/objective": 0.0, **columns})
        _, start, _ = hparams({k: _shown(v) for k, v in params.items()}, {})
        if number == 0 or not self._described:
            writer.file_writer.add_summary(experiment)
            self._described = True
        writer.file_writer.add_summary(start)

    def on_epoch(self, number: int, event: dict[str, Any]) -> None:
        writer = self._writers[number]
        for key, value in event["metrics"].items():
            if isinstance(value, (int, float)):
                writer.add_scalar(key, value, event["epoch"])
        writer.add_scalar("objective", event["objective"], event["epoch"])
        if event["extras"]:
            self._extras[number] = event["extras"]

    def on_end(self, number: int, event: dict[str, Any], trial: Any) -> None:
        from tensorboardX.summary import hparams

        from raycal.report.figures import draw_reconstruction
        from raycal.report.frames import draw_hidden

        writer, extras = self._writers.pop(number), self._extras.pop(number, {})
        epoch, metrics = trial.user_attrs["best_epoch"], trial.user_attrs["metrics"]
        for key in self._columns:
            if isinstance(metrics.get(key), (int, float)):
                writer.add_scalar(f"best/{key.removeprefix('val/')}", metrics[key], epoch)
        if isinstance(metrics.get(self._objective), (int, float)):
            writer.add_scalar("best/objective", metrics[self._objective], epoch)
        if "examples" in extras:
            writer.add_image("reconstruction", _picture(draw_reconstruction, extras["examples"]), epoch,
                             dataformats="HWC")
        if "hidden" in extras:
            writer.add_image("hidden-neurons", _picture(draw_hidden, extras["hidden"]), epoch, dataformats="HWC")
        if "kl" in extras:
            add_counts(writer, "latents/kl", np.asarray(extras["kl"]), epoch)
        for name, figure in _drawn(extras).items():
            writer.add_image(name, figure, epoch, dataformats="HWC")
        for codebook, counts in enumerate(extras.get("counts", ())):
            add_counts(writer, f"codebook/{codebook}", np.asarray(counts), epoch)
        writer.file_writer.add_summary(hparams({}, {})[2])
        writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def columns_of(config: Any) -> tuple[str, ...]:
    """Return the metrics that HParams shows a column of: what the family may be judged by, and the usage of codes."""
    from raycal.models import family

    found = family(config)
    return (*(metric for metric, _ in found.objectives.values()), *["val/usage"] * found.coded)


def add_counts(writer: Any, tag: str, counts: np.ndarray, step: int) -> None:
    """Write how often each code was used, or what each latent costs, as a histogram of codes, of at most 64 bins."""
    edges = np.unique(np.linspace(0, len(counts), min(64, len(counts)) + 1).astype(int))
    bins = np.add.reduceat(counts, edges[:-1])
    codes = np.arange(len(counts))
    total = max(int(counts.sum()), 1)
    writer.add_histogram_raw(tag, min=0, max=len(counts) - 1, num=total, sum=float((codes * counts).sum()),
                             sum_squares=float((codes.astype(float) ** 2 * counts).sum()),
                             bucket_limits=[float(e) for e in edges[1:]], bucket_counts=[float(b) for b in bins],
                             global_step=step)


def _picture(draw: Callable[[Mapping[str, Any]], Any], examples: Mapping[str, Any]) -> np.ndarray:
    """Draw example windows as an image (H, W, 3)."""
    from raycal.report.pictures import rendered

    return rendered(draw(examples))[..., :3]


def _drawn(extras: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return pictures of windows that a model drew as images (H, W, 3), none of a model that draws none."""
    from raycal.report.generated import draw
    from raycal.report.pictures import rendered

    return {name: rendered(figure)[..., :3] for name, figure in draw(extras["generated"]).items()} \
        if "generated" in extras else {}


def _sample(distribution: Any) -> Any:
    return _shown(distribution.choices[0] if hasattr(distribution, "choices") else distribution.low)


def _shown(value: Any) -> Any:
    return value if isinstance(value, (str, bool, int, float)) else str(value)


