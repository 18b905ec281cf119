"""A search from its settings to its summary: prepare, probe, fill the slots, let Tune run, keep and confirm the best."""
from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from optuna.trial import TrialState

from raycal.config import Config
from raycal.errors import UserError
from raycal.report import page
from raycal.report import planned as lines
from raycal.report.console import Progress
from raycal.report.tensorboard import TensorBoard
from raycal.search import connection, ending, interruption, provenance, recordings, room
from raycal.search.ends import Ends
from raycal.search.folder import RunFolder, write_atomically
from raycal.search.keeper import Keeper
from raycal.search.patience import Patience
from raycal.search.plan import Plan, check_search, enqueue
from raycal.search.ready import Options, held, items, mirror_of, planned, prepared, read_again
from raycal.search.sameness import check_data, data_of
from raycal.search.scheduler import Referee, SlotsBack, let_run
from raycal.search.space import Space
from raycal.sessions.readers.places import anchored
from raycal.sessions.remote import without_secrets
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
        stack.enter_context(interruption.unwinding())
        folder = None if options.dry_run else stack.enter_context(_folder(space, options))
        given = items(options, config, say)
        cluster = stack.enter_context(connection.cluster(
            config, max(config.search.trials, options.more), options.max_concurrent, options.address, options.verbose,
            options.temp_dir, say))
        began = time.monotonic()
        found, plan = planned(space, config, given, options, say)
        data = prepared(plan, found, began, say)
        del found  # the whole recordings leave the store, what was prepared stays
        study = _open(plan, folder, say, options.allow_space_change) if folder else None
        for line in lines.settled(plan):
            say(line)
        if folder is None:
            return _rehearse(plan, data, cluster, say)
        mirror = mirror_of(folder, options, say)
        folder.patiently(lambda: _write_settings(folder, space, plan.config, options))
        mend = _mender(cluster, data, lambda: read_again(plan, given, options), say)
        with _resumable(folder):
            return _search(plan, data, study, folder, cluster, options, mirror, say, mend)


def _folder(space: Space, options: Options) -> contextlib.AbstractContextManager[RunFolder]:
    """Hold the folder of the run that goes on, or a new one."""
    return held(RunFolder.existing(options.resume)) if options.resume else _new_folder(space, options)


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


@contextlib.contextmanager
def _resumable(folder: RunFolder) -> Iterator[None]:
    """Say with a search that is ended at once how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped at once; next: python run_search.py --resume {folder.path}") from None


def _write_settings(folder: RunFolder, space: Space, config: Config, options: Options) -> None:
    """Write config.yaml, and a copy of a space that is a file: another machine does not have it."""
    source = pathlib.Path(space.source)
    if source.suffix == ".py" and source.parent != folder.path:
        write_atomically(folder.path / source.name, source.read_bytes())
    write_atomically(folder.path / "config.yaml", _run_yaml(space, config, options))


def _run_yaml(space: Space, config: Config, options: Options) -> str:
    """config.yaml: the settings and, under `run`, what else reproduces the run."""
    import yaml

    sessions = [str(s) if isinstance(s, Session) else without_secrets(anchored(s)) for s in options.sessions]
    return yaml.safe_dump({"run": {"space": space.source, "sessions": sessions, "held": dict(options.held)}}) \
        + config.to_yaml()


def _rehearse(plan: Plan, data: recordings.Prepared, cluster: connection.Cluster, say: Callable[[str], None]) -> None:
    """Measure what the search would cost, say it, and end."""
    trials = plan.config.search.trials
    cluster.grow(1)
    cluster.hand_over(data.refs)
    known = _probe(plan, cluster, trials, say)
    say(room.sentence(plan, ".", known["disk"], cluster.slots.count, trials))


def _probe(plan: Plan, cluster: connection.Cluster, trials: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Step the corners of the space in the first slot, say what follows, and return it."""
    from raycal.search.probe import estimate

    search = plan.config.search
    trainings = (search.confirm_top + 1) * search.confirm_seeds if search.confirm_top else 0
    known = estimate(plan, cluster, trials, trainings, say)
    for line in lines.measured(known, plan.config.training.epochs):
        say(line)
    return dataclasses.asdict(known)


def _search(plan: Plan, data: recordings.Prepared, study, folder: RunFolder, cluster: connection.Cluster,
            options: Options, mirror: Callable[..., Any], say: Callable[[str], None],
            mend: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Spend the cluster's time: hand over the data, let trials run, keep what they leave, confirm the best."""
    import ray

    from raycal.metrics.baselines import ridge_on_traces
    from raycal.search.study import Record, plain

    wanted = _wanted(study, plan.config, options)
    record = Record(study, plan.space, rate=plan.rate, rate_limit=plan.rate_limit, wanted=wanted,
                    seed=plan.config.training.seed)
    # the second starts while the first one probes; nodes take minutes to come, so all are asked for at once
    cluster.grow(cluster.slots.count if cluster.most else min(2, cluster.slots.count))
    cluster.hand_over(data.refs)
    if (left := wanted - len(record.trained())) > 0:
        known = _probe(plan, cluster, left, say)
        say(room.sentence(plan, folder.path, known["disk"], cluster.slots.count, wanted))
        study.set_user_attr("plan", plain(known))
    cluster.grow(cluster.slots.count)
    provenance.note(study, cluster.slots)
    deadline = time.monotonic() + 60 * options.max_minutes if options.max_minutes else None
    progress = _progress(plan, record, wanted, options, deadline)
    keeper = Keeper(folder, study, _facts(plan, study), plan.config.search.keep, after=mirror, say=progress.say)
    with interruption.heard() as interrupted, contextlib.closing(_board(plan, folder, study)) as board:
        folder.patiently(keeper.tidy)
        over = lambda: interrupted() or bool(deadline and time.monotonic() > deadline)  # noqa: E731
        folder.patiently = Patience(folder.path, progress.say, over)
        listeners = [SlotsBack(cluster), keeper, board, progress, Ends(folder.path)]
        referee = Referee(record, _payload(folder), list(plan.objectives), listeners, mend)
        try:
            with progress:
                let_run(referee, cluster, over, progress.say)
        finally:
            record.abandon()
        if referee.error:
            raise referee.error
        ridge = recordings.beside(ridge_on_traces, data)  # not earlier: it would take the first trial's time
        unfinished = len(record.trained()) < wanted
        if not unfinished:
            _confirm(plan, study, folder, cluster, say, over, mend)
        if not interrupted():
            keeper.add({"ridge": ray.get(ridge)})
    measured = None if interrupted() else ending.measure(plan, data, study, folder, say)
    keeper.add(measured.facts if measured else {})
    summary = keeper.write()
    if measured:
        ending.draw(measured, plan, study, folder, say)
    study.set_user_attr("seconds", summary["seconds"])
    page.at_end(folder.path, say)
    mirror(force=True)
    return {**summary, "folder": str(folder.path), "interrupted": unfinished, "stopped_by": interrupted()}


def _confirm(plan: Plan, study, folder: RunFolder, cluster: connection.Cluster, say: Callable[[str], None],
             over: Callable[[], bool], mend: Callable[[dict[str, Any]], None]) -> None:
    """Train the best and the default again on fresh seeds, where that is wanted and there is a best."""
    from raycal.search.confirm import confirm
    from raycal.search.study import best_trial

    search = plan.config.search
    if search.confirm_top and best_trial(study):
        if not confirm(study, folder, cluster, plan.objectives[0], search.confirm_top, search.confirm_seeds, say, over,
                       mend):
            say(f"not confirmed to the end; raycal confirm {folder.path} goes on")


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
    """Return what summary.json and the report say besides the trials."""
    return {"space": plan.space.name, "objective": plan.config.search.objective, "rate_limit": plan.rate_limit,
            "sessions": [s.id for s in plan.sketches], "fingerprints": {s.id: s.fingerprint for s in plan.sketches},
            "data_fingerprint": plan.agreement.fingerprint, "seed": plan.config.training.seed,
            "slots": study.user_attrs["slots"], "seconds": study.user_attrs.get("seconds", 0.0),
            "splits": provenance.drawn(plan), "environment": provenance.environment()}


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
