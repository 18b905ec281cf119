"""What the nodes of a cluster hold, those that are there and those that may come; the slots that fit on them."""
from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raycal.config import Config
from raycal.errors import UserError

BOOTSTRAP = pathlib.Path("~/ray_bootstrap_config.yaml")  # what `ray up` leaves on the head for its autoscaler
HEAD = "node:__internal_head__"  # a resource that the head alone has
LISTED = 6  # nodes of a sentence

Shape = tuple[Mapping[str, float], int]  # the resources of a node, and how many of them


@dataclass(frozen=True)
class Slots:
    """How many slots fit, and what each takes."""

    count: int
    workers: int
    resources: dict[str, float]  # a worker
    use_gpu: bool

    def within(self, worker: int, slot: int) -> tuple[Slots, int]:
        """Return as many of these slots as Ray's memory holds, at least one, and how many it would hold.

        worker: bytes that each worker takes at most; slot: bytes that a slot takes besides, on the head. What share of
        the workers the memory of the nodes holds is taken from those that are there.
        """
        shapes = present()
        if len(shapes) == 1:
            fitting = int(total("memory", shapes) // (self.workers * worker + slot))
        else:
            fitting = int(next(r["memory"] for r, _ in shapes if HEAD in r) // slot)
            fit, held = (workers_on(w, shapes) for w in (self.resources, {**self.resources, "memory": worker}))
            if held < fit:
                fitting = min(fitting, int(self.count * held / fit))
        return dataclasses.replace(self, count=max(1, min(self.count, fitting))), fitting


def slots(config: Config, trials: int, max_concurrent: int = 0, local: bool = True) -> Slots:
    """Return the slots that the connected Ray holds, or may come to hold; raise UserError when none fits.

    A cluster that nothing is known to grow is believed a max_concurrent: its nodes are waited for.
    """
    training = config.training
    have, coming = present(), [] if local else possible()
    awaited = max_concurrent if not local else 0
    gpus = max(total("GPU", have), total("GPU", coming))
    per_worker = training.gpus or (1.0 if gpus and training.device != "cpu" else 0.0)
    if config.gpu_wanted() and not gpus and not awaited:
        raise UserError(f"--gpus-per-trial {training.gpus or 1:g} (device {training.device}): this "
                        f"{'machine' if local else 'cluster'} has no GPU that Ray sees; "
                        "check nvidia-smi, or run with --device cpu --gpus-per-trial 0")
    if per_worker * training.workers > gpus and not awaited:
        raise UserError(f"--gpus-per-trial: {training.workers} workers x {per_worker:g} GPUs a trial, but "
                        f"{gpus:g} are there; ask for fewer")
    per_worker = per_worker or (1.0 if config.gpu_wanted() else 0.0)
    resources = {"CPU": 1.0, **({"GPU": per_worker} if per_worker else {})}
    if local and not per_worker:
        fit = max(1, (os.cpu_count() or 1) // training.workers)  # more workers than cores: slower, but it runs
    else:
        fit = max(workers_on(resources, have), to_come(resources, coming)) // training.workers or awaited
    if fit < 1:
        raise UserError(f"--workers-per-trial {training.workers}: {lacking(resources, training.workers)}; ask for "
                        "fewer workers, or for less a worker")
    count = max(1, min(fit, trials, max_concurrent or fit))
    return Slots(count, training.workers, resources, bool(per_worker))


def present() -> list[Shape]:
    """Return the nodes that are alive."""
    return [(node["Resources"], 1) for node in _alive()]


def possible(file: pathlib.Path = BOOTSTRAP) -> list[Shape]:
    """Return the nodes besides the head that the autoscaler is allowed, [] where none is known.

    They stand in the cluster's own record where the autoscaler fills it in (that of Ray 2.60's `ray up` does not), else
    in the file that `ray up` wrote; of more kinds than max_workers allows, the largest count.
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is not None and config.node_group_configs:
        return [(dict(group.resources), group.max_count if group.max_count >= 0 else sys.maxsize)
                for group in config.node_group_configs]
    return _of_file(file)


def _of_file(file: pathlib.Path) -> list[Shape]:
    import yaml

    try:
        config = yaml.safe_load(file.expanduser().read_text())
    except OSError:
        return []
    left = config.get("max_workers", 0)
    kinds = [(kind.get("resources") or {}, kind.get("max_workers", left)) for name, kind
             in (config.get("available_node_types") or {}).items() if name != config.get("head_node_type")]
    shapes = []
    for resources, most in sorted(kinds, key=lambda k: (k[0].get("GPU", 0), k[0].get("CPU", 0)), reverse=True):
        count = min(most, left)
        left -= count
        if count and any(resources.values()):
            shapes.append((resources, count))
    return shapes


def workers_on(worker: Mapping[str, float], shapes: Iterable[Shape]) -> int:
    """Return how many workers of these resources the nodes hold; none spans two nodes."""
    return sum(count * min(int(resources.get(name, 0.0) / wanted + 1e-9) for name, wanted in worker.items())
               for resources, count in shapes)


def to_come(worker: Mapping[str, float], shapes: Sequence[Shape]) -> int:
    """Return how many workers the nodes that may come hold, within what the autoscaler allows of each resource."""
    from ray._private.state import state

    allowed = state.get_max_resources_from_cluster_config() or {}
    bounds = (int(allowed[name] / worker[name]) for name in allowed if worker.get(name))
    return min([workers_on(worker, shapes), *bounds])


def total(name: str, shapes: Iterable[Shape]) -> float:
    """Return how much of a resource the nodes have together."""
    return sum(count * resources.get(name, 0.0) for resources, count in shapes)


def lacking(worker: Mapping[str, float], workers: int) -> str:
    """Return why no slot of so many workers can start now, "" where one can."""
    wanted = f"{f'{workers} x ' if workers > 1 else ''}{_words(worker)}"
    if workers_on(worker, [(free, 1) for free in _free()]) >= workers:
        return ""
    held = workers_on(worker, present())
    if held >= workers:
        return f"a slot takes {wanted}, and the nodes that have it are taken by others (ray status)"
    coming = to_come(worker, possible())
    if coming >= workers:
        return (f"a slot takes {wanted}, and no node is up that has it; asked of the autoscaler, which may bring "
                f"{coming // workers} (ray status){_failed()}")
    listed = [f"{node['NodeManagerAddress']} has {_words(node['Resources'], worker)}" for node in _alive()]
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    short = f"the nodes hold {held} of its workers" if held else "no node has it"
    return f"a slot takes {wanted}, and {short}: {', '.join(listed[:LISTED])}{more}"


def _alive() -> list[Mapping]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _free() -> list[Mapping[str, float]]:
    from ray._private.state import available_resources_per_node

    return list(available_resources_per_node().values())


def _failed() -> str:
    """Return what the autoscaler last failed to start; it reports that only where it is Ray's second one."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    with contextlib.suppress(Exception):  # what only explains must not end a search
        failed = get_cluster_status(ray.get_runtime_context().gcs_address).failed_launches
        if failed:
            return f"; it failed to start {failed[0].ray_node_type_name}: {failed[0].details}"
    return ""


def _words(resources: Mapping[str, float], names: Iterable[str] | None = None) -> str:
    return " + ".join(f"{resources.get(name, 0):g} {name}" for name in names or resources)
