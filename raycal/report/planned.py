"""The first lines of a search, and all that `raycal plan` prints: what will run, from what was read and measured."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MARKS = {"train": "\u2588", "validation": "\u2593", "test": "\u2591"}
GAP = "\u00b7"  # a gap between parts, or frames that no window takes
SPARE = 0.9  # of a GPU's memory; what is left is CUDA's own
WIDTH, SESSIONS = 60, 6  # columns of a strip; sessions drawn


def settled(plan: Any) -> list[str]:
    """Return what is known once recordings are read: judge, split, data."""
    better = ", ".join(f"{key} ({'lower' if d == 'minimize' else 'higher'} is better)"
                       for key, d in zip(plan.objectives, plan.directions))
    limit = f", at most {plan.rate_limit:.4g} bits a second of recording" if plan.rate_limit else ""
    drawn = list(zip(plan.sketches, plan.agreement.splits))
    lines = [f"judged by    {better}{limit}",
             f"split        {MARKS['train']} train  {MARKS['validation']} validation  {MARKS['test']} test, sealed  "
             f"{GAP} gap or unused"]
    lines += [f"  {_cut(sketch.id, 18):<18} {strip(cut.pieces, sketch.n_frames)}  {sketch.n_neurons} neurons, "
              f"{_frames(cut.pieces)} frames" for sketch, cut in drawn[:SESSIONS]]
    if len(drawn) > SESSIONS:
        lines.append(f"  and {len(drawn) - SESSIONS} more sessions")
    prints = ", ".join(f"{_cut(s.id, 18)} {s.fingerprint}" for s in plan.sketches[:SESSIONS])
    return [*lines, f"fingerprint  {plan.agreement.fingerprint} of data and split ({prints}"
            f"{', ...' if len(drawn) > SESSIONS else ''})"]


def measured(estimate: Any, epochs: int) -> list[str]:
    """Return what a probe adds: corners, seconds, memory, trials at a time, duration, disk."""
    default, fastest, slowest = estimate.epoch
    peak = estimate.peak
    lines = [f"probed       {estimate.corners} corners of the space by a step each: {default:.2g} s an epoch by "
             f"default, {fastest:.2g} to {slowest:.2g} at the corners; a worker takes at most {_bytes(peak['host'])}"
             + (f" and {_bytes(peak['gpu'])} of its GPU" if peak["gpu"] else "")]
    lines += [f"             cannot be trained, trials there will fail: {name}: {error}"
              for name, error in estimate.broken]
    if estimate.trials:
        lines += [f"runs         {estimate.trials} trials of at most {epochs} epochs, {estimate.slots} at a time "
                  f"(memory for {estimate.fitting})", *_sharing(estimate.peak, estimate.gpus),
                  f"takes        about {_range(estimate.search)}{_confirming(estimate)}"]
    return lines


def _sharing(peak: Mapping[str, int], gpus: float) -> list[str]:
    """Say how many workers a GPU has the memory for, where that is another number than share it."""
    if not peak["gpu"] or not gpus:
        return []
    fitting, sharing = max(1, int(SPARE * peak["gpu_has"] // peak["gpu"])), int(1 / gpus)
    holds = f"             a GPU of {_bytes(peak['gpu_has'])} holds {fitting} such workers"
    flag = f"--gpus-per-trial {math.floor(100 / fitting) / 100:g}"
    if fitting < sharing:
        return [f"{holds}, but {sharing} share it: some trials will run out of memory; {flag}"]
    return [f"{holds}: {flag} lets them share it"] if fitting > max(1, sharing) else []


def strip(pieces: Mapping[str, Sequence[tuple[int, int]]], n_frames: int, width: int = WIDTH) -> str:
    """Return one character a share of the recording: the part that covers most of it, a gap where none does half."""
    shares = {part: [_covered(runs, n_frames * c / width, n_frames * (c + 1) / width) for c in range(width)]
              for part, runs in pieces.items()}
    text = ""
    for column in range(width):
        part = max(shares, key=lambda p: shares[p][column])
        text += MARKS[part] if shares[part][column] >= 0.5 * n_frames / width else GAP
    return text


def _covered(runs: Sequence[tuple[int, int]], start: float, stop: float) -> float:
    return sum(max(0.0, min(b, stop) - max(a, start)) for a, b in runs)


def _frames(pieces: Mapping[str, Sequence[tuple[int, int]]]) -> str:
    return " + ".join(str(sum(b - a for a, b in pieces[part])) for part in MARKS)


def _confirming(estimate: Any) -> str:
    trainings, seconds = estimate.confirm
    return f", then about {_time(seconds)} for {trainings} trainings that confirm it" if trainings else ""


def _range(times: tuple[float, float, float]) -> str:
    expected, low, high = times
    return f"{_time(expected)} ({_time(low)} to {_time(high)}, by how many trials are stopped early)"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(n: float) -> str:
    return f"{n / 2**20:.3g} MiB" if n < 1000 * 2**20 else f"{n / 2**30:.3g} GiB"


def _cut(text: str, width: int) -> str:
    """Shorten in the middle: recordings of a laboratory begin alike."""
    head = (width - 3) // 2
    return text if len(text) <= width else f"{text[:head]}...{text[head + 3 - width:]}"
