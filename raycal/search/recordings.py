"""The recordings of a search: read by Ray tasks where the files are, prepared there, kept in the object store.

The driver holds sketches and references, never an array of traces, so its memory does not grow with the
number of recordings. Reading in a process of its own also means that a file which crashes its library ends
in a message.
"""
from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycal import config
from raycal.errors import UserError
from raycal.sessions.readers import distinct_ids, local_places, places
from raycal.sessions.readers.limits import reading_time
from raycal.sessions.session import Session


@dataclass(frozen=True)
class Recordings:
    """What was read: a sketch of each recording and the reference to the whole, in the order given."""

    sketches: tuple[Any, ...]  # raycal.sessions.agreement.Sketch
    sessions: tuple[Any, ...]  # object references

    def ordered(self, ids: Sequence[str]) -> Recordings:
        """Return the recordings of these ids, in this order."""
        at = {sketch.id: i for i, sketch in enumerate(self.sketches)}
        return Recordings(*(tuple(some[at[id]] for id in ids) for some in (self.sketches, self.sessions)))

    def last(self, n: int) -> Recordings:
        return Recordings(self.sketches[-n:], self.sessions[-n:])


@dataclass(frozen=True)
class Prepared:
    """What workers train on, in the object store."""

    refs: list  # as raycal.sessions.store.get takes them
    varying: tuple[tuple[str, ...], ...]  # for each recording, the behaviours that some validation frame shows changing
    still: Mapping[str, tuple[str, ...]]  # recording -> the behaviours that no train frame shows changing
    n_bytes: int
    held: Prepared | None = None  # recordings that no training gets: train and validation blocks of held-out animals


def read(items: Sequence[Any], settings: config.Sessions, counted: Callable[[Iterable, int], Iterable]) -> Recordings:
    """Read places and Session objects into the object store, several at a time.

    counted(iterable, total) passes the recordings' places on and shows how far it is. Raise UserError naming the
    place that cannot be read, or is given twice.
    """
    import ray

    given = [item for item in items if isinstance(item, Session)]
    located = [found for item in items if not isinstance(item, Session) for found in _locate(item)]
    pairs = [(_sketch(session, settings), ray.put(session)) for session in given]
    starts = (_starter(place, node, settings) for place, node in located)
    for place, stream in counted(_ahead(zip([p for p, _ in located], starts), _at_once()), len(located)):
        pairs += _take(place, stream)
    return Recordings(*_distinct(pairs)) if pairs else Recordings((), ())


def prepare(recordings: Recordings, settings: config.Sessions, agreement: Any,
            parts: Sequence[str] = ("train", "validation"), say: Callable[[str], None] = print) -> Prepared:
    """Prepare every recording in a task of its own; what is left out is said in the order of the recordings."""
    import ray

    from raycal.sessions.prepare import assemble

    task = ray.remote(num_cpus=0, num_returns=2, max_retries=2)(_record)
    starts = (lambda i=i: task.remote(recordings.sessions[i], recordings.sketches[i].id, settings, agreement, i,
                                      tuple(parts)) for i in range(len(agreement.splits)))
    refs, varying, still, n_bytes = [], [], {}, 0
    for i, (ref, facts) in _ahead(enumerate(starts), _at_once()):
        lines, changes, changeless, size = _answer(recordings.sketches[i].source, facts)
        for line in lines:
            say(line)
        refs.append(ref)
        varying.append(changes)
        still[recordings.sketches[i].id] = changeless
        n_bytes += size
    return Prepared([ray.put(assemble(agreement, ())), *refs], tuple(varying), still, n_bytes)


def beside(function: Callable[..., Any], prepared: Prepared, *arguments: Any) -> Any:
    """Start function(dataset, *arguments) in a task where the recordings are; return the reference to its value."""
    import ray

    return ray.remote(num_cpus=0)(_with_dataset).remote(function, prepared.refs, arguments)


def _with_dataset(function: Callable[..., Any], refs: list, arguments: tuple) -> Any:
    from raycal.sessions import store

    return function(store.get(refs, {}), *arguments)


def _sketch(session: Session, settings: config.Sessions) -> Any:
    from raycal.sessions.agreement import sketch

    return sketch(session, settings)


def _read(place: places.Place, settings: config.Sessions) -> Iterator[Any]:
    """Run as a task: yield a sketch and the session itself, recording by recording."""
    from raycal.sessions.readers import read_place

    for session in read_place(place, settings.traces):
        yield _sketch(session, settings)
        yield session


def _record(session: Session, id: str, settings: config.Sessions, agreement: Any, index: int,
            parts: tuple[str, ...]) -> tuple[Any, Any]:
    """Run as a task: return a Recording and what the driver is to know of it."""
    import dataclasses

    from raycal.sessions.prepare import assemble, record

    lines: list[str] = []
    session = session if session.id == id else dataclasses.replace(session, id=id)
    recording = record(session, settings, agreement, index, parts, lines.append)
    return recording, (lines, recording.varying, recording.still, assemble(agreement, [recording]).n_bytes)


def _starter(place: places.Place, node: str | None, settings: config.Sessions) -> Callable[[], Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node, soft=False) if node else "SPREAD"
    task = ray.remote(num_cpus=0, num_returns="streaming", max_retries=0, scheduling_strategy=strategy)(_read)
    return lambda: task.remote(place, settings)


def _at_once() -> int:
    """Return how many recordings are read at a time: tasks take no CPU of Ray's, a head node may have none."""
    import ray

    return max(1, min(os.cpu_count() or 1, 8) if len(ray.nodes()) == 1 else int(ray.cluster_resources().get("CPU", 2)))


def _ahead(starts: Iterable[tuple[Any, Callable[[], Any]]], limit: int) -> Iterator[tuple[Any, Any]]:
    """Start tasks in order, at most limit before the first of them is taken; yield (key, what start returned)."""
    running: collections.deque = collections.deque()
    for key, start in starts:
        if len(running) >= limit:
            yield running.popleft()
        running.append((key, start()))
    yield from running


def _take(place: places.Place, stream: Any) -> list[tuple[Any, Any]]:
    """Return (sketch, reference to the session) of each recording of a place; a task that hangs is ended."""
    import ray

    limit = reading_time(place) if isinstance(place, pathlib.Path) and place.is_file() else None
    refs = []
    while True:
        ready, _ = ray.wait([stream], timeout=limit)
        if not ready:
            ray.cancel(stream, force=True)
            raise UserError(f"{place}: not read after {limit:.0f} s: the library that reads it hangs, so the file is "
                            "damaged; fetch it again or leave it out")
        try:
            refs.append(next(stream))
        except StopIteration:
            break
    if len(refs) % 2:  # a task that failed ends its stream with the error
        _answer(place, refs[-1])
    return [(_answer(place, sketch), session) for sketch, session in zip(refs[::2], refs[1::2])]


def _answer(place: Any, ref: Any) -> Any:
    """Return a task's value; raise what went wrong there as the user is to read it."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as e:
        if isinstance(e.cause, UserError):
            raise UserError(str(e.cause)) from None
        raise
    except ray.exceptions.OutOfMemoryError:
        raise UserError(f"{place}: reading it takes more memory than its node has; use a larger node, or cut the "
                        "recording into parts") from None
    except ray.exceptions.WorkerCrashedError:
        raise UserError(f"{place}: the library that reads it crashed, so the file is damaged; fetch it again or leave "
                        "it out") from None


def _distinct(pairs: list[tuple[Any, Any]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    import dataclasses

    sketches, refs = zip(*pairs)
    names = distinct_ids([(s.id, s.id_from_name, s.source, s.fingerprint) for s in sketches])
    return tuple(dataclasses.replace(s, id=name) for s, name in zip(sketches, names)), refs


def _locate(item: str | os.PathLike) -> list[tuple[places.Place, str | None]]:
    """Return the places of an argument and the node each lies on; None: any node can fetch it.

    Paths are looked for on this node first, then on the other nodes of the cluster.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    try:
        found = local_places(item)
    except UserError as e:
        others = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeID"] != here]
        return _locate_on(item, others, e)
    return [(place, here if isinstance(place, pathlib.Path) else None) for place in found]


def _locate_on(item: str | os.PathLike, nodes: Sequence[str], error: UserError) -> list[tuple[places.Place, str]]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(local_places)
    for node in nodes:
        try:
            pinned = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            return [(place, node) for place in _answer(item, pinned.remote(item))]
        except (UserError, ray.exceptions.RayError):  # not there, or the node left meanwhile
            continue
    raise UserError(f"{error} (looked for on {len(nodes) + 1} nodes)" if nodes else str(error))
