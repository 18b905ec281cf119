"""A search space: base settings, the function that proposes, and what follows from both.

A space is a Python module with

    BASE: raycal.config.Config                      the default configuration, always trial 0
    def propose(trial, base) -> Config              suggests under dotted names of settings, returns a changed copy
    FIRST: list of {setting: value}                 optional: further points to try first

`--space NAME` imports it from the package search_spaces, `--space FILE.py` loads a file.
"""
from __future__ import annotations

import contextlib
import importlib
import importlib.util
import pathlib
import pkgutil
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from raycal.config import Config, coerce
from raycal.errors import UserError, nearest

LENGTH = "windows.length"


@dataclass(frozen=True)
class Space:
    """A loaded space; `limits` narrow a whole number from above, `fixed` are settings the user holds."""

    name: str
    base: Config
    function: Callable[[Any, Config], Config]
    first: tuple[Mapping[str, Any], ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""  # what --space was given

    def propose(self, trial: Any) -> Config:
        """Return the configuration of an optuna trial (or of anything with its suggest methods)."""
        return self.function(_Narrowed(trial, self.limits, self.fixed), self.base)

    def default(self) -> dict[str, Any]:
        """Return the parameters of trial 0: what the base settings hold for every suggested name."""
        probe = _Default(self.base)
        self.tried(probe)
        return probe.params

    def place(self, config: Config) -> tuple[dict[str, Any], dict[str, Any], Config]:
        """Return the point of the space that a configuration stands for: parameters, their distributions, and what the
        space makes of them; raise UserError when it lies outside.
        """
        probe = _Default(config)
        proposed = self.tried(probe)
        return probe.params, probe.distributions, proposed

    def draw(self, rng) -> tuple[dict[str, Any], Config]:
        """Return one random configuration and its parameters; rng is a numpy Generator."""
        probe = _Random(rng)
        return probe.params, self.tried(probe)

    def check(self, rng) -> None:
        """Refuse a space some of whose proposals cannot be trained: an unknown setting, a range beyond its bounds."""
        try:
            for name, distribution in self.distributions(rng).items():
                ends = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
                for value in ends:
                    coerce(name, value)
        except UserError as e:
            raise UserError(f"--space {self.source or self.name}: some of its proposals do not stand: {e}") from None

    def suggested(self, rng, draws: int = 200) -> set[str]:
        """Return the names that some draw suggests, whether or not its configuration stands."""
        found: set[str] = set()
        for _ in range(draws):
            probe = _Random(rng)
            with contextlib.suppress(UserError):
                self.tried(probe)
            found |= set(probe.params)
        return found

    def tried(self, probe: Probe) -> Config:
        """Propose for a probe; whatever else the function does than return a Config becomes a UserError."""
        try:
            config = self.propose(probe)
        except UserError:
            raise
        except Exception as e:
            raise UserError(f"propose() raises {_fault(e, self.name)}; correct the function") from e
        if not isinstance(config, Config):
            raise UserError(f"propose() returns a {type(config).__name__}; end it with "
                            "return base.replace(trial.params)")
        return config

    def distributions(self, rng, draws: int = 200) -> dict[str, optuna.distributions.BaseDistribution]:
        """Return every parameter that some draw suggests, conditional ones included."""
        found: dict[str, optuna.distributions.BaseDistribution] = {}
        for _ in range(draws):
            probe = _Random(rng)
            self.tried(probe)
            found.update(probe.distributions)
        return found

    def conditional(self, rng, draws: int = 64) -> bool:
        """Say whether some parameters are suggested only for some values of others."""
        return len({frozenset(self.draw(rng)[0]) for _ in range(draws)}) > 1

    def extremes(self, rng, draws: int = 32) -> list[Config]:
        """Return configurations whose numbers are as high as they may be, with choices drawn at random."""
        found = []
        for _ in range(draws):
            with contextlib.suppress(UserError):  # the highest of all may not go together
                found.append(self.tried(_Highest(rng)))
        return found

    def windows(self, rng, draws: int = 200) -> tuple[int, int]:
        """Return the smallest and the largest window length, in frames, that the space may propose."""
        lengths = []
        for _ in range(draws):
            probe = _Random(rng)
            lengths.append(self.tried(probe).windows.length)
            suggested = probe.distributions.get(LENGTH)
            if suggested is not None:  # draws from a range rarely touch its ends
                lengths += getattr(suggested, "choices", None) or (suggested.low, suggested.high)
        return min(lengths), max(lengths)


def names() -> list[str]:
    """Return the names of the spaces that are installed."""
    import search_spaces

    return sorted(m.name for m in pkgutil.iter_modules(search_spaces.__path__))


def purpose(name: str) -> str:
    """Return the first line of a space's docstring."""
    return (importlib.import_module(f"search_spaces.{name}").__doc__ or "").strip().splitlines()[0]


def load(name: str) -> Space:
    """Load a space by name or by file; raise UserError when there is none or it is not one."""
    if name.endswith(".py"):
        module = _from_file(pathlib.Path(name))
    elif name in names():
        module = importlib.import_module(f"search_spaces.{name}")
    else:
        raise UserError(f"--space {name!r}: no such space{nearest(name, names())}\n"
                        f"installed: {', '.join(names())}; or give a file, such as --space my_space.py")
    base, function = getattr(module, "BASE", None), getattr(module, "propose", None)
    if not isinstance(base, Config) or not callable(function):
        raise UserError(f"--space {name}: a space needs BASE (a raycal.Config) and a function propose(trial, base)")
    return Space(pathlib.Path(name).stem, base, function, _first(name, getattr(module, "FIRST", ())),
                 source=str(pathlib.Path(name).resolve()) if name.endswith(".py") else name)


def _from_file(path: pathlib.Path):
    if not path.is_file():
        raise UserError(f"--space {path}: no such file; installed spaces: {', '.join(names())}")
    spec = importlib.util.spec_from_file_location(f"raycal_space_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError as e:
        raise UserError(f"--space {path}: {e}") from None
    except (Exception, SystemExit) as e:
        raise UserError(f"--space {path}: cannot be imported: {_fault(e, path.stem)}; correct the file") from e
    return module


def _first(name: str, points: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the points of FIRST; raise UserError where one is none."""
    try:
        for setting, value in [pair for point in points for pair in point.items()]:
            coerce(setting, value)
    except (TypeError, AttributeError):
        raise UserError(f"--space {name}: FIRST is {points!r}; give a list of points such as "
                        "[{'optimizer.lr': 0.001}]") from None
    except UserError as e:
        raise UserError(f"--space {name}: FIRST: {e}") from None
    return tuple(points)


def _fault(error: BaseException, stem: str) -> str:
    """Return an error in one line, with the line of the space's file that it comes from."""
    said = str(error).splitlines()
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if pathlib.Path(f.filename).stem == stem]
    return ": ".join([type(error).__name__, *said[:1]]) + (f" (line {lines[-1]})" if lines else "")


class _Narrowed:
    """A trial whose whole-number suggestions stay below the limits; names the user fixed are not suggested at all."""

    def __init__(self, trial: Any, limits: Mapping[str, float], fixed: Mapping[str, Any]):
        self._trial, self._limits, self._fixed = trial, limits, fixed
        self._held: dict[str, Any] = {}

    @property
    def params(self) -> dict[str, Any]:
        return {**self._trial.params, **self._held}

    def suggest_categorical(self, name: str, choices):
        if name in self._fixed:
            return self._hold(name)
        limit = self._limits.get(name)
        if limit is not None:
            choices = [c for c in choices if c <= limit] or [int(limit)]
        return self._trial.suggest_categorical(name, list(choices))

    def suggest_int(self, name: str, low: int, high: int, **options):
        if name in self._fixed:
            return self._hold(name)
        high = int(min(high, self._limits.get(name, high)))
        high -= max(high - low, 0) % options.get("step", 1)
        return self._trial.suggest_int(name, min(low, high), high, **options)

    def suggest_float(self, name: str, low: float, high: float, **options):
        if name in self._fixed:
            return self._hold(name)
        return self._trial.suggest_float(name, low, high, **options)

    def _hold(self, name: str):
        self._held[name] = self._fixed[name]
        return self._fixed[name]


class Probe:
    """What a proposing function sees of a trial, answered by `_pick` and remembered."""

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices):
        return self._answer(name, optuna.distributions.CategoricalDistribution(tuple(choices)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False):
        return self._answer(name, optuna.distributions.IntDistribution(low, high, log, step))

    def suggest_float(self, name: str, low: float, high: float, *, step=None, log: bool = False):
        return self._answer(name, optuna.distributions.FloatDistribution(low, high, log, step))

    def _answer(self, name: str, distribution):
        if name not in self.params:
            self.params[name] = self._pick(name, distribution)
            self.distributions[name] = distribution
        return self.params[name]


class _Default(Probe):
    def __init__(self, base: Config):
        super().__init__()
        self._base = base

    def _pick(self, name: str, distribution):
        value = self._base.get(name)
        if not distribution._contains(distribution.to_internal_repr(value)):
            raise UserError(f"{name}={value!r} of the base settings lies outside the range it is searched in; "
                            "widen the range, or hold it with --set")
        return value


class _Random(Probe):
    def __init__(self, rng):
        super().__init__()
        self._rng = rng

    def _pick(self, name: str, distribution):
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            return distribution.choices[int(self._rng.integers(len(distribution.choices)))]
        from math import exp, log

        low, high = distribution.low, distribution.high
        value = exp(self._rng.uniform(log(low), log(high))) if distribution.log else self._rng.uniform(low, high)
        if distribution.step:
            value = min(high, low + round((value - low) / distribution.step) * distribution.step)
        return int(value) if isinstance(distribution, optuna.distributions.IntDistribution) else float(value)


class _Highest(_Random):
    def _pick(self, name: str, distribution):
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            return super()._pick(name, distribution)
        return distribution.high
