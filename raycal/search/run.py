"""A search from its settings to its summary: prepare the sessions, fill the slots, let Tune run, keep the best."""
from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from raycal.config import Config
from raycal.errors import UserError
from raycal.report.console import Progress
from raycal.search import connection
from raycal.search.folder import RunFolder, write_atomically
from raycal.search.plan import SIMULATED, Plan, check_search, enqueue, make_plan, simulated_sessions
from raycal.search.space import Space

START_TIMEOUT = 300.0  # s until the first worker group must stand


@dataclass
class Options:
    """What a search is told besides its configuration; the names are those of the command line."""

    sessions: Sequence[Any] = ()  # paths, globs, allen:ID, or Session objects
    out: str | None = None
    resume: str | None = None
    more: int = 0
    max_concurrent: int = 0
    max_minutes: float = 0.0
    address: str | None = None
    storage: str | None = None
    verbose: bool = False
    quiet: bool = False
    temp_dir: str | None = None
    held: dict[str, Any] = field(default_factory=dict)  # settings the user fixed: they are not searched


@dataclass
class Cluster:
    """Ray as this run has it: the pool of slots, and what to give back at the end."""

    slots: connection.Slots
    pool: Any
    own: bool
    scratch: str

    def close(self) -> None:
        """Give everything back: worker groups, their placement groups, the pool, Ray if it is ours."""
        import ray

        if not ray.is_initialized():
            return
        with contextlib.suppress(ray.exceptions.RayError):
            groups = ray.get(self.pool.state.remote(), timeout=10)["groups"]
            if not self.own or os.environ.get("RAY_ADDRESS"):
                ray.get(self.pool.close.remote(), timeout=30)
            connection.remove_groups(groups)
            ray.kill(self.pool)
        if self.own:
            ray.shutdown()
        shutil.rmtree(self.scratch, ignore_errors=True)


def run(space: Space, config: Config, options: Options) -> dict[str, Any]:
    """Run or resume a search; return its summary with "folder" and "interrupted" added.

    Bad input raises UserError before any slot starts.
    """
    check_search(space, config)
    folder = RunFolder.existing(options.resume) if options.resume else None
    sessions = read_sessions(options.sessions)
    if folder:
        folder.lock()
    cluster = None
    try:
        say = Progress.printer(options.quiet)
        if not sessions:
            say(SIMULATED)
            cluster = _start(config, options, alone=True)
            sessions = simulated_sessions()
        plan = make_plan(space, config, sessions, say)
        folder = folder or _new_folder(space, options)
        write_atomically(folder.path / "config.yaml", _run_yaml(space, plan.config, options))
        cluster = cluster or _start(plan.config, options)
        return _search(plan, folder, cluster, options, sessions, say)
    finally:
        if cluster:
            cluster.close()
        if folder:
            folder.unlock()


def read_sessions(sessions: Sequence[Any]) -> list:
    """Return a Session for every path and every Session object given."""
    from raycal.sessions.readers import read

    paths = [s for s in sessions if isinstance(s, (str, pathlib.Path))]
    return [s for s in sessions if not isinstance(s, (str, pathlib.Path))] + (read(paths) if paths else [])


def _new_folder(space: Space, options: Options) -> RunFolder:
    folder = RunFolder.create(options.out, space.name)
    folder.lock()
    return folder


def _run_yaml(space: Space, config: Config, options: Options) -> str:
    """config.yaml: the settings and, under `run`, what else reproduces the run."""
    import yaml

    sessions = [str(pathlib.Path(s).resolve()) if os.path.exists(str(s)) else str(s) for s in options.sessions]
    return yaml.safe_dump({"run": {"space": space.source, "sessions": sessions, "held": dict(options.held)}}) \
        + config.to_yaml()


def _start(config: Config, options: Options, alone: bool = False) -> Cluster:
    """Connect to Ray and start the slots; alone: only the first, while sessions are still being made."""
    import ray

    own = connection.connect(config, options.address, options.verbose, options.temp_dir)
    slots = connection.slots(config, max(config.search.trials, options.more), options.max_concurrent,
                             local=not options.address)
    from raycal.search.slots import SlotPool

    scratch = tempfile.mkdtemp(prefix="raycal-")
    threads = 1 if not slots.use_gpu else max(1, (os.cpu_count() or 1) // slots.count)
    pool = SlotPool.remote({"workers": slots.workers, "resources": slots.resources, "use_gpu": slots.use_gpu,
                            "storage": scratch, "threads": threads, "limit": config.training.epoch_limit})
    ray.get(pool.grow.remote(1 if alone else slots.count))
    return Cluster(slots, pool, own, scratch)


def _search(plan: Plan, folder: RunFolder, cluster: Cluster, options: Options, sessions: list,
            say: Callable[[str], None]) -> dict[str, Any]:
    import ray

    from raycal.report.tensorboard import TensorBoard
    from raycal.search.keeper import Keeper
    from raycal.search.scheduler import Referee
    from raycal.search.study import Record
    from raycal.sessions import store
    from raycal.training.loop import train

    config = plan.config
    refs = store.put(plan.dataset)
    ray.get(cluster.pool.set_dataset.remote(refs))
    ray.get(cluster.pool.grow.remote(cluster.slots.count))
    study = _open(plan, folder, say)
    wanted = _wanted(study, config, options)
    record = Record(study, plan.space, rate=plan.rate, rate_limit=plan.rate_limit, wanted=wanted,
                    seed=config.training.seed)
    mirror = _mirror(folder, options)
    facts = {"space": plan.space.name, "objective": config.search.objective, "rate_limit": plan.rate_limit,
             "sessions": [s.id for s in sessions], "fingerprints": {s.id: s.fingerprint for s in sessions},
             "data_fingerprint": plan.dataset.fingerprint, "seconds": study.user_attrs.get("seconds", 0.0)}
    keeper = Keeper(folder, study, facts, config.search.keep, after=mirror)
    begun, deadline = time.monotonic(), time.monotonic() + 60 * options.max_minutes if options.max_minutes else None
    progress = Progress(wanted, len(record.trained()), config.search.objective, plan.directions[0] == "minimize",
                        cluster.slots.count, options.quiet, deadline)
    _show_earlier(progress, record)
    params = lambda number: study.get_trials(deepcopy=False)[number].params  # noqa: E731
    import numpy as np

    board = TensorBoard(folder.trial, plan.space.distributions(np.random.default_rng(0)), plan.objectives[0], params)
    payload = lambda number, c: {"config": c.flat(), "folder": str(folder.trial(number)), "trainer": train}  # noqa: E731
    referee = Referee(record, payload, list(plan.objectives), [keeper, board, progress])
    with ThreadPoolExecutor(1) as helper, _interruptible() as interrupted:
        ridge = helper.submit(_ridge, plan.dataset)
        with progress:
            _tune(referee, cluster, lambda: interrupted() or bool(deadline and time.monotonic() > deadline), options)
        stopped = interrupted() or len(record.trained()) < wanted
        record.abandon()
        board.close()
        keeper.add({"ridge": _ridge_figures(ridge)})
    study.set_user_attr("seconds", round(facts["seconds"] + time.monotonic() - begun, 3))
    whole = keeper.write()
    mirror(force=True)
    return {**whole, "folder": str(folder.path), "interrupted": stopped}


def _open(plan: Plan, folder: RunFolder, say: Callable[[str], None]):
    """Open the study; a new one gets its first points, an old one must have been made from the same data."""
    from raycal.search.study import open_study

    study = open_study(folder, plan.config, plan.directions, plan.space)
    known = study.user_attrs.get("data_fingerprint")
    if known is None:
        for key, value in (("data_fingerprint", plan.dataset.fingerprint), ("objective", plan.config.search.objective),
                           ("space", plan.space.name), ("rate_limit", plan.rate_limit)):
            study.set_user_attr(key, value)
        enqueue(study, plan, say)
    elif known != plan.dataset.fingerprint:
        raise UserError(f"--resume {folder.path}: the sessions or their split changed (fingerprint {known} then, "
                        f"{plan.dataset.fingerprint} now), so old and new trials could not be compared\n"
                        "fix: give the same sessions and split, or start a new run")
    return study


def _wanted(study, config: Config, options: Options) -> int:
    """Return how many trials the run is to have trained; --more adds to what it had."""
    wanted = int(study.user_attrs.get("wanted", config.search.trials)) + options.more
    study.set_user_attr("wanted", wanted)
    return wanted


def _show_earlier(progress: Progress, record) -> None:
    for trial in record.trained():
        progress.seen(trial.number, trial.values[0] if trial.values else None)


def _mirror(folder: RunFolder, options: Options) -> Callable[..., Any]:
    if not options.storage:
        return lambda force=False: None
    from raycal.search.storage import Mirror

    return Mirror(folder.path, options.storage).upload


def _tune(referee, cluster: Cluster, over: Callable[[], bool], options: Options) -> None:
    """Let Ray Tune move trials through the slots until the referee has none to start."""
    from ray import tune

    from raycal.search.scheduler import Asker, Halter, Stopper
    from raycal.search.trainable import BorrowedSlot

    trainable = tune.with_resources(tune.with_parameters(BorrowedSlot, pool=cluster.pool), {"CPU": 0.001})
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=Asker(referee), scheduler=Stopper(referee), num_samples=-1,
                                    max_concurrent_trials=cluster.slots.count, reuse_actors=True),
        run_config=tune.RunConfig(name="tune", storage_path=cluster.scratch, stop=Halter(referee, over), verbose=0,
                                  failure_config=tune.FailureConfig(max_failures=2),
                                  checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)),
    ).fit()
    if referee.error:
        raise referee.error


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first ctrl-C into a wish that Tune hears between results; the second one ends at once."""
    asked: list[float] = []

    def note(signum, frame) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(time.monotonic())

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: whoever runs us handles ctrl-C
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, previous)


def _ridge(dataset) -> dict[str, Any]:
    from raycal.metrics.baselines import ridge_on_traces

    return ridge_on_traces(dataset)


def _ridge_figures(future: Future) -> dict[str, Any]:
    return future.result() or {}
