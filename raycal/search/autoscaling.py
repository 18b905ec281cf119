"""Nodes that a cluster brings when they are wanted: right after `ray up` there is none a trial could run on."""
from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

from raycal.errors import UserError

if TYPE_CHECKING:
    from raycal.search.connection import Slots

BOOTSTRAP = pathlib.Path("~/ray_bootstrap_config.yaml")  # what `ray up` leaves on the head for its autoscaler
PATIENCE = 1800.0  # s: a machine boots in minutes, and installs torch
MOMENT = 2.0  # s in which a node that is there answers


def resources() -> dict[str, float]:
    """Return what the connected cluster has, or comes to with all its nodes where that is more."""
    import ray

    have, promise = ray.cluster_resources(), promised()
    return {name: max(have.get(name, 0.0), promise.get(name, 0.0)) for name in {*have, *promise}}


def promised(file: pathlib.Path = BOOTSTRAP) -> dict[str, float]:
    """Return CPUs and GPUs of all workers that the file of `ray up` allows, the largest first; {} without a file."""
    import yaml

    try:
        config = yaml.safe_load(file.expanduser().read_text())
    except OSError:
        return {}
    left, total = config.get("max_workers", 0), {}
    types = [(t.get("resources") or {}, t.get("max_workers", left)) for name, t
             in (config.get("available_node_types") or {}).items() if name != config.get("head_node_type")]
    for node, most in sorted(types, key=lambda t: (t[0].get("GPU", 0), t[0].get("CPU", 0)), reverse=True):
        count = min(most, left)
        left -= count
        for name in ("CPU", "GPU"):
            total[name] = total.get(name, 0.0) + count * node.get(name, 0)
    return total


def await_slot(slots: Slots, patience: float = PATIENCE) -> None:
    """Wait until the cluster has nodes for one slot; raise UserError when none comes.

    What waits is a placement group, which goes with the driver: a standing request to the autoscaler would keep the
    nodes, and their cost, when the driver dies.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    have = ray.cluster_resources()
    if all(have.get(name, 0.0) >= slots.workers * wanted for name, wanted in slots.resources.items()):
        return
    group = placement_group([slots.resources] * slots.workers)
    try:
        if group.wait(min(MOMENT, patience)):
            return
        wanted = f"{slots.workers} x " + " + ".join(f"{n:g} {name}" for name, n in slots.resources.items())
        print(f"waiting for nodes with {wanted}; ray status says what is coming", file=sys.stderr, flush=True)
        if not group.wait(patience):
            raise UserError(f"--address: no node with {wanted} came within {patience / 60:g} minutes; ray status says "
                            "why; quotas are the usual reason")
    finally:
        remove_placement_group(group)
