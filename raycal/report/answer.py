"""What a run found, in figures and in words: the winner beside the default and the classical codes of the same blocks.

Three columns of trust: the search chose by one seed on validation blocks, a confirmation trained again on fresh
seeds, a test opened the sealed blocks. What was not done says the command that does it.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raycal.metrics.intervals import paired_difference
from raycal.report.classical import GENERATION, HIDDEN, NOTHING, Estimate, Row, classical, short
from raycal.report.confirmed import against, generators, held_out, hidden_neurons
from raycal.report.record import LABELS, Run, metric_of, number

# what stands beside a winner without seeds of its own: in words, what its names say, whether less is better
BESIDE = {HIDDEN: ("models that predict hidden neurons", "; the number is how many latents", False),
          GENERATION: ("classical generators", "", True)}


def rows(run: Run) -> list[Row]:
    """Return winner, default and what is classical (raycal.report.classical)."""
    if run.winner is None:
        return []
    found = [_trial(run, f"winner, trial {run.winner.number}", run.winner)]
    if run.winner.number != 0:
        found.append(_trial(run, "default, trial 0", run.default))
    return found + classical(run)


def _trial(run: Run, name: str, trial: Any) -> Row:
    searched = Estimate(trial.values[0]) if trial else NOTHING
    return Row(name, searched, _estimate(run.confirmed(trial)), _estimate(tested(run, trial)))


def tested(run: Run, trial: Any) -> Mapping[str, Any] | None:
    """Return the objective of a trial on the sealed test blocks, None where it was not tested."""
    return run.tested(trial).get(run.tests[-1]["metric"]) if run.tests else None


def _estimate(figures: Mapping[str, Any] | None) -> Estimate:
    return NOTHING if not figures else Estimate(*(number(figures.get(key)) for key in ("mean", "low", "high")))


def headline(run: Run) -> list[str]:
    """Return the answer in sentences, the most trusted figures first."""
    if run.winner is None:
        return [f"No trial of {len(run.trials)} ran to its end, so there is no winner."]
    found = rows(run)
    return [_against_default(run, found), *_against_codes(run, found), *_trust(run)]


def next_step(run: Run) -> tuple[str, str] | None:
    """Return why and with which command the answer becomes more trusted, None where it is tested."""
    if run.winner is None or tested(run, run.winner):
        return None
    if run.confirmed(run.winner):
        return "Not tested yet. The sealed blocks are opened once:", f"raycal test {run.place}"
    return ("Not confirmed yet. A validation figure that was chosen as the best of many flatters; train the best and "
            "the default again on fresh seeds:", f"raycal confirm {run.place}")


def _against_default(run: Run, found: Sequence[Row]) -> str:
    """Say winner against default; that one beats the other only where a paired interval over seeds says so."""
    column, where = _best_column(run)
    name, winner = f"Trial {run.winner.number}", getattr(found[0], column)
    if run.winner.number == 0:
        return (f"No configuration beats the default: it reaches {run.label} {winner} {where}, the best of "
                f"{len(run.complete)} complete trials.")
    default = getattr(found[1], column)
    if math.isnan(default.mean):
        return f"{name} reaches {run.label} {winner} {where}; the default has no figure to set against it."
    both = f"{run.label} {winner} against {default} {where}"
    if column == "searched":
        share = f" ({100 * abs(winner.mean - default.mean) / abs(default.mean):.1f} %)" if default.mean else ""
        return f"{name} looks better than the default: {both}{share}."
    difference = paired_difference(*(_values(run, column, t) for t in (run.winner, run.default)))
    shown = max(run.sign * difference.low, run.sign * difference.high) < 0
    return (f"{name} {'beats' if shown else 'is not shown to beat'} the default: {both}, a paired difference of "
            f"{Estimate(*difference)}.")


def _values(run: Run, column: str, trial: Any) -> list[float]:
    """Return a trial's values seed by seed."""
    figures = tested(run, trial) if column == "tested" else run.confirmed(trial)
    return [number(v) for v in figures["values"]]


def _best_column(run: Run) -> tuple[str, str]:
    if tested(run, run.winner):
        return "tested", f"on the sealed test blocks over {len(run.tests[-1]['seeds'])} seeds"
    if run.confirmed(run.winner):
        return "confirmed", f"on validation blocks over {len(run.confirm['seeds'])} fresh seeds"
    return "searched", "on validation blocks, one seed each"


def _against_codes(run: Run, found: Sequence[Row]) -> list[str]:
    """Return who wins, model or what is classical; figures of one column, codes at the winner's rate or less."""
    if run.metric in BESIDE:
        return _against_models(run, found)
    column = _best_column(run)[0]
    known = [r for r in found if r.classical and "no rate limit" not in r.name]
    column = column if any(not math.isnan(getattr(r, column).mean) for r in known) else "searched"
    model, figures = getattr(found[0], column).mean, [(r.name, getattr(r, column).mean) for r in known]
    won = [f"{name} ({short(v)})" for name, v in figures if v < model]
    lost = [f"{name} ({short(v)})" for name, v in figures if v >= model]
    said = []
    if won:
        said.append(f"Classical coding of the same blocks wins at the winner's rate: {_listed(won)} "
                    f"{'has' if len(won) == 1 else 'have'} a lower {run.label} than the searched model's "
                    f"{short(model)}.")
    if lost:
        said.append(f"The model beats {_listed(lost)}.")
    return said


def _against_models(run: Run, found: Sequence[Row]) -> list[str]:
    """Return which models without seeds the winner beats, by its interval over seeds where it has one.

    On test blocks that is said with the opening.
    """
    (column, _), (what, more, lower) = _best_column(run), BESIDE[run.metric]
    known = [(r.name, getattr(r, column).mean) for r in found if r.classical]
    model = getattr(found[0], column)
    if column == "tested" or not known:
        return []
    if column == "searched":
        side, sign = ("below", -1) if lower else ("above", 1)
        above = [sign * v < sign * model.mean for _, v in known]
        words = {f"is {side}": above, f"is not {side}": [not there for there in above]}
    else:
        verdicts = [against(model._asdict(), v, lower) for _, v in known]
        words = {word: [word == v for v in verdicts] for word in dict.fromkeys(verdicts)}
    said = [f"{word} {_listed([f'{name} ({short(v)})' for (name, v), there in zip(known, where_so) if there])}"
            for word, where_so in words.items() if any(where_so)]
    return [f"Beside {what} of the same blocks, fitted on train, it {', '.join(said)}{more}."]


def _trust(run: Run) -> list[str]:
    if tested(run, run.winner):
        opened = run.tests[-1]
        earlier = len(opened.get("earlier", []))
        again = f" They had been opened {earlier} times before: only the first opening was a test." if earlier else ""
        beside = [f"There {said}." for said in (*hidden_neurons(opened), *generators(opened), *held_out(opened))]
        return [f"The sealed blocks were opened on {opened['when'][:10]}.{again}", *beside, *_confirmed(run)]
    return _confirmed(run)


def _confirmed(run: Run) -> list[str]:
    return [f"Confirmed: {run.confirm['verdict'].rstrip('.')}."] if run.confirm else []


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def others(run: Run) -> list[tuple[str, str, str]]:
    """Return (figure, winner's, default's) of the standard metrics at the best epoch, and ridge beside behaviours."""
    if run.winner is None:
        return []
    pair = [t for t in (run.winner, run.default) if t is not None]
    found = [(label, *(short(metric_of(t, key)) for t in pair)) for key, label in LABELS.items()
             if key != run.metric and not math.isnan(metric_of(run.winner, key))]
    coded = [run.summary.get("code_length", {}).get(role) for role in ("winner", "default")]
    if coded[0] and run.winner.number == run.summary["best"]["number"]:
        found.append(("bits/s, coded by statistics of train", *(
            short(number(c["independent_bits_per_second"])) if c else "-" for c in coded[:len(pair)])))
    for name, ridge in run.summary.get("ridge", {}).items():
        values = (short(metric_of(t, f"val/behavior_r2/{name}")) for t in pair)
        found.append((f"R2 of {name} (ridge on raw traces {short(number(ridge['r2']))}, "
                      f"shifted {short(number(ridge['null']))})", *values))
    if run.metric != HIDDEN:
        found += [(f"co-smoothing R2 of {name}, same blocks", short(number(r2)), "")
                  for name, r2 in run.summary.get("cosmoothing", {}).items()]
    return [(*row, "") if len(row) == 2 else row for row in found]


def overtuning(run: Run) -> str:
    """Say whether searching on made the confirmed result worse, and by how much search values flatter."""
    if run.winner is None:
        return "No trial ran to its end."
    if not run.confirm:
        return f"Not confirmed yet, so nothing can be said: raycal confirm {run.place}"
    table = {int(n): t for n, t in run.confirm["trials"].items() if not math.isnan(number(t["mean"]))}
    flattered = [run.sign * (number(t["mean"]) - number(t["search_value"])) for t in table.values()]
    flattered = [f for f in flattered if not math.isnan(f)]
    said = [_flattery(run, flattered)] if flattered else []
    way = [t.number for t in run.incumbents() if t.number in table]
    return " ".join([*said, _along(run, way, table)])


def _flattery(run: Run, flattered: Sequence[float]) -> str:
    mean = sum(flattered) / len(flattered)
    kind = "worse" if mean > 0 else "better"
    return (f"On fresh seeds the {len(flattered)} confirmed trials reach a {run.label} that is on average "
            f"{short(abs(mean))} {kind} than what the search said; the winner's curse is "
            f"{short(run.sign * -number(run.confirm['winners_curse']))}.")


def _along(run: Run, way: Sequence[int], table: Mapping[int, Mapping[str, Any]]) -> str:
    if len(way) < 2:
        return "Fewer than two trials that led the search were confirmed, so its course cannot be judged."
    means = {n: number(table[n]["mean"]) for n in way}
    last, best = way[-1], min(way, key=lambda n: run.sign * means[n])
    if best == last:
        return (f"No overtuning is seen: of the {len(way)} confirmed leaders of the search (trials "
                f"{_listed([str(n) for n in way])}) the last is the best confirmed, too.")
    return (f"Overtuning: the search ended on trial {last}, confirmed at {short(means[last])}, and had passed trial "
            f"{best} before, confirmed at {short(means[best])}: what it gained on validation after that was luck.")
