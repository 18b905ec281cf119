"""What nodes hold, by arithmetic; what an autoscaler may bring, from where it says so."""
from __future__ import annotations

import pathlib
import sys

import pytest
import yaml

import raycal
from raycal import Config, UserError
from raycal.search import nodes

ROOT = pathlib.Path(raycal.__file__).parents[1]
GPU = {"CPU": 1.0, "GPU": 1.0}


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of given nodes whose autoscaler may bring others; none of it is real."""
    def make(*there, coming=(), allowed=None, free=None):
        from ray._private.state import state

        monkeypatch.setattr(nodes, "_alive", lambda: [
            {"NodeManagerAddress": f"10.0.0.{k}", "Resources": resources} for k, resources in enumerate(there)])
        monkeypatch.setattr(nodes, "possible", lambda: list(coming))
        monkeypatch.setattr(nodes, "_free", lambda: list(there if free is None else free))
        monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: allowed)

    return make


def test_a_worker_spans_no_nodes_and_the_scarcest_resource_counts():
    assert nodes.workers_on(GPU, [({"CPU": 4, "GPU": 8}, 1)]) == 4
    assert nodes.workers_on(GPU, [({"CPU": 192, "GPU": 8}, 2), ({"CPU": 8, "GPU": 1}, 6), ({"CPU": 64}, 3)]) == 22
    assert nodes.workers_on({"CPU": 2.0}, [({"CPU": 3}, 2)]) == 2
    assert nodes.workers_on({"CPU": 1.0, "GPU": 0.3}, [({"CPU": 9, "GPU": 1}, 1)]) == 3
    assert nodes.workers_on({"CPU": 1.0, "GPU": 0.1}, [({"CPU": 99, "GPU": 1}, 1)]) == 10, "not 9 by rounding"


def test_the_file_of_ray_up_allows_its_largest_nodes_first():
    """Eight nodes: the two of eight GPUs, then six of one; the head has no trials."""
    shapes = nodes._of_file(ROOT / "cluster" / "gpu.yaml")
    assert [(shape["GPU"], count) for shape, count in shapes] == [(8, 1), (8, 1), (1, 6)]
    assert nodes.workers_on(GPU, shapes) == 22


def test_machines_of_ones_own_promise_no_more_than_is_there(tmp_path):
    from ray.autoscaler._private.util import prepare_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster" / "onprem.yaml").read_text()))
    (tmp_path / "onprem.yaml").write_text(yaml.safe_dump(config))
    assert nodes._of_file(tmp_path / "onprem.yaml") == [] == nodes._of_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("settings, there, coming, concurrent, count", [
    ({}, [{"memory": 8e9}], [(GPU, 22)], 0, 22),  # right after ray up: a head without trials
    ({}, [{"memory": 8e9}], [(GPU, 22)], 4, 4),
    ({}, [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 16.0}], [], 0, 1),  # GPU nodes only
    ({"training.device": "cpu"}, [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 16.0}], [], 0, 18),
    ({"training.workers": 2}, [{"CPU": 8.0, "GPU": 1.0}] * 5, [], 0, 2),  # a slot may span nodes
    ({"training.gpus": 0.25}, [{"CPU": 8.0, "GPU": 1.0}] * 2, [], 0, 8),
    ({"training.gpus": 1.0}, [{"CPU": 8.0}], [], 3, 3),  # an autoscaler of which nothing is known: believed
    ({}, [{"CPU": 1.0}], [({"CPU": 4.0}, sys.maxsize)], 0, 50)])
def test_a_cluster_has_the_slots_that_it_may_come_to(cluster, settings, there, coming, concurrent, count):
    cluster(*there, coming=coming)
    found = nodes.slots(Config().replace(settings), 50, concurrent, local=False)
    assert found.count == count
    assert ("GPU" in found.resources) == (settings.get("training.device") != "cpu" and any(
        "GPU" in r for r in [*there, *(s for s, _ in coming)]) or "training.gpus" in settings)


def test_what_the_autoscaler_allows_of_a_resource_is_kept(cluster):
    cluster({"memory": 8e9}, coming=[(GPU, 22)], allowed={"GPU": 6, "CPU": 400, "TPU": 0})
    assert nodes.slots(Config(), 50, local=False).count == 6


@pytest.mark.parametrize("settings, there, words", [
    ({"training.gpus": 1.0}, [{"CPU": 8.0}], "--gpus-per-trial 1 .* this cluster has no GPU"),
    ({"training.gpus": 2.0}, [{"CPU": 8.0, "GPU": 1.0}] * 2, r"takes 1 CPU \+ 2 GPU, and no node has it: 10.0.0.0 has "
     r"8 CPU \+ 1 GPU, 10.0.0.1 has 8 CPU \+ 1 GPU"),
    ({"training.workers": 9, "training.device": "cpu"}, [{"CPU": 4.0}], "takes 9 x 1 CPU, and the nodes "
     "hold 4 of its workers: 10.0.0.0 has 4 CPU; ask for fewer workers")])
def test_what_no_node_can_hold_is_refused_with_what_the_nodes_have(cluster, settings, there, words):
    cluster(*there)
    with pytest.raises(UserError, match=words):
        nodes.slots(Config().replace(settings), 4, local=False)


def test_why_no_slot_starts(cluster):
    cluster({"CPU": 8.0, "GPU": 1.0})
    assert nodes.lacking(GPU, 1) == ""
    cluster({"CPU": 8.0, "GPU": 1.0}, free=[{"CPU": 8.0}])
    assert "taken by others" in nodes.lacking(GPU, 1)
    cluster({"CPU": 8.0}, coming=[(GPU, 5)])
    assert "no node is up that has it; asked of the autoscaler, which may bring 2" in nodes.lacking(GPU, 2)
    cluster(*[{"CPU": 8.0}] * 9)
    assert nodes.lacking(GPU, 1).endswith("10.0.0.5 has 8 CPU + 0 GPU and 3 more")


def test_a_record_of_the_cluster_goes_before_the_file(monkeypatch):
    from ray._private.state import state
    from ray.core.generated.autoscaler_pb2 import ClusterConfig

    record = ClusterConfig()
    for count, gpus in ((3, 1), (-1, 8)):
        record.node_group_configs.add(max_count=count).resources.update({"CPU": 8, "GPU": gpus})
    monkeypatch.setattr(state, "get_cluster_config", lambda: record)
    assert nodes.possible() == [({"CPU": 8, "GPU": 1}, 3), ({"CPU": 8, "GPU": 8}, sys.maxsize)]


def test_memory_is_of_the_nodes_for_workers_and_of_the_head_for_what_a_slot_takes_there(cluster):
    head, large, small = {nodes.HEAD: 1.0, "memory": 100.0}, {**GPU, "memory": 50.0}, {**GPU, "memory": 10.0}
    wanted = nodes.Slots(20, 1, GPU, True)
    cluster(head, large, large)
    found, fitting = wanted.within(20, 8)
    assert (found.count, fitting) == (12, 12), "100 / 8 on the head"
    cluster(head, large, small)
    assert wanted.within(20, 1)[0].count == 10, "one node of two holds a worker"
    cluster({"CPU": 4.0, nodes.HEAD: 1.0, "memory": 100.0})
    assert wanted.within(20, 5)[0].count == 4, "one machine holds both"
