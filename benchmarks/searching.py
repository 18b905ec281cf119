"""A search in a process of its own, to be disturbed: its processes, its study as it grows, and what must hold."""
from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import common
import ray  # noqa: F401  its own copy of psutil becomes importable
import psutil

ROOT = pathlib.Path(common.__file__).resolve().parents[1]
ROLES = {"worker": "ray::RayTrainWorker", "slot": "ray::TrainController", "pool": "ray::SlotPool",
         "Tune actor": "ray::(BorrowedSlot|ResourceTrainable)",  # idle, at work
         "raylet": "/raylet/raylet"}
DRAIN = 0.3  # s in which what was on its way from a killed process reaches the study
SPACE = '''
from raycal.config import Config

BASE = Config().replace({"quantizer.codebook_size": 16, "quantizer.code_dim": 8, "model.width": 16,
                         "model.residual_blocks": 0, "windows.length": 16, "windows.min_steps": 4,
                         "windows.stride": 8, "training.epochs": EPOCHS, "training.save_every": 0.2,
                         "search.confirm_top": 0})


def propose(trial, base):
    if trial.suggest_categorical("quantizer.type", ["ema", "vq"]) == "ema":
        trial.suggest_float("quantizer.decay", 0.8, 0.99)
    trial.suggest_int("quantizer.codebook_size", 8, 16, log=True)
    trial.suggest_float("optimizer.lr", 1e-3, 1e-2, log=True)
    return base.replace(trial.params)
'''


def given(folder: pathlib.Path, epochs: int, n_frames: int = 1500) -> list[str]:
    """Write a space and two recordings into a folder; return the arguments that search them."""
    from raycal.sessions.readers import npz
    from raycal.sessions.simulate import simulate

    (folder / "space.py").write_text(SPACE.replace("EPOCHS", str(epochs)))
    for n in (8, 11):
        npz.write(simulate(n_neurons=n, n_frames=n_frames, rate=5.0, seed=n).session, folder / f"{n}.npz")
    return ["--space", str(folder / "space.py"), "--sessions", str(folder / "8.npz"), str(folder / "11.npz")]


class Search:
    """A run folder and the driver that is at it, if any; every driver leads a session of processes of its own.

    arguments: of the first start; always: of every start, the resumes among them.
    """

    def __init__(self, folder: pathlib.Path, arguments: list[str], always: Sequence[str] = (),
                 environment: dict[str, str] | None = None):
        self.folder, self._arguments, self._always = folder, arguments, always
        self._temporary = folder.parent / "t"
        self._temporary.mkdir(exist_ok=True)
        self._environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        places = {"TMPDIR": str(self._temporary), "RAY_TMPDIR": str(self._temporary)}
        self._environment |= {"PYTHONPATH": str(ROOT), **places, **(environment or {})}
        self._shared_memory = set(os.listdir("/dev/shm"))
        self.driver: subprocess.Popen | None = None
        self._terminal, self._said, self._sessions = -1, bytearray(), []
        self.began = 0.0

    def start(self) -> Search:
        """Start a driver on a terminal of its own: a new run, or going on with the one that is there."""
        first = ["--out", str(self.folder), *self._arguments]
        arguments = [*(["--resume", str(self.folder)] if self.folder.exists() else first), *self._always]
        self._terminal, inner = pty.openpty()
        self.began = time.monotonic()
        self.driver = subprocess.Popen([sys.executable, str(ROOT / "run_search.py"), *arguments], stdin=inner,
                                       stdout=inner, stderr=inner, env=self._environment, start_new_session=True,
                                       preexec_fn=_as_in_a_shell)
        os.close(inner)
        self._sessions.append(self.driver.pid)
        self._said = bytearray()
        threading.Thread(target=self._listen, args=(self._terminal, self._said), daemon=True).start()
        return self

    @staticmethod
    def _listen(terminal: int, said: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(terminal, 4096):
                said += data

    @property
    def said(self) -> str:
        return self._said.decode(errors="replace").replace("\r", "")

    def press(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def close_terminal(self) -> None:
        """Close the terminal as a window does: its shell sends SIGHUP to the whole job."""
        os.killpg(self.driver.pid, signal.SIGHUP)
        time.sleep(0.2)  # a reader of the other end is gone after the signal
        terminal, self._terminal = self._terminal, -1
        os.close(terminal)

    def end(self, seconds: float = 600.0) -> int:
        """Wait for the driver and return its exit status."""
        try:
            status = self.driver.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the driver did not end in {seconds:.0f} s; it said\n{self.said[-3000:]}") from None
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1
        return status

    def processes(self, role: str = "") -> list[psutil.Process]:
        """Return what lives of the processes that the drivers started, or those of a role."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(process.pid) in self._sessions and process.status() != psutil.STATUS_ZOMBIE:
                    if not role or re.search(ROLES[role], "".join(process.cmdline()[:1])):
                        found.append(process)
        return found

    def trials(self) -> list[Any]:
        """Return the trials of the study as they are on disk; none before there is one."""
        from raycal.errors import UserError
        from raycal.search.study import read_study

        with contextlib.suppress(UserError, KeyError, ValueError):
            return read_study(str(self.folder)).get_trials()
        return []

    def epochs(self) -> int:
        return sum(len(t.intermediate_values) for t in self.trials())

    def wait_for_epochs(self, more: int, seconds: float = 600.0) -> float:
        """Wait until that many more epochs are in the study; return how long it took, in s."""
        began, wanted = time.monotonic(), self.epochs() + more
        while self.epochs() < wanted:
            if self.driver.poll() is not None:
                raise AssertionError(f"the driver ended with {self.driver.returncode}; it said\n{self.said[-3000:]}")
            if time.monotonic() - began > seconds:
                raise AssertionError(f"no {more} more epochs within {seconds:.0f} s; it said\n{self.said[-3000:]}")
            time.sleep(0.1)
        return time.monotonic() - began

    def kill(self, role: str, which: Callable[[list[psutil.Process]], psutil.Process] = lambda found: found[0]) -> int:
        """Kill a process of a role with SIGKILL, once there is one; return its number."""
        deadline = time.monotonic() + 60.0
        while not (found := self.processes(role)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert found, f"no {role} lives among {[p.cmdline()[:1] for p in self.processes()]}"
        victim = which(found)
        self.began = time.monotonic()
        victim.kill()
        victim.wait(10.0)
        time.sleep(DRAIN)
        return victim.pid

    def recovered(self) -> float:
        """Wait for one more epoch; return the s since the last kill or start."""
        self.wait_for_epochs(1)
        return time.monotonic() - self.began

    def left(self, seconds: float = 90.0) -> list[str]:
        """Return what is left of the drivers: processes, locks, scratch files, shared memory; [] as it must be."""
        deadline = time.monotonic() + seconds
        while (found := self._left()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return found

    def _left(self) -> list[str]:
        files = [p for p in self.folder.rglob("*") if p.name.startswith(".") or "lock" in p.name]
        scratch = list(self._temporary.glob("raycal-*"))
        shared = [name for name in set(os.listdir("/dev/shm")) - self._shared_memory if not _mapped(name)]
        return [*(" ".join(p.cmdline())[:120] for p in self.processes()), *map(str, [*files, *scratch]), *shared]

    def stop(self) -> None:
        """Kill whatever is left; for a block that failed."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()


def _as_in_a_shell() -> None:
    """Give a driver the terminal, and the signals that this process ignores where it runs in the background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


def _mapped(name: str) -> bool:
    """Say whether a living process, of whatever run, has a file of /dev/shm open."""
    for maps in pathlib.Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if f"/dev/shm/{name}" in maps.read_text():
                return True
    return False


def undisturbed(folder: pathlib.Path, arguments: list[str], settings: dict[str, Any]) -> list[Any]:
    """Return the trials of the same search without Ray, one after the other in this process: nothing can die."""
    import torch

    import raycal
    from raycal import api
    from raycal.search.folder import RunFolder
    from raycal.search.plan import enqueue, make_plan
    from raycal.search.scheduler import Referee
    from raycal.search.study import Record, open_study
    from raycal.sessions.agreement import sketch
    from raycal.sessions.prepare import assemble, record
    from raycal.training.loop import train

    torch.set_num_threads(1)
    space, config, _ = api.configure(arguments[1], settings, {})
    sessions = raycal.read(arguments[3:5])
    plan = make_plan(space, config, [sketch(s, config.sessions) for s in sessions], lambda line: None)
    dataset = assemble(plan.agreement, [record(s, plan.config.sessions, plan.agreement, i, ("train", "validation"),
                                               lambda line: None) for i, s in enumerate(sessions)])
    run = RunFolder.create(str(folder), "undisturbed")
    run.lock()
    study = open_study(run, plan.config, plan.directions, plan.space)
    enqueue(study, plan, lambda line: None)
    book = Record(study, plan.space, rate=plan.rate, rate_limit=plan.rate_limit, wanted=plan.config.search.trials,
                  seed=plan.config.training.seed)
    referee = Referee(book, lambda number, config: {"config": config}, list(plan.objectives), [])
    while job := referee.start():
        for epoch in train(job["payload"]["config"], dataset):
            event = {"kind": "epoch", **epoch._asdict()}
            if epoch.done or referee.epoch(job["number"], event):
                referee.end(job["number"], event)
                break
    run.unlock()
    return study.get_trials()


def essence(trial: Any) -> dict[str, Any]:
    """Return everything of a trial that a disturbance must not change: all but the times."""
    facts = {k: v for k, v in trial.user_attrs.items() if k not in ("seconds", "stopped_at")}
    facts["metrics"] = {k: v for k, v in facts.get("metrics", {}).items() if k != "seconds"}
    return json.loads(json.dumps({"number": trial.number, "state": trial.state.name, "params": trial.params,
                                  "values": trial.values, "reported": trial.intermediate_values, **facts}))


def check_whole(trials: list[Any]) -> None:
    """Raise AssertionError where a study that ended is not as every study must be."""
    assert [t.number for t in trials] == list(range(len(trials))), "numbers are not 0, 1, 2 ..."
    unfinished = [(t.number, t.state.name) for t in trials if not t.state.is_finished()]
    assert not unfinished, f"unfinished trials: {unfinished}"
    trained = [t for t in trials if "objective_by_epoch" in t.user_attrs]
    for trial in trained:
        epochs = [epoch for epoch, _ in trial.user_attrs["objective_by_epoch"]]
        assert epochs == list(range(1, len(epochs) + 1)), f"epochs of trial {trial.number}: {epochs}"
    proposals = [json.dumps(t.params, sort_keys=True) for t in trials]
    assert len(set(proposals)) == len(proposals), "a proposal was made twice"


def check_same(trials: list[Any], reference: list[Any]) -> None:
    """Raise AssertionError where trials differ from those of an undisturbed run."""
    assert len(trials) == len(reference), f"{len(trials)} trials, undisturbed {len(reference)}"
    for ours, theirs in zip(map(essence, trials), map(essence, reference), strict=True):
        for key in ours.keys() | theirs.keys():
            assert ours.get(key) == theirs.get(key), \
                f"trial {ours['number']}, {key}: {ours.get(key)}, undisturbed {theirs.get(key)}"
