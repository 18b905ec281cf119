"""Cut a recording into train, validation and test: contiguous blocks in time with gaps between them.

Split first, then window: a window never leaves its piece, so no frame of one part is seen by another.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raycal import config
from raycal.errors import UserError

PARTS = ("train", "validation", "test")
Run = tuple[int, int]  # frames [start, stop)


@dataclass(frozen=True)
class Split:
    """Which frames of one session belong to which part."""

    pieces: Mapping[str, tuple[Run, ...]]  # part -> runs [start, stop) of session frames, in time
    gap: int  # frames that lie, at least, between two parts
    dropped: int  # frames of runs shorter than the window: no trial uses them


def rate_of(session, settings: config.Sessions) -> float:
    """Return the session's frames a second: its own, else sessions.rate; raise UserError where neither is known."""
    if math.isfinite(session.rate):
        return float(session.rate)
    if settings.rate > 0:
        return settings.rate
    raise UserError(f"session {session.id} states no sampling rate; give it with --set sessions.rate=HZ")


def gap_frames(session, settings: config.Sessions, context: int = 0) -> int:
    """Return the frames to leave between parts: sessions.gap seconds, or `context` frames if that is more."""
    # the tolerance keeps 8 s at 29.999999999 or 30.000000001 Hz the same 240 frames
    return max(math.ceil(settings.gap * rate_of(session, settings) - 1e-6), context)


def longest_window(session, settings: config.Sessions, context: int = 0) -> int:
    """Return the largest window (frames) that still leaves every block of every part a piece to put it in.

    With sessions.split=file each part counts as one block, however many runs it has.
    """
    blocks = _blocks(session, settings, gap_frames(session, settings, context))
    return min(max((stop - start for start, stop in runs), default=0) for _, runs in blocks)


def split(session, settings: config.Sessions, window: int, context: int = 0) -> Split:
    """Split a session; runs shorter than `window` frames are dropped.

    No two frames of different parts are closer than `gap` frames in between. Raises UserError when a part
    would be empty, when the rate is unknown, or when sessions.split=file and the file has no split.
    """
    gap = gap_frames(session, settings, context)
    blocks = _blocks(session, settings, gap)
    runs = {part: sorted(run for name, cut in blocks if name == part for run in cut) for part in PARTS}
    pieces = {part: tuple(r for r in cut if r[1] - r[0] >= window) for part, cut in runs.items()}
    for part in PARTS:
        if not pieces[part]:
            raise _too_few(session, settings, gap, part, window, runs[part])
    dropped = sum(b - a for part in PARTS for a, b in runs[part]) - sum(b - a for p in PARTS for a, b in pieces[p])
    return Split(pieces, gap, dropped)


def cover(pieces: Sequence[Run], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the start (b,) of windows that cover the pieces, and the first of each one's frames no other holds (b,).

    Windows of a piece start at 0, L, 2L, ...; the last ends with the piece, so that it may overlap the one before.
    """
    starts, fresh = [], []
    for a, b in pieces:
        regular = np.arange(a, b, length)
        aligned = np.minimum(regular, b - length)
        starts.append(aligned)
        fresh.append(regular - aligned)
    return np.concatenate(starts), np.concatenate(fresh)


def _too_few(session, settings, gap: int, part: str, window: int, runs: list[Run]) -> UserError:
    longest = max((b - a for a, b in runs), default=0)
    frames = sum(b - a for a, b in session.segments)
    rounds = f"sessions.rounds={settings.rounds}, " if settings.split != "file" else ""
    return UserError(
        f"session {session.id}: too few frames for a {part} part: of {frames} frames in {len(session.segments)} "
        f"segment(s), with gaps of {gap} frames, its longest run is {longest} and a window takes {window}; "
        f"lower {rounds}windows.length={window} or sessions.gap={settings.gap:g}, or leave the session out")


def _blocks(session, settings, gap: int) -> list[tuple[str, list[Run]]]:
    """Return (part, runs inside segments) of every block, in time; the blocks are `gap` frames apart."""
    if settings.split == "file":
        return _blocks_of_file(session, gap)
    n = sum(stop - start for start, stop in session.segments)
    shares = (settings.train, settings.validation, 1.0 - settings.train - settings.validation)
    n_blocks = 3 * settings.rounds
    usable = n - gap * (n_blocks - 1)
    if usable < n_blocks:
        raise UserError(
            f"session {session.id}: too few frames: {n} frames less {n_blocks - 1} gaps of {gap} frames leave nothing "
            f"for {n_blocks} blocks; lower sessions.rounds={settings.rounds} or sessions.gap={settings.gap:g}")
    ends = np.rint(np.cumsum(np.tile(shares, settings.rounds)) * (usable / settings.rounds)).astype(int).tolist()
    return [(PARTS[i % 3], _inside(session.segments, start + i * gap, stop + i * gap))
            for i, (start, stop) in enumerate(zip([0, *ends[:-1]], ends))]


def _inside(segments, start: int, stop: int) -> list[Run]:
    """Translate positions [start, stop), counted over the frames inside segments, into runs of session frames."""
    runs, before = [], 0
    for first, last in segments:
        a, b = max(start - before, 0), min(stop - before, last - first)
        if a < b:
            runs.append((first + a, first + b))
        before += last - first
    return runs


def _blocks_of_file(session, gap: int) -> list[tuple[str, list[Run]]]:
    """The file's own masks; frames closer than the gap to a more sealed part are given up, test keeps all."""
    absent = [part for part in PARTS if part not in session.masks or not np.any(session.masks[part])]
    if absent:
        raise UserError(f"session {session.id}: sessions.split=file, but the file marks no {' and no '.join(absent)} "
                        "frames; use --set sessions.split=blocks")
    taken = np.zeros(session.n_frames, bool)
    blocks = []
    for part in reversed(PARTS):
        mask = np.asarray(session.masks[part], bool)
        blocks.append((part, _runs(mask & ~_near(taken, gap), session.segments)))
        taken |= mask
    return blocks[::-1]


def _near(mask: np.ndarray, gap: int) -> np.ndarray:
    """Mark the frames with a marked frame at most `gap` frames away."""
    count = np.concatenate(([0], np.cumsum(mask)))
    t = np.arange(len(mask))
    return count[np.minimum(t + gap + 1, len(mask))] > count[np.maximum(t - gap, 0)]


def _runs(mask: np.ndarray, segments) -> list[Run]:
    runs = []
    for first, last in segments:
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mask[first:last].astype(np.int8), [0])))) + first
        runs += [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]
    return runs
