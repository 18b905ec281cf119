"""The sections of the report page: each is a function of a run that returns blocks."""
from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raycal.report import answer as words
from raycal.report import parameters, plots
from raycal.report.blocks import Code, Details, Grid, Picture, Plot, Table, Text
from raycal.report.classical import CODES, NMSE, RATE, Estimate, codes, short
from raycal.report.export import trials_table
from raycal.report.record import Run, metric_of, number

NO_WINNER = Text("No trial ran to its end, so there is nothing to show.")
LAST_LINES = 12  # of a traceback
NEURONS, WINDOWS = 4, 3  # of the reconstructions


def together(runs: Sequence[Run]) -> list[Any]:
    """Say, of several runs, which can be compared, and set their answers side by side."""
    if len(runs) < 2:
        return []
    from raycal.errors import UserError
    from raycal.report.compare import compare

    said: list[Any] = []
    for other in runs[1:]:
        try:
            said.append(Text(f"{runs[0].name} against {other.name}: {compare(runs[0], other).sentence}"))
        except UserError as e:
            said.append(Text(str(e)))
    found = [(run, words.rows(run)) for run in runs]
    table = [(run.name, rows[0].name, *map(_unbroken, rows[0][1:4])) if rows
             else (run.name, "no winner", "-", "-", "-") for run, rows in found]
    return [*said, Table("Winners side by side", ("run", "winner", "search", "confirmed", "tested"), table)]


def answer(run: Run) -> list[Any]:
    first, *more = words.headline(run)
    counts = run.summary["trials"]
    state = (f"{run.unfinished} trials have not ended: the search is running, or was interrupted. "
             if run.unfinished else "")
    seconds = run.steps[-1].seconds if run.steps else 0.0
    spent = Text(f"{state}{counts['complete']} trials complete, {counts['pruned']} stopped early, {counts['failed']} "
                 f"failed, {run.over_limit} over the rate limit and never trained; {seconds:.0f} s of training.")
    blocks: list[Any] = [Text(first, strong=True), *map(Text, more)]
    step = words.next_step(run)
    blocks += [Text(step[0]), Code(step[1])] if step else []
    rows = words.rows(run)
    if rows:
        blocks.append(Table(
            f"{run.label}, {'lower' if run.minimize else 'higher'} is better. Search: one seed on validation blocks. "
            "Confirmed: fresh seeds there. Tested: seeds on the sealed blocks. Means with 95 % intervals over seeds.",
            ("", "search", "confirmed", "tested"),
            [(r.name, *map(_unbroken, r[1:4])) for r in rows]))
        blocks += _held_out(run)
        blocks.append(Details("Other figures of the same epochs, search", [Table(
            f"Validation blocks: winner at its best epoch {run.winner.user_attrs['best_epoch']}"
            + (f", default at its best epoch {run.default.user_attrs['best_epoch']}" if run.default else ""),
            ("", "winner", "default"), words.others(run))]))
    return [*blocks, spent, Details("All trials", [_trials(run)])]


def _held_out(run: Run) -> list[Any]:
    """Return a table of the recordings that trained nothing, where there are any."""
    found = run.summary.get("held_out", {})
    if not found:
        return []
    classical = list(dict.fromkeys(name for one in found.values() for name in one["classical"]))
    rows = [(id, *(short(number(one.get(role))) for role in ("winner", "default")),
             *(short(number(one["classical"].get(name))) for name in classical)) for id, one in found.items()]
    return [Table("Recordings held out: no weight that neurons share was trained on them, identities and the classical "
                  "models are fitted to their train blocks; co-smoothing R2 on their validation blocks",
                  ("", "winner", "default", *classical), rows)]


def _unbroken(estimate: Estimate) -> str:
    return str(estimate).replace(", ", ",\u00a0")  # a narrow column breaks before an interval, not inside


def _trials(run: Run) -> Table:
    head, rows = trials_table(run)
    return Table("Complete trials by rank; stopped and failed ones have none", head, rows)


def anytime(run: Run) -> list[Any]:
    drawn = plots.anytime(run)
    if drawn is None:
        return [NO_WINNER]
    way = run.incumbents()
    spent = run.steps[-1].seconds
    at = next(s.seconds for s in run.steps if s.trial is way[-1])
    left_out = plots.beyond(run, drawn)
    caption = (f"The best value came after {at:.0f} s of {spent:.0f} s of training, by trial {way[-1].number}; "
               f"{len(way)} trials led in turn."
               + (f" {left_out} complete trials lie beyond the axis." if left_out else ""))
    return [Plot(drawn, f"Best {run.label} so far against training time", caption)]


def rate_distortion(run: Run) -> list[Any]:
    blocks: list[Any] = []
    drawn = plots.rate_distortion(run)
    if drawn is not None:
        blocks.append(Plot(drawn, "NMSE against measured bits per second", _said_of_rate(run)))
    if len(run.study.directions) == 2 and len(run.complete) > 1:
        blocks.append(Plot(parameters.pareto(run), "Pareto front of the two objectives"))
    return blocks or [Text("No complete trial has both a rate and an NMSE.")]


def _said_of_rate(run: Run) -> str:
    curve = sorted((c.rate, c.nmse) for c in codes(run.summary.get("baselines", {})) if c.name == CODES[0])
    points = [(metric_of(t, RATE), metric_of(t, NMSE)) for t in run.complete]
    if not curve:
        return f"{len(points)} complete trials; the classical codes were not computed."
    inside = [(rate, nmse) for rate, nmse in points if curve[0][0] <= rate <= curve[-1][0]]
    levels = np.interp([math.log(rate) for rate, _ in inside], *zip(*((math.log(rate), nmse) for rate, nmse in curve)))
    below = sum(nmse < level for (_, nmse), level in zip(inside, levels))
    return (f"{below} of {len(inside)} complete trials lie below the transform code's curve, straight between its "
            f"{len(curve)} computed rates." + (f" {len(points) - len(inside)} lie outside these rates."
                                              if len(inside) < len(points) else ""))


def importance(run: Run) -> list[Any]:
    drawn = parameters.importance(run)
    if drawn is None:
        return [Text(f"Importance is not told from {len(parameters.basis(run).trials)} trials that can be compared: it "
                     f"sets the best {parameters.TOP} against the others, and takes {parameters.ENOUGH}.")]
    first, n = parameters.importances(run)[0], len(parameters.basis(run).trials)
    return [Plot(drawn, "Importance by conditional PED-ANOVA", f"How much of reaching the best "
                 f"{parameters.TOP if n <= 10 * parameters.TOP else '10 %'} of {n} depends on each parameter, "
                 f"{first.parameter} the most; shares sum to 1, and a parameter that only some trials have is judged "
                 f"among these. Compared: {parameters.basis(run).words}.")]


def parallel(run: Run) -> list[Any]:
    drawn = parameters.parallel(run)
    if drawn is None:
        return [Text("Fewer than two trials can be compared, or they differ in fewer than two parameters.")]
    said = f"Compared: {parameters.basis(run).words}."
    return [Plot(drawn, "Parameters of every trial, in fifths by rank", said, wide=True)]


def slices(run: Run) -> list[Any]:
    found = [Plot(drawn, name) for name, drawn in parameters.slices(run)]
    if not found:
        return [Text("No parameter differs between trials that can be compared.")]
    return [Text(f"Upright: {run.label}; a star is the winner, a diamond the default. "
                 f"Compared: {parameters.basis(run).words}."), Grid(found)]


def ranks(run: Run) -> list[Any]:
    drawn, said = plots.rank_correlation(run), plots.said_of_agreement(run)
    return [Text(said)] if drawn is None else [Plot(drawn, "Rank correlation with the final value, by epoch", said)]


def curves(run: Run) -> list[Any]:
    drawn = plots.learning_curves(run)
    if drawn is None:
        return [Text("No trial trained an epoch.")]
    shown = min(len(run.complete), plots.CURVES + 2), min(len(run.ended_early), plots.CURVES)
    return [Plot(drawn, f"{run.label} of every epoch", f"{shown[0]} of {len(run.complete)} complete trials and "
                 f"{shown[1]} of {len(run.ended_early)} that ended early. A dot is the best epoch: checkpoint and "
                 "metrics are those of that epoch.")]


def reconstructions(run: Run) -> list[Any]:
    if run.winner is None:
        return [NO_WINNER]
    arrays = run.arrays(run.winner)
    if "generated" in arrays:
        return _generated(run, arrays["generated"])
    examples = arrays.get("examples")
    if not examples:
        return [Text(f"The checkpoint of trial {run.winner.number} holds no examples."), *_pictures(run)]
    from raycal.report.figures import draw_reconstruction

    picture = io.BytesIO()
    draw_reconstruction(_few(examples)).savefig(picture, format="png")
    epoch = run.winner.user_attrs["best_epoch"]
    return [Picture(picture.getvalue(), f"Validation windows of {examples['session']}, recorded and as trial "
                    f"{run.winner.number} reconstructs them at epoch {epoch}: the neurons that vary most, in units of "
                    "the train sd"), *_pictures(run)]


def _generated(run: Run, generated: Mapping[str, Any]) -> list[Any]:
    """Return pictures of the windows that the winner drew when it was judged."""
    from raycal.report.generated import draw
    from raycal.report.pictures import encoded

    said = {"generated-traces": f"Validation windows of {generated['session']}, and windows that trial "
                                f"{run.winner.number} generated, of the neurons that vary most; none is drawn to match "
                                "another",
            "generated-spectra": "Power at each frequency", "generated-correlations": "Correlations between neurons, "
                                 "those that go together side by side, and the same pair by pair"}
    return [Picture(encoded(figure), said[name]) for name, figure in draw(generated).items()]


def _pictures(run: Run) -> list[Any]:
    """Return the pictures that a search drew of the winner's latents and codes while it had the recordings."""
    found = [p for p in (run.path / "figures" / f"{name}.png" for name in ("codes", "latents")) if p.is_file()]
    drawn = [Picture(p.read_bytes(), f"{p.stem.replace('-', ' ').capitalize()}, as the search drew it") for p in found]
    return [Details("Latents and codes in time", drawn)] if drawn else []


def _few(examples: Mapping[str, Any]) -> dict[str, Any]:
    """Return fewer windows and neurons: each costs a twentieth of a second, and a phone shows no more."""
    n, w = NEURONS, WINDOWS
    return {**examples, "labels": examples["labels"][:n], "neurons": examples["neurons"][:n],
            **{key: examples[key][:w, :n] for key in ("target", "reconstruction")}}


def usage(run: Run) -> list[Any]:
    if run.winner is None:
        return [NO_WINNER]
    counts = [c.numpy() for c in run.arrays(run.winner).get("counts", [])]
    if not counts:
        return [Text(f"Trial {run.winner.number} has no codebooks, or its checkpoint was not kept.")]
    from raycal.metrics import codebook

    rows = [(f"{k}", f"{len(n)}", f"{int((n > 0).sum())}", f"{codebook.perplexity(n):.1f}", f"{int(n.sum())}",
             f"{min(1.0, n.sum() / len(n)):.2f}") for k, n in enumerate(counts)]
    used = sum(int((n > 0).sum()) for n in counts) / sum(map(len, counts))
    return [Plot(plots.usage(counts), "Use of the codes", f"Trial {run.winner.number} uses {100 * used:.0f} % of its "
                 "codes on the validation blocks. What lies at 0 % on the right are codes that are never used."),
            Details("Codebook by codebook", [Table("On the validation blocks", (
                "codebook", "size", "used", "perplexity", "code steps", "usage at most"), rows)])]


def split(run: Run) -> list[Any]:
    drawn = plots.split(run)
    if drawn is None:
        return [Text("The study does not hold the split.")]
    every = run.summary["splits"]
    gap = sorted({f"{s['gap'] / s['rate']:.3g}" for s in every.values()})
    more = f" The first {plots.SESSIONS} of {len(every)} recordings are drawn." if len(every) > plots.SESSIONS else ""
    rows = [(id, f"{s['frames']}", f"{s['rate']:.4g}", *(f"{sum(b - a for a, b in s['pieces'][part])}"
             for part in plots.PARTS), run.summary["fingerprints"].get(id, "-")) for id, s in every.items()]
    said = f"Blank is gap, at least {' or '.join(gap)} s.{more}"
    return [Plot(drawn, "Train, validation and sealed test blocks", said),
            Details("Frames and fingerprints", [Table(f"Data and split: {run.summary['data_fingerprint']}", (
                "recording", "frames", "Hz", *plots.PARTS, "fingerprint"), rows)])]


def failures(run: Run) -> list[Any]:
    reasons = Counter(t.user_attrs.get("reason", "no reason") for t in run.ended_early)
    if run.over_limit:
        reasons["over rate limit"] = run.over_limit
    if not reasons:
        return [Text("Every trial ran to its end.")]
    told = {"stopped early": "behind the others at a rung: has no final value", "diverged": "its loss was not finite",
            "memorised": "it drew copies of the windows that it was trained on",
            "oom": "out of memory", "over rate limit": "more bits/s than the limit: never trained",
            "error": "its trainer raised an exception", "hang": "an epoch took longer than its limit",
            "lost": "its worker died"}
    messages = [t for t in run.ended_early if t.user_attrs.get("message")]
    rows = [(reason, str(n), _numbers(run, reason), told.get(reason, "")) for reason, n in reasons.most_common()]
    return [Table("Trials that have no value, by reason", ("reason", "trials", "which", "what it means"), rows, False),
        *(Details(f"Trial {t.number}: {_last(t.user_attrs['message'])}", [Code("\n".join(
            t.user_attrs["message"].strip().splitlines()[-LAST_LINES:]))]) for t in messages[:20])]


def _numbers(run: Run, reason: str) -> str:
    found = [str(t.number) for t in run.ended_early if t.user_attrs.get("reason", "no reason") == reason]
    return ", ".join(found[:12]) + (" ..." if len(found) > 12 else "") or "-"


def _last(message: str) -> str:
    return message.strip().splitlines()[-1][:160]


def overtuning(run: Run) -> list[Any]:
    drawn = plots.overtuning(run)
    said = words.overtuning(run)
    return [Text(said)] if drawn is None else [Plot(drawn, "Search value and confirmed value", said)]


def environment(run: Run) -> list[Any]:
    known = run.summary.get("environment", {})
    versions = known.get("versions", {})
    facts = [("run", run.place), ("space", run.summary["space"]), ("objective", run.summary["objective"]),
             ("rate limit", f"{number(run.summary['rate_limit']):.4g} bits/s"), ("machine", known.get("machine", "-")),
             *versions.items()]
    return [Text("The command as it was given:"), Code(known.get("command", "-")),
            Text(f"The same search anew, from the config.yaml of {run.uri}:" if run.uri else
                 "The same search anew, from the run's own settings:"),
            Code(f"python run_search.py --config {'' if run.uri else f'{run.path}/'}config.yaml"),
            Details("Versions and settings", [Table("", ("", ""), facts, numbers=False)])]
