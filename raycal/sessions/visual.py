"""A recording like those of Allen's Brain Observatory, its truth known: a mouse runs, and sees gratings and films.

    simulation = simulate_visual(n_neurons=150, n_frames=115_000, seed=1)
    simulation.session.stimuli, simulation.ceiling["running"]

Kinds, durations and parameters of the stimuli follow session A of de Vries et al. 2020, Nat Neurosci, doi
10.1038/s41593-019-0550-9, cut in proportion when the recording is shorter; the order of the blocks is our own. The log
rate of a neuron is linear in its sources, so that its tuning to direction is exp of cosines, as a von Mises curve is.
Shapes: T frames, T' frames with those simulated before the first, N neurons, L latents, S sources, P presentations.
"""
from __future__ import annotations

import math

import numpy as np

from raycal.errors import UserError
from raycal.sessions.session import Session
from raycal.sessions.simulate import (SETTLE, SMOOTH, SPEED_NOISE, Simulation, activity, check_ranges, draw_loadings,
                                      linear_ceiling, smooth_noise, standardised, with_noise)
from raycal.sessions.stimulus import Stimulus

BLOCKS = (("drifting_gratings", 10), ("natural_movie_three", 10), ("natural_movie_one", 5), ("drifting_gratings", 10),
          ("spontaneous", 5), ("natural_movie_three", 10), ("drifting_gratings", 10))  # min
MINUTES = 63.7  # of the whole session: what the blocks leave is grey, shared out before, between and after them
SHORTEST = 60.0  # s: below, blocks are too short for gratings of three conditions and films of a second
ON, OFF = 2.0, 1.0  # s a grating is shown, and the grey after it
FREQUENCIES, DIRECTIONS = (1.0, 2.0, 4.0, 8.0, 15.0), tuple(range(0, 360, 45))  # Hz, degrees
BLANKS = 2  # sweeps without a grating among one of each of the 40 gratings
MOVIES = {"natural_movie_one": (900, 10), "natural_movie_three": (3600, 5)}  # frames at most, repeats in a block
MOVIE_RATE, MOVIE_SMOOTH, MOVIE_FEATURES = 30.0, 8.0, 6  # frames/s, frames (sd) a scene lasts, dimensions of a film
AROUSAL = 2.5  # s, sd: slow beside SMOOTH, and yet forgotten within the 8 s gap of a split (correlation 0.08)
RUNNING_SHARE, RUNNING_GAIN = 0.3, 20.0  # of the frames; cm/s for each sd that the urge is above its threshold
PUPIL, PUPIL_SPREAD, PUPIL_NOISE, PUPIL_LAG = 1500.0, 0.2, 0.06, 0.7  # px, sds as shares of it, s behind running
SHARES = {"latents": 0.3, "gratings": 0.3, "movies": 0.2, "behavior": 0.2}  # of the variance of a log rate, about
MEDIAN_RATE = 2.0  # spikes/s, as in mouse visual cortex: a decoder of calcium stays well below the ceiling
NEURONS_AT_ONCE = 32  # keeps the float64 of the pipeline small beside what is returned


def simulate_visual(n_neurons: int = 150, n_frames: int = 115_000, rate: float = 30.07, seed: int = 0,
                    n_latents: int = 6, coupling: float = 1.0, noise: float = 0.3,
                    id: str | None = None) -> Simulation:
    """Simulate a session with running (cm/s), pupil (area, px) and stimuli; the same arguments give the same numbers.

    coupling: share of the variance of every log rate that latents, stimuli and behaviours drive. noise: as in
    `simulate`. latents end with one of running and one of arousal; rates and clean are float32, spikes uint16.
    Raise UserError when a number is out of range.
    """
    check_visual(n_neurons, n_frames, rate, n_latents, coupling, noise)
    rng = np.random.default_rng(seed)
    skip = math.ceil(SETTLE * rate)
    latents = smooth_noise(rng, n_frames + skip, np.append(np.geomspace(*SMOOTH, n_latents - 1), AROUSAL) * rate)
    clean = _behavior(latents, rate)
    stimuli = schedule(rng, n_frames, rate)
    grey = ((skip, 0), (0, 0))
    sources, strength = _sources({"latents": latents, "gratings": np.pad(_grating_features(stimuli, n_frames), grey),
                                  "movies": np.pad(_movie_features(stimuli, n_frames), grey), "behavior": clean})
    loadings = draw_loadings(rng, sources, n_neurons, strength)
    traces, arrays = _recorded(rng, sources, loadings, coupling, noise, rate, skip)
    clean = clean[skip:]
    behavior = clean + (SPEED_NOISE, PUPIL * PUPIL_NOISE) * rng.standard_normal(clean.shape)  # slips back at times
    session = Session.build(
        id=id or f"simulated-visual-{seed}", traces=traces, rate=rate, behavior=behavior, unit="dF/F",
        behavior_names=("running", "pupil"), behavior_units=("cm/s", "px"), stimuli=stimuli,
        neurons=[f"cell {k} of {seed}" for k in range(n_neurons)], source=f"simulated by raycal, seed {seed}",
        metadata={"session type": "three_session_A", "latents": n_latents, "coupling": coupling, "noise": noise,
                  "seed": seed})
    ceiling = linear_ceiling(sources, loadings, coupling, clean, behavior)
    return Simulation(session=session, latents=latents[skip:], behavior_clean=clean,
                      ceiling=dict(zip(session.behavior_names, ceiling)), **arrays)


def check_visual(n_neurons: int, n_frames: int, rate: float = 30.07, n_latents: int = 6, coupling: float = 1.0,
                 noise: float = 0.3) -> None:
    """Raise UserError naming the first number that is out of range."""
    check_ranges("simulate_visual", n_neurons, n_frames, rate, n_latents, coupling, noise)
    if n_latents < 2:
        raise UserError(f"simulate_visual: n_latents={n_latents}: must be at least 2, for running and for "
                        "arousal")
    if n_frames < SHORTEST * rate:
        raise UserError(f"simulate_visual: n_frames={n_frames}: must be at least {math.ceil(SHORTEST * rate)}, "
                        f"{SHORTEST:g} s at {rate:g} frames/s, to show every stimulus")


def schedule(rng: np.random.Generator, n_frames: int, rate: float) -> tuple[Stimulus, ...]:
    """Return the stimuli of a session, sorted by name: gratings in random order, two films and grey."""
    minute = n_frames / MINUTES
    grey = (MINUTES - sum(minutes for _, minutes in BLOCKS)) / (len(BLOCKS) + 1)
    spans: dict[str, list[tuple[int, int]]] = {}
    begin = grey
    for name, minutes in BLOCKS:
        spans.setdefault(name, []).append((round(begin * minute), round((begin + minutes) * minute)))
        begin += minutes + grey
    return (_gratings(rng, spans["drifting_gratings"], rate), *(_movie(name, spans[name], rate) for name in MOVIES),
            Stimulus("spontaneous", spans["spontaneous"], {}))


def movie(name: str, n_frames: int) -> np.ndarray:
    """Return (n_frames, MOVIE_FEATURES) what neurons see of a film: the same for every mouse and seed."""
    rng = np.random.default_rng(list(MOVIES).index(name))
    return smooth_noise(rng, n_frames, np.full(MOVIE_FEATURES, MOVIE_SMOOTH))


def _gratings(rng: np.random.Generator, spans: list[tuple[int, int]], rate: float) -> Stimulus:
    period = (ON + OFF) * rate
    start = np.concatenate([begin + period * np.arange((end - begin) // period) for begin, end in spans])
    conditions = len(FREQUENCIES) * len(DIRECTIONS)
    drawn = rng.permutation(np.arange(len(start)) % (conditions + BLANKS))
    frequency, direction = np.divmod(drawn, len(DIRECTIONS))
    blank = drawn >= conditions
    return Stimulus("drifting_gratings", np.rint(np.stack([start, start + ON * rate], axis=1)), {
        "temporal_frequency": np.append(FREQUENCIES, np.nan)[frequency],
        "orientation": np.where(blank, np.nan, np.array(DIRECTIONS)[direction]), "blank_sweep": blank})


def _movie(name: str, spans: list[tuple[int, int]], rate: float) -> Stimulus:
    """Show a film whole, over and over: readers of such files count on equally many showings of its frames."""
    longest, repeats = MOVIES[name]
    fit = min(end - begin for begin, end in spans) / rate * MOVIE_RATE // repeats
    length = min(longest, int(fit))
    edges = [begin + np.rint(np.arange(repeats * length + 1) * rate / MOVIE_RATE) for begin, _ in spans]
    return Stimulus(name, np.concatenate([np.stack([e[:-1], e[1:]], axis=1) for e in edges]),
                    {"frame": np.tile(np.arange(length), repeats * len(spans))})


def _behavior(latents: np.ndarray, rate: float) -> np.ndarray:
    """Return (T', 2) running (cm/s), in bouts, and pupil area (px), which follows it and arousal."""
    from scipy.signal import lfilter

    urge = standardised(0.8 * latents[:, -2] + 0.6 * latents[:, -1])
    running = RUNNING_GAIN * np.maximum(urge - np.quantile(urge, 1.0 - RUNNING_SHARE), 0.0)
    keep = math.exp(-1.0 / (PUPIL_LAG * rate))
    pupil = standardised(standardised(lfilter([1.0 - keep], [1.0, -keep], running)) + latents[:, -1])
    return np.stack([running, PUPIL * (1.0 + PUPIL_SPREAD * pupil)], axis=1)


def _grating_features(stimuli: tuple[Stimulus, ...], n_frames: int) -> np.ndarray:
    """Return (T, 6): direction, orientation, presence and speed of the grating; 0 without one."""
    gratings = stimuli[0]
    angle = np.deg2rad(gratings.series("orientation", n_frames))
    speed = np.log2(gratings.series("temporal_frequency", n_frames)) - np.log2(FREQUENCIES).mean()
    features = [np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle), np.ones(n_frames), speed]
    return np.where(np.isnan(angle)[:, None], 0.0, np.stack(features, axis=1))


def _movie_features(stimuli: tuple[Stimulus, ...], n_frames: int) -> np.ndarray:
    """Return (T, 2 MOVIE_FEATURES): each film's features at its frame on show; 0 while it is not."""
    columns = []
    for shown in (stimulus for stimulus in stimuli if stimulus.name in MOVIES):
        frame = shown.series("frame", n_frames)
        features = movie(shown.name, int(shown.columns["frame"].max()) + 1)
        columns.append(np.where(np.isnan(frame)[:, None], 0.0, features[np.nan_to_num(frame).astype(int)]))
    return np.hstack(columns)


def _sources(groups: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the groups' columns side by side (T', S) with mean 0 and sd 1, and the sd of the weight of each (S,)."""
    strength = [np.full(columns.shape[1], math.sqrt(SHARES[name] / columns.shape[1]))
                for name, columns in groups.items()]
    return standardised(np.hstack(list(groups.values()))), np.concatenate(strength)


def _recorded(rng: np.random.Generator, sources: np.ndarray, loadings: np.ndarray, coupling: float, noise: float,
              rate: float, skip: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the traces (T, N) and the rates, spikes and clean traces that they come from, some neurons at a time."""
    shape = (len(sources) - skip, loadings.shape[1])
    traces, rates, spikes, clean = (np.empty(shape, dtype) for dtype in (np.float32, np.float32, np.uint16, np.float32))
    for begin in range(0, shape[1], NEURONS_AT_ONCE):
        some = slice(begin, begin + NEURONS_AT_ONCE)
        parts = activity(rng, sources @ loadings[:, some], coupling, rate, MEDIAN_RATE)
        rates[:, some], spikes[:, some], clean[:, some] = (part[skip:] for part in parts)
        traces[:, some] = with_noise(rng, parts[2][skip:], noise)
    return traces, {"rates": rates, "spikes": spikes, "clean": clean}
