"""How the first trials of a start ended: when all went wrong for one reason, the rest would too."""
from __future__ import annotations

from typing import Any

from optuna.trial import FrozenTrial

from raycal.errors import UserError

FIRST = 3  # trials
FINE = ("", "stopped early", "no finite objective")  # reasons of trials that ran as meant
REMEDIES = {
    "oom": "a smaller windows.batch, windows.length or model.width, fewer trials at a time (--max-concurrent), or more "
           "memory",
    "diverged": "a lower optimizer.lr in the space; `raycal sessions show` draws a recording with its extreme values",
    "memorised": "fewer training.epochs, a smaller model.width, more model.dropout, or longer recordings",
    "hang": "see above where it stood, or raise training.epoch_limit"}


class Ends:
    """Listens to a search; raises UserError when its first trials, the default among them, all have one cause."""

    def __init__(self, folder: Any):
        self._folder = folder
        self._started: list[int] = []
        self._causes: dict[int, str] = {}  # "" of a trial that ended well

    def on_start(self, number: int, config: Any) -> None:
        if len(self._started) < FIRST and number not in self._started:
            self._started.append(number)

    def on_epoch(self, number: int, event: dict[str, Any]) -> None: ...

    def on_end(self, number: int, event: dict[str, Any], trial: FrozenTrial) -> None:
        if number not in self._started or len(self._causes) == FIRST:
            return
        self._causes[number] = cause(trial)
        causes = set(self._causes.values())
        if len(self._causes) < FIRST or len(causes) > 1 or causes == {""}:
            return
        remedy = REMEDIES.get(trial.user_attrs["reason"], "mend what the message above names")
        raise UserError(f"the first {FIRST} trials all ended for one reason, so the search stops: {causes.pop()}\n"
                        f"fix: {remedy}; then start anew, or go on with --resume {self._folder}")


def cause(trial: FrozenTrial) -> str:
    """Return in a line what went wrong with a trial; the empty string where nothing did.

    Two exceptions are one cause when they are of one class and were raised on the same line.
    """
    reason, message = trial.user_attrs.get("reason", ""), trial.user_attrs.get("message", "").strip()
    if reason in FINE or reason != "error" or not message:
        return "" if reason in FINE else reason
    lines = message.splitlines()
    raised = next((line.strip() for line in reversed(lines) if line.startswith("  File ")), "nowhere")
    return f"{lines[-1].split(':')[0]}, {raised}"
