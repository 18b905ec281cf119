"""Keeps what a finished trial leaves: best/, the leaderboard, the summary, and only the weights worth their disk."""
from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import optuna

from raycal.config import Config
from raycal.report.leaderboard import leaderboard, summary
from raycal.search.folder import RunFolder, write_atomically
from raycal.search.study import best_trial, ordered, plain

PAUSES = 3  # beats of a worker that waits for its storage before it is said
FACTS = "facts"  # what the study is told of the run besides its trials
RECORDS = {"confirm": "confirm.json", "test": "test_receipt.json"}  # of the study -> the file that holds the same


class Keeper:
    """Listens to a search; after every trial the run folder is complete, as if the search ended there."""

    def __init__(self, folder: RunFolder, study: optuna.Study, facts: Mapping[str, Any], keep: int,
                 after: Callable[[], None] = lambda: None, say: Callable[[str], None] = print):
        self._folder, self._study, self._keep, self._after = folder, study, keep, after
        self._say, self._pauses = say, Counter()
        self._clean: set[int] = set()  # finished trials whose state is gone
        self._dropped: set[int] = set()  # those whose weights are gone too
        self._facts = dict(study.user_attrs.get(FACTS, {}))
        if facts != self._facts:
            self.add(facts)
        self._began, self._before = time.monotonic(), float(facts.get("seconds", 0.0))

    def on_start(self, number: int, config: Config) -> None:
        self._folder.patiently(lambda: self._begin(number, config))

    def _begin(self, number: int, config: Config) -> None:
        folder = self._folder.trial(number)
        folder.mkdir(exist_ok=True)  # not its parents: a run folder whose disk is gone is not begun anew elsewhere
        write_atomically(folder / "config.yaml", config.to_yaml())

    def on_epoch(self, number: int, event: dict[str, Any]) -> None: ...

    def on_pause(self, number: int, event: dict[str, Any]) -> None:
        """Wait for the folder with a worker that cannot write there; say so where this process still can."""
        self._folder.patiently(self._folder.probe)
        self._pauses[number] += 1
        if self._pauses[number] == PAUSES:
            self._say(f"trial {number} waits: {event['message']} on its node; here it can")

    def on_end(self, number: int, event: dict[str, Any], trial: Any) -> None:
        self._pauses.pop(number, None)
        self._folder.patiently(self._discard)
        self._folder.patiently(lambda: self._describe(trial))
        self.write()
        self._after()

    def tidy(self) -> None:
        """Do for finished trials what a driver that died between their end and here has not done."""
        for trial in self._study.get_trials(deepcopy=False):
            folder = self._folder.trial(trial.number)
            if trial.state.is_finished() and folder.is_dir() and not (folder / "metrics.json").is_file():
                self._describe(trial)
        self._discard()

    def add(self, facts: Mapping[str, Any]) -> None:
        """Note facts in the study too: what is written here can then be written again from it."""
        self._facts.update(facts)
        self._study.set_user_attr(FACTS, plain(self._facts))

    def write(self) -> dict[str, Any]:
        """Write best/, leaderboard.csv, summary.json and, on a Pareto study, pareto/; return the summary."""
        self._facts["seconds"] = round(self._before + time.monotonic() - self._began, 3)
        return self._folder.patiently(self._write)

    def restore(self) -> dict[str, Any]:
        """Write again all that follows from the study and the trials' weights; return the summary."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and "config" in trial.user_attrs:
                self.on_start(trial.number, Config().replace(trial.user_attrs["config"]))
                self._describe(trial)
        for key, name in RECORDS.items():
            if key in self._study.user_attrs:
                write_atomically(self._folder.path / name, json.dumps(self._study.user_attrs[key], indent=1))
        return self._write()

    def summary(self) -> dict[str, Any]:
        return summary(self._study, self._facts)

    def _write(self) -> dict[str, Any]:
        self._write_best()
        whole = self.summary()
        write_atomically(self._folder.path / "leaderboard.csv", leaderboard(self._study))
        write_atomically(self._folder.path / "summary.json", json.dumps(plain(whole), indent=1))
        if len(self._study.directions) > 1:
            self._write_front()
        return whole

    def _describe(self, trial: optuna.trial.FrozenTrial) -> None:
        facts = {"trial": trial.number, "state": trial.state.name.lower(), **trial.user_attrs}
        write_atomically(self._folder.trial(trial.number) / "metrics.json", json.dumps(facts, indent=1))

    def _write_best(self) -> None:
        """Make best/ the best trial's; a driver may have died between telling the study and copying it."""
        best, path = best_trial(self._study), self._folder.path / "best" / "metrics.json"
        if best is not None and not (path.is_file() and json.loads(path.read_text())["trial"] == best.number):
            self._describe(best)
            self._folder.replace_folder(self._folder.trial(best.number), "best")

    def _discard(self) -> None:
        """Drop the states of finished trials, and the weights of those that are neither among the best nor the default
        nor on the front."""
        kept = {0, *(t.number for t in self._worthy())}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and trial.number not in self._dropped:
                folder = self._folder.trial(trial.number)
                if trial.number not in self._clean:
                    # a worker that was killed leaves the latter half-written
                    for state in [folder / "checkpoint.pt", *folder.glob(".*.pt.*")]:
                        state.unlink(missing_ok=True)
                    self._clean.add(trial.number)
                if trial.number not in kept:
                    (folder / "model.pt").unlink(missing_ok=True)
                    self._dropped.add(trial.number)

    def _worthy(self) -> list[optuna.trial.FrozenTrial]:
        best = ordered(self._study)
        return best if len(self._study.directions) > 1 else best[:self._keep]

    def _write_front(self) -> None:
        best = best_trial(self._study)
        root = self._folder.path / "pareto"
        root.mkdir(exist_ok=True)
        front = {f"{t.number:04d}" for t in self._study.best_trials if best and t.number != best.number}
        for stale in {p.name for p in root.iterdir()} - front:
            shutil.rmtree(root / stale)
        for name in front - {p.name for p in root.iterdir()}:
            self._folder.replace_folder(self._folder.path / "trials" / name, f"pareto/{name}")
