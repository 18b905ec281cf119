"""A search from its settings to its summary: prepare the sessions, fill the slots, let Tune run, keep the best."""
from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from optuna.trial import TrialState

from raycal.config import Config
from raycal.errors import UserError
from raycal.report import planned as lines
from raycal.report.console import Progress
from raycal.report.tensorboard import TensorBoard
from raycal.search import connection, ending, recordings, reproduce, room
from raycal.search.ends import Ends
from raycal.search.folder import RunFolder, write_atomically
from raycal.search.keeper import Keeper
from raycal.search.patience import Patience
from raycal.search.plan import Plan, check_search, enqueue
from raycal.search.ready import Options, check_same, held, items, mirror_of, planned, prepared
from raycal.search.scheduler import Asker, Halter, Referee, Stopper
from raycal.search.space import Space
from raycal.sessions.readers.places import anchored
from raycal.sessions.session import Session


def run(space: Space, config: Config, options: Options) -> dict[str, Any] | None:
    """Run or resume a search; return its summary with "folder" and "interrupted" added; None for a dry run.

    Bad input raises UserError before any slot starts.
    """
    if not options.verbose:
        connection.hush()
    check_search(space, config)
    say = Progress.printer(options.quiet)
    with contextlib.ExitStack() as stack:
        folder = None
        if not options.dry_run:
            folder = stack.enter_context(held(RunFolder.existing(options.resume)) if options.resume
                                         else _new_folder(space, options))
        given = items(options, config, say)
        cluster = stack.enter_context(connection.cluster(
            config, max(config.search.trials, options.more), options.max_concurrent, options.address, options.verbose,
            options.temp_dir))
        began = time.monotonic()
        found, plan = planned(space, config, given, options, say)
        data = prepared(plan, found, began, say)
        del found  # the whole recordings leave the store, what was prepared stays
        for line in lines.settled(plan):
            say(line)
        if folder is None:
            return _rehearse(plan, data, cluster, say)
        mirror = mirror_of(folder, options, say)
        study = _open(plan, folder, say)
        folder.patiently(lambda: write_atomically(folder.path / "config.yaml", _run_yaml(space, plan.config, options)))
        return _search(plan, data, study, folder, cluster, options, mirror, say)


@contextlib.contextmanager
def _new_folder(space: Space, options: Options) -> Iterator[RunFolder]:
    """Make and hold a new run folder; a run that bad input ends before its first trial leaves none behind."""
    folder = RunFolder.create(options.out, space.name)
    with held(folder):
        try:
            yield folder
        except (UserError, KeyboardInterrupt):
            folder.discard()
            raise


def _run_yaml(space: Space, config: Config, options: Options) -> str:
    """config.yaml: the settings and, under `run`, what else reproduces the run."""
    import yaml

    sessions = [str(s) if isinstance(s, Session) else anchored(s) for s in options.sessions]
    return yaml.safe_dump({"run": {"space": space.source, "sessions": sessions, "held": dict(options.held)}}) \
        + config.to_yaml()


def _rehearse(plan: Plan, data: recordings.Prepared, cluster: connection.Cluster, say: Callable[[str], None]) -> None:
    """Measure what the search would cost, say it, and end."""
    trials = plan.config.search.trials
    cluster.open(data.refs)
    _probe(plan, cluster, trials, say)
    say(room.sentence(plan, ".", cluster.slots.count, trials))


def _probe(plan: Plan, cluster: connection.Cluster, trials: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Step the corners of the space in the first slot, say what follows, and return it."""
    from raycal.search.probe import estimate

    search = plan.config.search
    trainings = (search.confirm_top + 1) * search.confirm_seeds if search.confirm_top else 0
    known = estimate(plan, cluster, trials, trainings)
    for line in lines.measured(known, plan.config.training.epochs):
        say(line)
    return dataclasses.asdict(known)


def _search(plan: Plan, data: recordings.Prepared, study, folder: RunFolder, cluster: connection.Cluster,
            options: Options, mirror: Callable[..., Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Spend the cluster's time: hand over the data, let trials run, keep what they leave, confirm the best."""
    import ray

    from raycal.metrics.baselines import ridge_on_traces
    from raycal.search.study import Record, plain

    wanted = _wanted(study, plan.config, options)
    record = Record(study, plan.space, rate=plan.rate, rate_limit=plan.rate_limit, wanted=wanted,
                    seed=plan.config.training.seed)
    cluster.open(data.refs)
    if (left := wanted - len(record.trained())) > 0:
        study.set_user_attr("plan", plain(_probe(plan, cluster, left, say)))
    cluster.grow(cluster.slots.count)
    reproduce.note(study, cluster.slots.use_gpu)
    deadline = time.monotonic() + 60 * options.max_minutes if options.max_minutes else None
    progress = _progress(plan, record, wanted, options, deadline)
    keeper = Keeper(folder, study, _facts(plan, study), plan.config.search.keep, after=mirror, say=progress.say)
    with _interruptible() as interrupted, contextlib.closing(_board(plan, folder, study)) as board:
        over = lambda: interrupted() or bool(deadline and time.monotonic() > deadline)  # noqa: E731
        folder.patiently = Patience(folder.path, progress.say, over)
        ridge = recordings.beside(ridge_on_traces, data)
        say(room.sentence(plan, folder.path, cluster.slots.count, wanted))
        referee = Referee(record, _payload(folder), list(plan.objectives), [keeper, board, progress, Ends(folder.path)])
        with progress:
            _tune(referee, cluster, over)
        record.abandon()
        if referee.error:
            raise referee.error
        keeper.add({"ridge": ray.get(ridge)})
        unfinished = len(record.trained()) < wanted
        if not unfinished:
            _confirm(plan, study, folder, cluster, say, over)
    measured = ending.measure(plan, data, study, folder, say)
    keeper.add(measured.facts)
    summary = keeper.write()
    ending.draw(measured, plan, study, folder, say)
    study.set_user_attr("seconds", summary["seconds"])
    mirror(force=True)
    return {**summary, "folder": str(folder.path), "interrupted": unfinished}


def _confirm(plan: Plan, study, folder: RunFolder, cluster: connection.Cluster, say: Callable[[str], None],
             over: Callable[[], bool]) -> None:
    """Train the best and the default again on fresh seeds, where that is wanted and there is a best."""
    from raycal.search.confirm import confirm
    from raycal.search.study import best_trial

    search = plan.config.search
    if search.confirm_top and best_trial(study):
        if not confirm(study, folder, cluster, plan.objectives[0], search.confirm_top, search.confirm_seeds, say, over):
            say(f"not confirmed to the end; raycal confirm {folder.path} goes on")


def _facts(plan: Plan, study) -> dict[str, Any]:
    """Return what summary.json says besides the trials."""
    return {"space": plan.space.name, "objective": plan.config.search.objective, "rate_limit": plan.rate_limit,
            "sessions": [s.id for s in plan.sketches], "fingerprints": {s.id: s.fingerprint for s in plan.sketches},
            "data_fingerprint": plan.agreement.fingerprint, "seconds": study.user_attrs.get("seconds", 0.0)}


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


def _open(plan: Plan, folder: RunFolder, say: Callable[[str], None]):
    """Open the study; a new one gets its first points, an old one must have been made from the same data."""
    from raycal.search.study import open_study

    study = open_study(folder, plan.config, plan.directions, plan.space)
    known = study.user_attrs.get("data_fingerprint")
    if known is None:
        enqueue(study, plan, say)
        for key, value in (("objective", plan.config.search.objective), ("space", plan.space.name),
                           ("rate_limit", plan.rate_limit), ("data_fingerprint", plan.agreement.fingerprint)):
            study.set_user_attr(key, value)
    else:
        check_same(study, plan, folder)
    return study


def _wanted(study, config: Config, options: Options) -> int:
    """Return how many trials the run is to have trained; --more adds to what it had."""
    wanted = int(study.user_attrs.get("wanted", config.search.trials)) + options.more
    study.set_user_attr("wanted", wanted)
    return wanted


def _tune(referee: Referee, cluster: connection.Cluster, over: Callable[[], bool]) -> None:
    """Let Ray Tune move trials through the slots until the referee has none to start."""
    from ray import tune

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
