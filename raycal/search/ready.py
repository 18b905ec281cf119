"""What every verb that trains has to have first: recordings read, the plan that follows from them, prepared data."""
from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycal.checks import check_conditions
from raycal.config import Config
from raycal.report import page
from raycal.report.console import counter
from raycal.search import connection, held_out, recordings
from raycal.search.folder import RunFolder
from raycal.search.keeper import FACTS, Keeper
from raycal.search.plan import SIMULATED, Plan, check_decodable, make_plan, simulated_sessions
from raycal.search.sameness import check_data
from raycal.search.space import Space
from raycal.sessions.readers import check_kinds, fetched, local_places
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
    dry_run: bool = False  # say what would run, and end
    temp_dir: str | None = None
    allow_space_change: bool = False  # go on in a changed space, from the trials that still fit
    held: dict[str, Any] = field(default_factory=dict)  # settings the user fixed: they are not searched


@dataclass
class Reopened:
    """An earlier run, held by this process, with what its trainings need but their data."""

    folder: RunFolder
    study: Any  # optuna.Study
    plan: Plan
    found: recordings.Recordings
    cluster: connection.Cluster
    mirror: Callable[..., Any]

    def finish(self, say: Callable[[str], None]) -> None:
        """Write again all that follows from the study, which has more to tell now."""
        self.folder.patiently(Keeper(self.folder, self.study, self.study.user_attrs.get(FACTS, {}), 0, say=say).restore)
        page.at_end(self.folder.path, say)
        self.mirror(force=True)


@contextlib.contextmanager
def reopened(space: Space, config: Config, options: Options, trainings: int,
             say: Callable[[str], None]) -> Iterator[Reopened]:
    """Hold the run of options.resume and read its recordings again; refuse when they are not the same."""
    from raycal.search.study import open_study

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(held(RunFolder.existing(options.resume, "")))
        given = items(options, config, say)
        cluster = stack.enter_context(connection.cluster(config, trainings, options.max_concurrent, options.address,
                                                         options.verbose, options.temp_dir, say))
        found, plan = planned(space, config, given, options, say)
        study = open_study(folder, plan.config, plan.directions, plan.space)
        check_data(study, plan, folder.path)
        yield Reopened(folder, study, plan, found, cluster, mirror_of(folder, options, say))


@contextlib.contextmanager
def held(folder: RunFolder) -> Iterator[RunFolder]:
    """Hold the lock of a run folder."""
    folder.lock()
    try:
        yield folder
    finally:
        folder.unlock()


def items(options: Options, config: Config, say: Callable[[str], None]) -> list:
    """Return the Session objects and places of a run; what is plainly wrong with a path is said before Ray starts.

    Files that lie elsewhere are downloaded by this process, or, on a cluster, where the tasks run that read them.
    """
    found = list(options.sessions)
    check_kinds(found)
    if not options.address:
        found = [place for item in found for place in _here(item, config.sessions.traces, say)]
    if not options.sessions:
        say(SIMULATED)
        # before Ray starts, not beside it: it forks, and a fork while BLAS computes in a thread can hang both
        found = simulated_sessions()
    return found


def planned(space: Space, config: Config, given: list, options: Options,
            say: Callable[[str], None]) -> tuple[recordings.Recordings, Plan]:
    """Read the recordings and fix what follows from them; Ray is connected. Those held out come last."""
    found = recordings.read(given, config.sessions, counter("reading", options.quiet))
    plan = make_plan(space, config, found.sketches, say)
    return _in_order(found, plan), plan


def _in_order(found: recordings.Recordings, plan: Plan) -> recordings.Recordings:
    return found.ordered([sketch.id for sketch in (*plan.sketches, *plan.held_out)])


def prepared(plan: Plan, found: recordings.Recordings, began: float, say: Callable[[str], None]) -> recordings.Prepared:
    """Return what the workers of a search train on: no frame of it is a test frame."""
    data = recordings.prepare(found, plan.config.sessions, plan.agreement, say=say)
    check_decodable(plan, data.varying)
    check_conditions(plan.config, plan.agreement.behavior_names, data.still)
    say(f"{len(plan.sketches)} recordings read in {time.monotonic() - began:.1f} s, {data.n_bytes / 2**20:.4g} MiB of "
        "them in the object store")
    return dataclasses.replace(data, held=held_out.prepare(plan, found))


def read_again(plan: Plan, given: list, options: Options) -> recordings.Prepared:
    """Read and prepare the recordings once more: a node left and took them along."""
    found = _in_order(recordings.read(given, plan.config.sessions, counter("reading again", options.quiet)), plan)
    data = recordings.prepare(found, plan.config.sessions, plan.agreement, say=lambda line: None)
    return dataclasses.replace(data, held=held_out.prepare(plan, found))


def mirror_of(folder: RunFolder, options: Options, say: Callable[[str], None]) -> Callable[..., Any]:
    """Return what copies the run to --storage."""
    if not options.storage:
        return lambda force=False: None
    from raycal.search.storage import Mirror

    return Mirror(folder.path, options.storage, say).upload


def _here(item: Any, traces: str, say: Callable[[str], None]) -> list:
    if isinstance(item, Session):
        return [item]
    return [place for found in local_places(item) for place in fetched(found, traces, say)]
