"""A search from its settings to its summary: prepare the sessions, fill the slots, let Tune run, keep the best."""
from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.trial import TrialState

from raycal.config import Config
from raycal.errors import UserError
from raycal.report.console import Progress, counter
from raycal.report.tensorboard import TensorBoard
from raycal.search import connection, ending, interruption, recordings, room
from raycal.search.ends import Ends
from raycal.search.folder import RunFolder, write_atomically
from raycal.search.keeper import Keeper
from raycal.search.patience import Patience
from raycal.search.plan import (SIMULATED, Plan, check_decodable, check_search, enqueue, make_plan,
                                simulated_sessions)
from raycal.search.sameness import check_data, data_of
from raycal.search.scheduler import Asker, Halter, Referee, Stopper
from raycal.search.space import Space
from raycal.sessions.readers import check_kinds, fetched, local_places
from raycal.sessions.readers.places import anchored
from raycal.sessions.session import Session


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
    allow_space_change: bool = False  # go on in a changed space, from the trials that still fit
    held: dict[str, Any] = field(default_factory=dict)  # settings the user fixed: they are not searched


def run(space: Space, config: Config, options: Options) -> dict[str, Any]:
    """Run or resume a search; return its summary with "folder" and "interrupted" added.

    Bad input raises UserError before any slot starts.
    """
    if not options.verbose:
        connection.hush()
    check_search(space, config)
    say = Progress.printer(options.quiet)
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruption.unwinding())
        folder = stack.enter_context(_held(RunFolder.existing(options.resume)) if options.resume
                                     else _new_folder(space, options))
        items = _items(options, config, say)
        cluster = stack.enter_context(connection.cluster(
            config, max(config.search.trials, options.more), options.max_concurrent, options.address, options.verbose,
            options.temp_dir))
        began = time.monotonic()
        found = recordings.read(items, config.sessions, counter("reading", options.quiet))
        plan = make_plan(space, config, found.sketches, say)
        data = recordings.prepare(found, plan.config.sessions, plan.agreement, say=say)
        check_decodable(plan, data.varying)
        say(f"{len(plan.sketches)} recordings read in {time.monotonic() - began:.1f} s, {data.n_bytes / 2**20:.4g} MiB of "
            "them in the object store")
        del found  # the whole recordings leave the store, what was prepared stays
        mirror = _mirror(folder, options, say)
        study = _open(plan, folder, say, options.allow_space_change)
        folder.patiently(lambda: _write_settings(folder, space, plan.config, options))
        again = lambda: _again(items, plan, options)  # noqa: E731
        with _resumable(folder):
            return _search(plan, data, study, folder, cluster, options, mirror, say, again)


def _again(items: list, plan: Plan, options: Options) -> recordings.Prepared:
    """Read and prepare the recordings once more: a node left and took them along."""
    found = recordings.read(items, plan.config.sessions, counter("reading again", options.quiet))
    return recordings.prepare(found, plan.config.sessions, plan.agreement, say=lambda line: None)


@contextlib.contextmanager
def _resumable(folder: RunFolder) -> Iterator[None]:
    """Say with a search that is ended at once how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped at once; next: python run_search.py --resume {folder.path}") from None


def _here(item: Any, traces: str, say: Callable[[str], None]) -> list:
    if isinstance(item, Session):
        return [item]
    return [place for found in local_places(item) for place in fetched(found, traces, say)]


def _items(options: Options, config: Config, say: Callable[[str], None]) -> list:
    """Return the Session objects and places of a run; what is plainly wrong with a path is said before Ray starts.

    Files that lie elsewhere are downloaded by this process, or, on a cluster, where the tasks run that read them.
    """
    items = list(options.sessions)
    check_kinds(items)
    if not options.address:
        items = [place for item in items for place in _here(item, config.sessions.traces, say)]
    if not options.sessions:
        say(SIMULATED)
        # before Ray starts, not beside it: it forks, and a fork while BLAS computes in a thread can hang both
        items = simulated_sessions()
    return items


@contextlib.contextmanager
def _held(folder: RunFolder) -> Iterator[RunFolder]:
    """Hold the lock of a run folder."""
    folder.lock()
    try:
        yield folder
    finally:
        folder.unlock()


@contextlib.contextmanager
def _new_folder(space: Space, options: Options) -> Iterator[RunFolder]:
    """Make and hold a new run folder; a run that bad input ends before its first trial leaves none behind."""
    folder = RunFolder.create(options.out, space.name)
    with _held(folder):
        try:
            yield folder
        except (UserError, KeyboardInterrupt):
            folder.discard()
            raise


def _write_settings(folder: RunFolder, space: Space, config: Config, options: Options) -> None:
    """Write config.yaml, and a copy of a space that is a file: another machine does not have it."""
    source = pathlib.Path(space.source)
    if source.suffix == ".py" and source.parent != folder.path:
        write_atomically(folder.path / source.name, source.read_bytes())
    write_atomically(folder.path / "config.yaml", _run_yaml(space, config, options))


def _run_yaml(space: Space, config: Config, options: Options) -> str:
    """config.yaml: the settings and, under `run`, what else reproduces the run."""
    import yaml

    sessions = [str(s) if isinstance(s, Session) else anchored(s) for s in options.sessions]
    return yaml.safe_dump({"run": {"space": space.source, "sessions": sessions, "held": dict(options.held)}}) \
        + config.to_yaml()


def _search(plan: Plan, data: recordings.Prepared, study, folder: RunFolder, cluster: connection.Cluster,
            options: Options, mirror: Callable[..., Any], say: Callable[[str], None],
            again: Callable[[], recordings.Prepared]) -> dict[str, Any]:
    """Spend the cluster's time: hand over the data, let trials run, keep what they leave."""
    import ray

    from raycal.metrics.baselines import ridge_on_traces
    from raycal.search.study import Record

    cluster.grow(cluster.slots.count)
    cluster.hand_over(data.refs)
    wanted = _wanted(study, plan.config, options)
    _note_slots(study, cluster.slots.count)
    record = Record(study, plan.space, rate=plan.rate, rate_limit=plan.rate_limit, wanted=wanted,
                    seed=plan.config.training.seed)
    deadline = time.monotonic() + 60 * options.max_minutes if options.max_minutes else None
    progress = _progress(plan, record, wanted, options, deadline)
    keeper = Keeper(folder, study, _facts(plan, study), plan.config.search.keep, after=mirror, say=progress.say)
    with interruption.heard() as interrupted, contextlib.closing(_board(plan, folder, study)) as board:
        folder.patiently(keeper.tidy)
        over = lambda: interrupted() or bool(deadline and time.monotonic() > deadline)  # noqa: E731
        folder.patiently = Patience(folder.path, progress.say, over)
        ridge = recordings.beside(ridge_on_traces, data)
        say(room.sentence(plan, folder.path, cluster.slots.count, wanted))
        referee = Referee(record, _payload(folder), list(plan.objectives), [keeper, board, progress, Ends(folder.path)],
                          _mender(cluster, data, again, progress.say))
        try:
            with progress:
                _tune(referee, cluster, over, progress.say)
        finally:
            record.abandon()
        if referee.error:
            raise referee.error
        if not interrupted():
            keeper.add({"ridge": ray.get(ridge)})
    measured = None if interrupted() else ending.measure(plan, data, study, folder, say)
    keeper.add(measured.facts if measured else {})
    summary = keeper.write()
    if measured:
        ending.draw(measured, plan, study, folder, say)
    study.set_user_attr("seconds", summary["seconds"])
    mirror(force=True)
    return {**summary, "folder": str(folder.path), "interrupted": len(record.trained()) < wanted,
            "stopped_by": interrupted()}


def _mender(cluster: connection.Cluster, data: recordings.Prepared, again: Callable[[], recordings.Prepared],
            say: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    """Return what brings back what a trial lost: its slot, or the data of a node that left."""
    def mend(event: dict[str, Any]) -> None:
        if event["kind"] == "data" and event["data"] == data.refs[0].hex():
            say("a node left with the recordings; reading them again")
            data.refs[:] = again().refs
            cluster.hand_over(data.refs)
        cluster.mend()

    return mend


def _facts(plan: Plan, study) -> dict[str, Any]:
    """Return what summary.json says besides the trials."""
    return {"space": plan.space.name, "objective": plan.config.search.objective, "rate_limit": plan.rate_limit,
            "sessions": [s.id for s in plan.sketches], "fingerprints": {s.id: s.fingerprint for s in plan.sketches},
            "data_fingerprint": plan.agreement.fingerprint, "seed": plan.config.training.seed,
            "slots": study.user_attrs["slots"], "seconds": study.user_attrs.get("seconds", 0.0)}


def _progress(plan: Plan, record, wanted: int, options: Options, deadline: float | None) -> Progress:
    earlier = record.trained()
    progress = Progress(wanted, len(earlier), plan.config.search.objective, plan.directions[0] == "minimize",
                        options.quiet, deadline)
    for trial in earlier:
        progress.seen(trial.number, trial.values[0] if trial.state == TrialState.COMPLETE else None)
    return progress


def _board(plan: Plan, folder: RunFolder, study) -> TensorBoard:
    distributions = plan.space.distributions(np.random.default_rng(0))
    return TensorBoard(folder.trial, distributions, plan.objectives[0],
                       lambda number: study.get_trials(deepcopy=False)[number].params)


def _payload(folder: RunFolder) -> Callable[[int, Config], dict[str, Any]]:
    """Return what makes of a trial the job that a worker takes."""
    from raycal.training.loop import train

    return lambda number, config: {"config": config.flat(), "folder": str(folder.trial(number)), "trainer": train}


def _open(plan: Plan, folder: RunFolder, say: Callable[[str], None], allow_change: bool):
    """Open the study; a new one gets its first points, an old one must have been made from the same data."""
    from raycal.search.study import open_study

    study = open_study(folder, plan.config, plan.directions, plan.space, allow_change)
    if "data_fingerprint" not in study.user_attrs:
        enqueue(study, plan, say)
        for key, value in (("objective", plan.config.search.objective), ("space", plan.space.name),
                           ("rate_limit", plan.rate_limit), ("data_fingerprint", plan.agreement.fingerprint),
                           ("data", data_of(plan))):
            study.set_user_attr(key, value)
    else:
        check_data(study, plan, folder.path)
    return study


def _wanted(study, config: Config, options: Options) -> int:
    """Return how many trials the run is to have trained; --more adds to what it had."""
    wanted = int(study.user_attrs.get("wanted", config.search.trials)) + options.more
    study.set_user_attr("wanted", wanted)
    return wanted


def _note_slots(study, count: int) -> None:
    """Record how many slots every start of the run had: with several, TPE proposes by the order results came in."""
    study.set_user_attr("slots", [*study.user_attrs.get("slots", []), count])


def _mirror(folder: RunFolder, options: Options, say: Callable[[str], None]) -> Callable[..., Any]:
    if not options.storage:
        return lambda force=False: None
    from raycal.search.storage import Mirror

    return Mirror(folder.path, options.storage, say).upload


def _tune(referee: Referee, cluster: connection.Cluster, over: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Let Ray Tune move trials through the slots until the referee has none to start."""
    from ray import tune

    from raycal.search.trainable import BorrowedSlot

    def wind_up() -> None:
        say("stopping: running epochs are finished and saved (ctrl-C once more stops at once)")
        cluster.pool.wind_up.remote()

    # no CPU: a thousandth on a node would keep a slot from its last one. The head node is also the one that stays.
    trainable = tune.with_resources(tune.with_parameters(BorrowedSlot, pool=cluster.pool),
                                    {"node:__internal_head__": 0.001})
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=Asker(referee), scheduler=Stopper(referee), num_samples=-1,
                                    max_concurrent_trials=cluster.slots.count, reuse_actors=True),
        run_config=tune.RunConfig(name="tune", storage_path=cluster.scratch, verbose=0,
                                  stop=Halter(referee, over, wind_up),
                                  failure_config=tune.FailureConfig(max_failures=2),
                                  checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)),
    ).fit()
