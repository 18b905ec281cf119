"""A search on a cluster that has nothing for it yet: it says why, and goes on when nodes join."""
from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_search_says_why_nothing_fits_and_runs_where_a_gpu_joins(raylets, search, tmp_path, space_file):
    raylets.join(num_cpus=2)
    one = search("--space", space_file, "--trials", "3", "--no-confirm", "--gpus-per-trial", "1",
                 "--max-concurrent", "2", "--out", "run")
    said = one.hears(r"waiting: a slot takes 1 CPU \+ 1 GPU, and no node has it: .* has 0 CPU \+ 0 GPU", 120)
    assert [second for second, line in one.said if "waiting" in line][0] < 30, one
    assert "has 2 CPU + 0 GPU" in said.string
    raylets.join(num_cpus=1, num_gpus=1)
    one.hears("1 slots stand; the search goes on", 300)
    assert one.ends(400) == 0, one
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["trials"]["complete"] >= 1
    print(one)


def test_what_a_cluster_that_does_not_grow_lacks_is_refused_at_once(raylets, search, space_file):
    raylets.join(num_cpus=2)
    one = search("--space", space_file, "--trials", "3", "--gpus-per-trial", "1")
    assert one.ends(300) == 2, one
    assert "this cluster has no GPU that Ray sees" in str(one)
