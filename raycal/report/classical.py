"""What is classical of the same blocks, as rows to set beside a winner: codes, generators, ridge and linear latents."""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from raycal.report.record import Run, metric_of, number

CODES = ("transform code", "residual k-means", "grouped residual k-means", "k-means")
NMSE, RATE, GENERATION, HIDDEN = "val/nmse", "val/bits_per_second", "val/generation", "val/cosmoothing_r2"


class Estimate(NamedTuple):
    """A figure and its 95 % interval over seeds; low and high are NaN where there is no interval."""

    mean: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return short(self.mean) + ("" if math.isnan(self.low) else f" [{short(self.low)}, {short(self.high)}]")


class Row(NamedTuple):
    """One competitor: what it reached in the search, confirmed and tested."""

    name: str
    searched: Estimate
    confirmed: Estimate
    tested: Estimate
    classical: bool = False


class Code(NamedTuple):
    """A classical code at one rate (bits/s)."""

    name: str
    rate: float  # NaN: unquantized
    nmse: float


NOTHING = Estimate(math.nan)


def short(value: float | None) -> str:
    """Return a figure with four digits."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def classical(run: Run) -> list[Row]:
    """Return codes at the winner's rate for NMSE, generators for generation, models that predict hidden neurons."""
    if run.metric == GENERATION:
        return _beside(run, "generators", lambda figures: figures.get("generation"))
    if run.metric == HIDDEN:
        return _beside(run, "cosmoothing", lambda r2: r2)
    if run.metric != NMSE:
        return []
    rate = metric_of(run.winner, RATE)
    found = [c for c in (at_rate(run.summary.get("baselines", {}), name, rate) for name in CODES) if c]
    found += [c for c in codes(run.summary.get("baselines", {})) if math.isnan(c.rate)]
    again = (lambda c: Estimate(c.nmse)) if run.confirm else (lambda c: NOTHING)  # no seed moves them
    return [Row(_shown(c), Estimate(c.nmse), again(c), Estimate(_tested_code(run, c)), True) for c in found]


def _beside(run: Run, kind: str, value: Callable[[Any], Any]) -> list[Row]:
    """Return the classical models of a kind; no seed of a training moves them. value: of what is kept of one."""
    known, opened, rows = run.summary.get(kind, {}), run.tested_beside(kind), []
    for name in {**known, **opened}:
        here, there = (Estimate(number(value(f[name]))) if name in f else NOTHING for f in (known, opened))
        rows.append(Row(name, here, here if run.confirm else NOTHING, there, True))
    return rows


def _tested_code(run: Run, code: Code) -> float:
    """Return what the same code reaches on the test blocks at the rate that the model takes there."""
    if math.isnan(code.rate):
        same = next((c for c in codes(run.tested_baselines) if c.name == code.name), None)
    else:
        rate = number(run.tested(run.winner).get(RATE.replace("val/", "test/"), {}).get("mean", code.rate))
        same = at_rate(run.tested_baselines, code.name, rate)
    return same.nmse if same else math.nan


def _shown(code: Code) -> str:
    return f"{code.name}, no rate limit" if math.isnan(code.rate) else f"{code.name}, {code.rate:.4g} bits/s"


def codes(baselines: Mapping[str, Mapping[str, Any]]) -> list[Code]:
    """Return the classical codes of summary.json, those without a rate among them."""
    return [Code(re.sub(r" at \S+ bits/s$", "", name), number(f.get("asked")), number(f.get("nmse")))
            for name, f in baselines.items()]


def at_rate(baselines: Mapping[str, Mapping[str, Any]], name: str, rate: float) -> Code | None:
    """Return the named code at the highest rate that takes no more bits than `rate`, None where none does."""
    known = [c for c in codes(baselines) if c.name == name and c.rate <= rate * (1 + 1e-9)]
    return max(known, key=lambda c: c.rate, default=None)
