"""A run as tables for other programs and for papers: csv, json, markdown, latex."""
from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from raycal.errors import UserError, nearest
from raycal.report import answer
from raycal.report.record import Run, number
from raycal.search.study import plain

Rows = Sequence[Sequence[str]]


def export(run: Run, format: str) -> str:
    """Return the run's trials with their confirmed and tested figures in a format; raise UserError on another one."""
    if format not in FORMATS:
        raise UserError(f"--format {format}: no such format{nearest(format, FORMATS)} (formats: {', '.join(FORMATS)})")
    return FORMATS[format](run)


def trials_table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of every trial that trained: complete ones by rank, then those that have none."""
    parameters = sorted({p for t in run.trials for p in t.params})
    ranked = sorted(run.complete, key=lambda t: (run.sign * t.values[0], t.number))
    head = ["rank", "trial", "state", run.metric.removeprefix("val/"), "best_epoch", "epochs", "seconds", "reason",
            *(f"confirmed_{k}" for k in ("mean", "low", "high")), *(f"tested_{k}" for k in ("mean", "low", "high")),
            *parameters]
    rest = [t for t in run.ended_early]
    return head, [[str(ranked.index(t) + 1) if t in ranked else "", *_cells(run, t), *(
        str(t.params.get(p, "")) for p in parameters)] for t in [*ranked, *rest]]


def _cells(run: Run, trial: FrozenTrial) -> list[str]:
    a = trial.user_attrs
    value = f"{trial.values[0]:.6g}" if trial.state == TrialState.COMPLETE else ""
    return [str(trial.number), trial.state.name.lower(), value, *(str(a.get(k, "")) for k in (
        "best_epoch", "epochs", "seconds")), str(a.get("reason", a.get("ended_by", ""))),
        *_interval(run.confirmed(trial)), *_interval(answer.tested(run, trial))]


def _interval(figures: Mapping[str, Any] | None) -> list[str]:
    return [f"{number(figures[k]):.6g}" if figures else "" for k in ("mean", "low", "high")]


def _csv(run: Run) -> str:
    out = io.StringIO()
    head, rows = trials_table(run)
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    return out.getvalue()


def _json(run: Run) -> str:
    head, rows = trials_table(run)
    return json.dumps(plain({**run.summary, "table": [dict(zip(head, row)) for row in rows], "confirm": run.confirm,
                             "test": list(run.tests)}), indent=1) + "\n"


def _markdown(run: Run) -> str:
    parts = [f"# {run.name}", *answer.headline(run)]
    for head, rows in _tables(run):
        lines = [head, ["---"] * len(head), *rows]
        parts.append("\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _latex(run: Run) -> str:
    """Tables for \\usepackage{booktabs}."""
    parts = []
    for head, rows in _tables(run):
        body = [" & ".join(map(_escaped, row)) + r" \\" for row in [head, *rows]]
        parts.append("\n".join([rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", body[0], r"\midrule",
                                *body[1:], r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(["% \\usepackage{booktabs}", *parts]) + "\n"


def _tables(run: Run) -> list[tuple[Sequence[str], Rows]]:
    """Return the answer and the trials; columns of the trials that are empty throughout are left out."""
    found = [(r.name, str(r.searched), str(r.confirmed), str(r.tested)) for r in answer.rows(run)]
    head, rows = trials_table(run)
    used = [k for k in range(len(head)) if any(row[k] for row in rows)]
    trials = [head[k] for k in used], [[row[k] for k in used] for row in rows]
    return [((run.label, "search", "confirmed", "tested"), found), trials]


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
               "<": r"\textless{}", ">": r"\textgreater{}", **{c: f"\\{c}" for c in "&%$#_{}"}}
    return "".join(special.get(c, c) for c in text)


FORMATS: dict[str, Callable[[Run], str]] = {"csv": _csv, "json": _json, "markdown": _markdown, "latex": _latex}
