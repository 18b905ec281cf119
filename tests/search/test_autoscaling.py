"""A cluster that grows: what it may come to counts, and a search waits for the first nodes."""
from __future__ import annotations

import pathlib

import pytest
import yaml

import raycal
from raycal import Config, UserError
from raycal.search import autoscaling, connection

ROOT = pathlib.Path(raycal.__file__).parents[1]


def test_what_the_file_allows_is_promised_within_the_nodes_it_allows():
    """Eight nodes: the two of eight GPUs, then six of one; the head has no trials."""
    assert autoscaling.promised(ROOT / "cluster" / "gpu.yaml") == {"GPU": 2 * 8 + 6 * 1, "CPU": 2 * 192 + 6 * 8}


def test_machines_of_ones_own_promise_no_more_than_is_there(tmp_path):
    from ray.autoscaler._private.util import prepare_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster" / "onprem.yaml").read_text()))
    (tmp_path / "onprem.yaml").write_text(yaml.safe_dump(config))
    assert not any(autoscaling.promised(tmp_path / "onprem.yaml").values())
    assert autoscaling.promised(tmp_path / "none.yaml") == {}


def test_a_cluster_without_nodes_yet_has_the_slots_that_it_may_come_to(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"memory": 8e9})  # a head with CPU: 0
    monkeypatch.setattr(autoscaling, "promised", lambda: {"GPU": 22.0, "CPU": 432.0})
    found = connection.slots(Config(), trials=50, local=False)
    assert (found.count, found.resources) == (22, {"CPU": 1.0, "GPU": 1.0})
    assert connection.slots(Config(), trials=50, max_concurrent=4, local=False).count == 4


@pytest.mark.slow
def test_a_search_waits_for_its_first_nodes_and_gives_up_in_the_end(ray_session, capsys):
    from ray.util.placement_group import placement_group_table

    before = {i for i, facts in placement_group_table().items() if facts["state"] != "REMOVED"}
    autoscaling.await_slot(connection.Slots(1, 1, {"CPU": 1.0}, False), patience=0.5)
    assert capsys.readouterr().err == "", "what is there is not waited for"
    with pytest.raises(UserError, match=r"no node with 2 x 1 CPU \+ 1 nosuch came within .* ray status"):
        autoscaling.await_slot(connection.Slots(1, 2, {"CPU": 1.0, "nosuch": 1.0}, False), patience=0.5)
    assert "waiting for nodes with 2 x 1 CPU" in capsys.readouterr().err
    assert {i for i, facts in placement_group_table().items() if facts["state"] != "REMOVED"} == before
