"""What a confirmation and a test say, in lines for a terminal: pure functions of their records."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = {"cosmoothing_r2": "co-smoothing R2", "generation": "generation score", "nmse": "NMSE", "r": "correlation",
         "behavior_r2": "behaviour R2", "bits_per_second": "bits/s, measured"}


def confirmation(record: Mapping[str, Any], searched: int | None = None) -> list[str]:
    """Return the record of a confirmation; searched: complete trials of the run now, to say what it does not know."""
    name = record["metric"].removeprefix("val/")
    lines = [f"confirmed    {name} over {len(record['seeds'])} fresh seeds, mean [95 % interval]"]
    for number, entry in record["trials"].items():
        label = "default" if number == record["default"] else f"trial {number}"
        if entry["failed"]:
            lines.append(f"  {label:<12} not confirmed: {', '.join(entry['failed'])} on {len(entry['failed'])} seeds")
            continue
        mark = f"   winner, {_curse(record)}" if number == record["winner"] else ""
        lines.append(f"  {label:<12} {interval(entry)}   the search said {number_of(entry['search_value'])}{mark}")
    if record["winner"] not in (None, record["default"]):
        lines.append(f"  {'difference':<12} {interval(record['difference'])}   winner minus default, paired over seeds")
    lines.append(f"  {record['verdict']}")
    if searched is not None and searched != record["searched"]:
        lines.append(f"  {searched - record['searched']} complete trials came after it and are not confirmed")
    return lines


def _curse(record: Mapping[str, Any]) -> str:
    """Say what the search value of the winner, less its mean here, owes to being the best of many on one seed."""
    curse = float(record["winners_curse"])
    flattered = curse < 0 if record["direction"] == "minimize" else curse > 0
    return f"its curse {curse:+.4f}: the search {'flattered' if flattered else 'did not flatter'} it"


def openings(receipt: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the last opening of the sealed blocks, and whether there were earlier ones."""
    last = receipt[-1]
    head = f"test         sealed blocks opened {last['when']}, mean [95 % interval] over {len(last['seeds'])} seeds"
    lines = [head, *marks(receipt), f"{'':<18} {_who(last, 'winner'):<28} {_who(last, 'default')}"]
    for key, label in SHOWN.items():
        if f"test/{key}" in last["winner"]["metrics"]:
            lines.append(f"  {label:<16} {interval(last['winner']['metrics'][f'test/{key}']):<28} "
                         f"{interval(last['default']['metrics'].get(f'test/{key}', {}))}")
    said = (*_classical(last), *hidden_neurons(last), *generators(last), *held_out(last), last["verdict"])
    lines += [f"  {line}" for line in said]
    return lines


def marks(receipt: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of sealed blocks that were opened more than once that they are no test any more."""
    if len(receipt) < 2:
        return []
    return [f"             opened {len(receipt)} times (first {receipt[0]['when']}): only the first opening was a test"]


def _who(opening: Mapping[str, Any], role: str) -> str:
    return f"{role} (trial {opening[role]['number']}, {opening['epochs'][role]} epochs)"


def _classical(opening: Mapping[str, Any]) -> list[str]:
    """Return who wins against each classical code at the rate that the winner takes, and ridge on raw traces."""
    metrics, lines = opening["winner"]["metrics"], []
    taken = metrics["test/bits_per_second"]["mean"] if "test/bits_per_second" in metrics else None
    for name, figures in opening["baselines"]["classical"].items():
        if figures["asked"] == taken and name.startswith(("transform code", "residual k-means")):
            ends = "beats" if metrics["test/nmse"]["mean"] < figures["nmse"] else "loses to"
            lines.append(f"the winner {ends} the {name.split(' at ')[0]} at its {taken:.4g} bits/s: "
                         f"NMSE {number_of(figures['nmse'])}")
    for name, figures in list(opening["baselines"]["ridge"].items())[:4]:
        mine = metrics.get(f"test/behavior_r2/{name}")
        if mine:
            lines.append(f"{name}: R2 {interval(mine)}, ridge on raw traces {number_of(figures['r2'])}")
    return lines


def hidden_neurons(opening: Mapping[str, Any]) -> list[str]:
    """Say of each classical model that predicts hidden neurons whether the winner beats it, by interval over seeds."""
    mine, baselines = opening["winner"]["metrics"].get("test/cosmoothing_r2"), opening["baselines"]
    return _each(mine, baselines.get("cosmoothing", {}), baselines.get("cosmoothing_sizes", {})) if mine else []


def generators(opening: Mapping[str, Any]) -> list[str]:
    """Say of each classical generator whether the winner beats it, by interval over seeds."""
    mine = opening["winner"]["metrics"].get("test/generation")
    found = opening["baselines"].get("generators", {}) if mine else {}
    return [f"the winner {against(mine, float(figures['generation']), lower=True)} the {name}: generation score "
            f"{number_of(figures['generation'])}" for name, figures in found.items()]


def held_out(opening: Mapping[str, Any]) -> list[str]:
    """Say the same of every recording that trained nothing, after what winner and default reach there."""
    lines = []
    for id, found in opening.get("held_out", {}).items():
        mine, other = found.get("winner", {}), found.get("default", {})
        lines.append(f"held out, {id}: co-smoothing R2 {interval(mine)}, of the default {interval(other)}")
        lines += _each(mine, found["classical"], found["sizes"], " there") if mine else []
    return lines


def _each(mine: Mapping[str, Any], found: Mapping[str, Any], sizes: Mapping[str, int], where: str = "") -> list[str]:
    best = {f"{model} {size}" for model, size in sizes.items()}
    return [f"the winner {against(mine, float(r2))} {name}{where}: co-smoothing R2 {number_of(r2)}"
            + (", its best size on validation" if name in best else "") for name, r2 in found.items()]


def against(figures: Mapping[str, Any], value: float, lower: bool = False) -> str:
    """Say how an interval stands to the value of a model that no seed moves; lower: that is better, not higher."""
    low, high = float(figures["low"]), float(figures["high"])
    if lower:
        low, high, value = -high, -low, -value
    if not (math.isfinite(low) and math.isfinite(value)):
        return "cannot be compared with"
    return "beats" if low > value else "loses to" if high < value else "is no different from"


def interval(figures: Mapping[str, Any]) -> str:
    """Return "mean [low, high]"."""
    if not figures:
        return "-"
    return f"{number_of(figures['mean'])} [{number_of(figures['low'])}, {number_of(figures['high'])}]"


def number_of(value: Any) -> str:
    """Return a figure in four digits; one that is none, as the word that JSON holds for it."""
    value = float(value)
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
