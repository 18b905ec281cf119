"""The corners of a space: every parameter at its extremes from the default, and everything at its largest.

What cannot be built is found here, before any of the cluster's time is spent, and the corners are what probes step.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import optuna

from raycal.config import Config
from raycal.errors import UserError
from raycal.search.space import Probe, Space

TYPE = "quantizer.type"


class Corner(NamedTuple):
    name: str  # what differs from the default: "model.width=128"; "" is the default itself
    config: Config


def corners(space: Space) -> list[Corner]:
    """Return the default and the distinct corners; raise UserError naming those that the space cannot even propose."""
    distributions = space.distributions(np.random.default_rng(0))
    ways = _ways(space, distributions)
    wanted = [("", {})]
    for name, distribution in distributions.items():
        wanted += [(f"{name}={_short(value)}", {**ways.get(name, {}), name: value}) for value in extremes(distribution)]
    kinds = getattr(distributions.get(TYPE), "choices", [None])
    largest = {name: value for name, d in distributions.items() if (value := _largest(d)) is not None}
    wanted += [(f"all largest{f', {TYPE}={kind}' if kind else ''}", {**largest, **({TYPE: kind} if kind else {})})
               for kind in kinds]
    found, broken = {}, []
    for name, values in wanted:
        try:
            config = _Toward.of(space, values).config
            found.setdefault(config, Corner(name, config))
        except UserError as e:
            broken.append(f"{name}: {e}")
    if broken:
        raise UserError(f"--space {space.source or space.name}: {len(broken)} of its corners cannot be built, and a "
                        "search that came there would end\n  " + "\n  ".join(broken[:5])
                        + "\nfix: narrow the ranges, or leave out in propose() what does not go together")
    return list(found.values())


def extremes(distribution: optuna.distributions.BaseDistribution) -> list[Any]:
    """Return every choice, or both ends of a range."""
    return list(getattr(distribution, "choices", None) or (distribution.low, distribution.high))


def _largest(distribution: optuna.distributions.BaseDistribution) -> Any:
    """Return the upper end; None for choices that are no numbers."""
    ends = extremes(distribution)
    return max(ends) if all(isinstance(e, (int, float)) and not isinstance(e, bool) for e in ends) else None


def _ways(space: Space, distributions: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return {parameter that the default lacks: the one change of a choice that brings it}."""
    known, ways = set(_Toward.of(space, {}).params), {}
    for name, distribution in distributions.items():
        for value in getattr(distribution, "choices", ()):
            try:
                brought = _Toward.of(space, {name: value}).params
            except UserError:  # said where this corner itself is built
                continue
            ways.update({new: {name: value} for new in set(brought) - known - set(ways)})
    return ways


class _Toward(Probe):
    """Answers with the wanted values, else the default's, else what lies nearest to it."""

    def __init__(self, base: Config, values: Mapping[str, Any]):
        super().__init__()
        self._base, self._values = base, values
        self.config = base

    @classmethod
    def of(cls, space: Space, values: Mapping[str, Any]) -> _Toward:
        probe = cls(space.base, values)
        probe.config = space.tried(probe)
        return probe

    def _pick(self, name: str, distribution) -> Any:
        value = self._values.get(name, self._base.get(name))
        choices = getattr(distribution, "choices", None)
        if choices:
            return value if value in choices else choices[0]
        return min(max(value, distribution.low), distribution.high)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
