"""Trials whose workers no one node holds: all start together or none, and a node's end is not theirs."""
from __future__ import annotations

import re

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def places(address: str) -> list[set[str]]:
    """Return the nodes of every placement group of several workers that holds its place, as Ray has it."""
    import ray
    from ray.util.placement_group import placement_group_table

    ray.init(address=address, namespace="looks on", log_to_driver=False)
    try:
        return [set(group["bundles_to_node_id"].values()) for group in placement_group_table().values()
                if group["state"] == "CREATED" and len(group["bundles"]) > 1]
    finally:
        ray.shutdown()


def test_a_trial_of_two_workers_waits_for_both_nodes_and_outlives_one(raylets, search, space_file):
    raylets.join(num_cpus=1)
    one = search("--space", space_file, "--trials", "2", "--no-confirm", "--workers-per-trial", "2",
                 "--set", "training.epochs=40", "--set", "training.save_every=0", "--pruner", "none",
                 "--max-concurrent", "1", "--out", "run")
    one.hears("waiting: a slot takes 2 x 1 CPU, and the nodes hold 1 of its workers", 120)
    assert places(raylets.address) == [], "one of the two has no place of its own"
    lost = raylets.join(num_cpus=1)
    one.hears("1 slots stand; the search goes on", 300)
    [nodes] = places(raylets.address)
    assert len(nodes) == 2, "a node for each worker"
    raylets.leave(lost)
    raylets.join(num_cpus=1)
    assert one.ends(600) == 0, one
    assert re.search("2 trials complete, 0 stopped early, 0 failed", str(one)), one
    print(one)
