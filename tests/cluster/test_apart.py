"""Three raylets without a folder in common, one killed in mid-training: what it trained goes on from its checkpoint."""
from __future__ import annotations

import json
import os
import pathlib

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]


def epochs(program):
    return [json.loads(line) for _, line in list(program.said) if line.startswith('{"epoch"')]


def test_a_training_whose_node_left_goes_on_from_its_checkpoint_on_another(raylets, program, tmp_path):
    if os.geteuid():
        pytest.skip("mounting takes root: nodes with folders of their own were not tested")
    runs = tmp_path / "runs"
    runs.mkdir()
    nodes = [raylets.join_apart(runs) for _ in range(2)]
    one = program(str(pathlib.Path(__file__).with_name("torn.py")), raylets.address, str(runs))
    one.hears('"epoch": 6', 400)
    killed = epochs(one)[-1]["node"]
    nodes[killed].stop()
    assert one.ends(400) == 0, one
    heard = epochs(one)
    assert [e["epoch"] for e in heard] == list(range(1, 17)), "each epoch once"
    assert heard[0] == {"epoch": 1, "from": 0, "node": killed}
    assert heard[-1]["node"] == 1 - killed and heard[-1]["from"] >= 5, "not from the beginning"
    assert json.loads(one.said[-1][1]) == {"ended": "epoch", "files": ["checkpoint.pt", "model.pt"]}
    print(one)
