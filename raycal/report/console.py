"""What a search shows while it runs, and the closing block: rich on a terminal, one line a trial elsewhere."""
from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from optuna.trial import TrialState

from raycal.report.confirmed import against, confirmation, marks


class Progress:
    """Counts running, done, stopped early and failed trials; best so far beside the default; time left."""

    def __init__(self, total: int, done: int, objective: str, minimize: bool, quiet: bool = False,
                 deadline: float | None = None):
        from rich.console import Console

        self.console = Console(quiet=quiet, highlight=False)
        self._total, self._before, self._objective, self._sign = total, done, objective, 1.0 if minimize else -1.0
        self._deadline = deadline
        self._began = time.monotonic()
        self._running: dict[int, int] = {}
        self._ends: Counter[str] = Counter()
        self._best: tuple[float, int] | None = None
        self._default: float | None = None
        self._failures: dict[str, int] = {}  # message -> the first trial that had it
        self._live = None
        self.note = "starting workers"

    @staticmethod
    def printer(quiet: bool):
        """Return what prints a line before the display stands."""
        from rich.console import Console

        console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        return lambda text: console.print(text, markup=False)

    def __enter__(self) -> Progress:
        from rich.live import Live

        if self.console.is_terminal and not self.console.quiet:
            self._live = Live(get_renderable=self._line, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.stop()

    def seen(self, number: int, value: float | None) -> None:
        """Take over a trial that an earlier start of the run finished."""
        self._rank(number, value)

    def say(self, text: str) -> None:
        """Print a line above the live display."""
        (self._live.console if self._live else self.console).print(text, markup=False, soft_wrap=True)

    def on_start(self, number: int, config: Any) -> None:
        self._running[number] = 0

    def on_epoch(self, number: int, event: dict[str, Any]) -> None:
        self._running[number] = event["epoch"]
        self.note = ""
        if number == 0:
            self._default = event["best_value"]

    def on_end(self, number: int, event: dict[str, Any], trial: Any) -> None:
        self._running.pop(number, None)
        kind = {TrialState.COMPLETE: "done", TrialState.FAIL: "failed"}.get(trial.state, "stopped early")
        self._ends[kind] += 1
        value = trial.values[0] if trial.state == TrialState.COMPLETE else None  # a stopped one carries its last report
        better = self._rank(number, value)
        reason = trial.user_attrs.get("reason", "")
        shown = f"{self._objective} {value:.4f} at epoch {trial.user_attrs['best_epoch']}" if value is not None else \
            (f"{reason or kind} at epoch {trial.user_attrs.get('epochs', 0)}")
        if "memory" in trial.user_attrs and reason == "oom":
            shown += f", peak {trial.user_attrs['memory'] / 2**30:.2f} GiB, batch {trial.user_attrs['batch']}"
        mark = "  (default)" if number == 0 else "  best so far" if better else ""
        self.say(f"trial {number:3d}  {shown}  {trial.user_attrs['seconds']:.1f} s{mark}")
        if trial.state == TrialState.FAIL:
            message = trial.user_attrs.get("message", "").rstrip()
            first = self._failures.setdefault(message, number)
            self.say(message if first == number else f"as trial {first}: {message[message.rfind(chr(10)) + 1:]}")

    def _rank(self, number: int, value: float | None) -> bool:
        if number == 0 and value is not None:
            self._default = value
        if value is not None and (self._best is None or self._sign * value < self._sign * self._best[0]):
            self._best = (value, number)
            return True
        return False

    def _line(self) -> str:
        finished = self._before + sum(self._ends.values())
        best = f"best {self._best[0]:.4f} (trial {self._best[1]})" if self._best else "best -"
        default = f"default {self._default:.4f}" if self._default is not None else "default -"
        return (f"running {len(self._running)}  done {self._ends['done']}  stopped early "
                f"{self._ends['stopped early']}  failed {self._ends['failed']}  of {self._total}   "
                f"{self._objective} {best}, {default}   {self._left(finished)}{'  ' * bool(self.note)}{self.note}")

    def _left(self, finished: int) -> str:
        elapsed, here = time.monotonic() - self._began, finished - self._before
        if not here:
            return f"{elapsed:.0f} s so far"
        left = elapsed / here * (self._total - finished)
        if self._deadline is not None:
            left = min(left, max(0.0, self._deadline - time.monotonic()))
        return f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"


def counter(what: str, quiet: bool) -> Callable[[Iterable, int], Iterable]:
    """Return what passes an iterable on and shows how many of `total` it is through, on a terminal."""
    def counted(items: Iterable, total: int) -> Iterable:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn(what), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console()
        shown = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        with shown:
            yield from shown.track(items, total=total, description=what)

    return counted


def closing(summary: dict[str, Any]) -> str:
    """Return the last block of a search: winner beside default, where the run is, what to run next."""
    best, default, counts = summary["best"], summary["default"], summary["trials"]
    folder, interrupted = summary["folder"], summary["interrupted"]
    lines = [f"{counts['complete']} trials complete, {counts['pruned']} stopped early, {counts['failed']} failed "
             f"in {summary['seconds']:.0f} s"]
    if best is None:
        lines += ["no trial completed, so there is no winner"]
    else:
        lines += [_row("", "winner", "default"), *_rows(best, default, summary), *_held_out(summary)]
    lines += _of_each(summary.get("quantizers", {}))
    if "confirm" in summary:
        lines += confirmation(summary["confirm"], counts["complete"])
    for opened in (summary["test"],) if "test" in summary else ():
        lines += [f"test         the sealed blocks were opened {opened[-1]['when']}", *marks(opened)]
    lines += [f"run          {folder}"]
    if best is not None:
        lines += [f"best model   {folder}/best   (raycal.load)"]
    pictures = f"   # pictures also in {folder}/figures" if best is not None else ""
    lines += [f"report       {folder}/report.html   (open it in a browser)",
              f"TensorBoard  tensorboard --logdir {folder}{pictures}",
              f"next         {_next(summary)}"]
    if best is not None and not interrupted and "confirm" not in summary:
        lines += ["             these are validation figures of one seed each, chosen as the best of many"]
    return "\n".join(lines)


def _next(summary: dict[str, Any]) -> str:
    """Return the command that goes on: what was interrupted first, then what is not believed yet."""
    folder = summary["folder"]
    if summary["interrupted"]:
        return f"python run_search.py --resume {folder}"
    if summary["best"] is None or "test" in summary:
        return f"python run_search.py --resume {folder} --more 20"
    return f"raycal {'test' if 'confirm' in summary else 'confirm'} {folder}"


def _rows(best: dict[str, Any], default: dict[str, Any] | None, summary: dict[str, Any]) -> list[str]:
    """Return the table's rows: the objective, the standard metrics of both, and ridge beside them."""
    from raycal.report.record import LABELS

    other = default["metrics"] if default else {}
    rows = [_row("trial", *(f"{t['number']} (epoch {t['epoch']})" if t and t["epoch"] else "-"
                            for t in (best, default)))]
    for key, label in LABELS.items():
        if key in best["metrics"]:
            rows.append(_row(label, _number(best["metrics"][key]), _number(other.get(key))))
        if key == "val/bits_per_second" and summary.get("code_length"):
            rows.append(_coded(summary["code_length"]))
    for name, figures in list(summary.get("ridge", {}).items())[:4]:
        model = best["metrics"].get(f"val/behavior_r2/{name}")
        rows.append(_row(f"  {name[:16]}", _number(model), _number(other.get(f"val/behavior_r2/{name}")))
                    + f"   ridge on raw traces {_number(figures['r2'])}, shifted (null) {_number(figures['null'])}")
    return rows + _classical(best["metrics"], summary.get("baselines", {})) + _beside(best["metrics"], summary)


def _coded(lengths: dict[str, dict[str, Any]]) -> str:
    """Return the row of what the codes cost a coder that knows their statistics from train alone."""
    winner, default = lengths["winner"], lengths.get("default", {})
    row = _row("bits/s, coded", _number(winner["independent_bits_per_second"]),
               _number(default.get("independent_bits_per_second")))
    if not winner["codebooks"]:
        return row
    level = f", the level before {_number(winner['joint_bits_per_second'])}" if len(winner["codebooks"]) > 1 else ""
    return f"{row:<48}   the winner's given the step before {_number(winner['conditional_bits_per_second'])}{level}"


def _of_each(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a table of the best trial of every type of quantizer, where there are several types."""
    if len(found) < 2:
        return []
    rows = [f"{'best of each':<18}{'NMSE':>14}{'bits/s, measured':>20}{'usage':>10}   trial"]
    for kind, best in found.items():
        ended = "" if best["state"] == "complete" else f", {best['reason']} at epoch {best['epoch']}"
        rows.append(f"  {kind:<16}{_number(best['nmse']):>14}{_number(best['bits_per_second']):>20}"
                    f"{_number(best['usage']):>10}   {best['number']}{ended}")
    return rows


def _classical(metrics: dict[str, float], baselines: dict[str, dict[str, float]]) -> list[str]:
    """Return a row for each classical code at the rate that the winner takes, and who wins, in words."""
    rows, taken = [], metrics.get("val/bits_per_second")
    for name, label in (("transform code",) * 2, ("residual k-means",) * 2,
                        ("grouped residual k-means", "grouped k-means")):
        for figures in (f for key, f in baselines.items() if key.startswith(f"{name} at ") and f["asked"] == taken):
            ends = "beats it" if metrics["val/nmse"] < figures["nmse"] else "loses to it"
            rows.append(_row(f"  {label}", _number(figures["nmse"]), "")
                        + f"                   NMSE at the winner's {taken:.4g} bits/s: the winner {ends}")
    return rows


def _beside(metrics: dict[str, float], summary: dict[str, Any]) -> list[str]:
    """Return a row for each classical model that predicts hidden neurons or draws windows, and who wins, in words.

    A winner that was confirmed is judged by its interval over seeds.
    """
    confirm = summary.get("confirm", {})
    winner = confirm.get("trials", {}).get(str(summary["best"]["number"]), {})
    drawn = {name: f["generation"] for name, f in summary.get("generators", {}).items()}
    rows = []
    for key, label, sign, found in (("val/cosmoothing_r2", "co-smoothing R2", 1, summary.get("cosmoothing", {})),
                                    ("val/generation", "generation score", -1, drawn)):
        for name, value in found.items():
            if key == confirm.get("metric") and "low" in winner:
                ends = f"{against(winner, value, lower=sign < 0)} it over fresh seeds"
            else:
                ends = "beats it" if sign * metrics[key] > sign * value else "loses to it"
            rows.append(_row(f"  {name}", _number(value), "") + f"                   {label}: the winner {ends}")
    return rows


def _held_out(summary: dict[str, Any]) -> list[str]:
    """Return two lines for each recording that trained nothing: its id, and the models that are fitted to it."""
    lines = []
    for id, found in summary.get("held_out", {}).items():
        classical = ", ".join(f"{name} {_number(r2)}" for name, r2 in found["classical"].items())
        lines += [f"held out     {id}", _row("  co-smoothing R2", _number(found.get("winner")),
                                             _number(found.get("default"))) + f"   {classical}"]
    return lines


def _row(label: str, first: str, second: str) -> str:
    return f"{label:<20}{first:>12}{second:>16}".rstrip()


def _number(value: float | None) -> str:
    return "-" if value is None or isinstance(value, str) else f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
