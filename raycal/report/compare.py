"""Two runs against each other: paired over the seeds they share, where data, split and yardstick are the same."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycal.errors import UserError
from raycal.metrics.intervals import Interval, paired_difference
from raycal.report.answer import tested
from raycal.report.classical import RATE, short
from raycal.report.record import Run, metric_of, number


@dataclass(frozen=True)
class Pairing:
    """The winners of two runs on common seeds."""

    what: str  # "confirmed" or "tested"
    seeds: tuple[int, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    difference: Interval  # first minus second


@dataclass(frozen=True)
class Comparison:
    first: Run
    second: Run
    pairings: tuple[Pairing, ...]

    @property
    def sentence(self) -> str:
        """Who is better, in words; only an interval beside 0 says so."""
        if not self.pairings:
            return _unpaired(self.first, self.second)
        p = self.pairings[-1]
        interval = f"{short(p.difference.mean)} [{short(p.difference.low)}, {short(p.difference.high)}]"
        told = f"{self.first.label} {interval} over {len(p.seeds)} common seeds, {p.what}, first minus second"
        low, high = sorted(self.first.sign * end for end in (p.difference.low, p.difference.high))
        if high < 0:
            return f"{self.first.name} is better: {told}."
        if low > 0:
            return f"{self.second.name} is better: {told}."
        return f"neither is shown to be better, the interval holds 0: {told}."

    def __str__(self) -> str:
        lines = [f"{'':<24}{self.first.name:>22}{self.second.name:>22}"]
        lines += [_line("winner", *(f"trial {r.winner.number}" for r in self._runs))]
        lines += [_line(f"{self.first.label}, search", *(short(r.winner.values[0]) for r in self._runs))]
        lines += [_line("bits/s, measured", *(short(metric_of(r.winner, RATE)) for r in self._runs))]
        lines += [_line(f"{p.what}, seed {seed}", short(a), short(b)) for p in self.pairings
                  for seed, a, b in zip(p.seeds, p.first, p.second)]
        return "\n".join([*lines, self.sentence])

    @property
    def _runs(self) -> tuple[Run, Run]:
        return self.first, self.second


def compare(first: Run, second: Run) -> Comparison:
    """Pair two runs over their common seeds; raise UserError where their figures are not of the same thing."""
    _check(first, second)
    pairings = (_pair("confirmed", _confirmed(first), _confirmed(second)),
                _pair("tested", _tested(first), _tested(second)))
    return Comparison(first, second, tuple(p for p in pairings if p))


def _check(first: Run, second: Run) -> None:
    both = f"{first.name} and {second.name} cannot be compared"
    one, other = first.summary, second.summary
    if first.metric != second.metric or first.minimize != second.minimize:
        raise UserError(f"{both}: one was judged by {one['objective']}, the other by {other['objective']}")
    if one["data_fingerprint"] != other["data_fingerprint"]:
        raise UserError(f"{both}: {_difference(one, other)} (fingerprints {one['data_fingerprint']} and "
                        f"{other['data_fingerprint']}), so their validation blocks are not the same frames\n"
                        "fix: search both with the same --sessions and the same sessions.* settings")
    for run in (first, second):
        if run.winner is None:
            raise UserError(f"{both}: {run.name} has no complete trial; go on with it: "
                            f"python run_search.py --resume {run.place}")


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Say what differs: the recordings or how they were cut."""
    if sorted(one["fingerprints"].values()) == sorted(other["fingerprints"].values()):
        return "the recordings are the same, but they were prepared or split differently"
    apart = sorted({id for id in {*one["fingerprints"], *other["fingerprints"]}
                    if one["fingerprints"].get(id) != other["fingerprints"].get(id)})
    return f"the recordings differ ({', '.join(apart[:4])}{' ...' if len(apart) > 4 else ''})"


def _confirmed(run: Run) -> dict[int, float]:
    figures = run.confirmed(run.winner)
    return dict(zip(run.confirm["seeds"], map(number, figures["values"]))) if figures else {}


def _tested(run: Run) -> dict[int, float]:
    figures = tested(run, run.winner)
    return dict(zip(run.tests[-1]["seeds"], map(number, figures["values"]))) if figures else {}


def _pair(what: str, first: dict[int, float], second: dict[int, float]) -> Pairing | None:
    seeds = tuple(s for s in first if s in second)
    if len(seeds) < 2:
        return None
    a, b = tuple(first[s] for s in seeds), tuple(second[s] for s in seeds)
    return Pairing(what, seeds, a, b, paired_difference(a, b))


def _unpaired(first: Run, second: Run) -> str:
    lacking = [run for run in (first, second) if not run.confirmed(run.winner)]
    if lacking:
        return ("one seed each says nothing of chance. Not confirmed yet: "
                + "; ".join(f"raycal confirm {run.place}" for run in lacking))
    return ("fewer than two seeds are common to both confirmations, so they cannot be paired: confirm both with the "
            "same number of seeds")


def _line(label: str, first: str, second: str) -> str:
    return f"{label:<24}{first:>22}{second:>22}"
