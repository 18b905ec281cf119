"""States of a trial reach its folder from whichever node; nodes are folders here, and the pool a call."""
from __future__ import annotations

import errno
import os

import pytest
import torch

from raycal.search import desk, saver
from raycal.search.slot import Job
from raycal.training import checkpoint

STATE = {"format": checkpoint.FORMAT, "done": False, "epoch": 3, "model": {"w": torch.arange(3.0)}}


class Link:
    """The line of a worker on node "b" to the pool on node "a", which has the folders below `home`."""

    def __init__(self, home):
        self.home, self.asked = home, 0
        self.job = Job(7, {"folder": str(home / "run" / "trials" / "0007")}, 1)
        os.makedirs(self.job.payload["folder"])

    def at(self, node):
        return node == "b"

    def seen(self, path):
        self.asked += 1
        return str(path).startswith(str(self.home)) and os.path.exists(path)

    def fetch(self, name):
        return desk.read(self.job, name)

    def store(self, name, data):
        return desk.write(self.job, name, data)


@pytest.fixture
def link(tmp_path):
    return Link(tmp_path / "a")


def job(folder, home="a"):
    return {"folder": str(folder), "home": home, "config": {"training.save_every": 0.0}}


def test_a_worker_on_the_drivers_node_writes_even_where_the_folder_has_vanished(link, tmp_path):
    place = saver.place(job(tmp_path / "gone" / "trials" / "0001", home="b"), link, {})
    assert isinstance(place, saver.Near) and link.asked == 0
    with pytest.raises(FileNotFoundError):
        place.write("checkpoint.pt", STATE)


def test_a_shared_folder_is_written_directly_and_asked_for_once_a_run(link):
    shared = {}
    for _ in range(3):
        assert isinstance(saver.place(job(link.job.payload["folder"]), link, shared), saver.Near)
    assert link.asked == 1 and not os.listdir(link.job.payload["folder"])


def test_a_folder_of_the_same_name_on_another_node_is_not_the_runs(link, tmp_path):
    mine = tmp_path / "b" / "run" / "trials" / "0007"
    mine.mkdir(parents=True)
    assert isinstance(saver.place(job(mine), link, {}), saver.Far)
    assert link.asked == 1 and not os.listdir(mine)


def test_a_state_sent_by_one_node_is_what_another_resumes_from(link, tmp_path):
    place = saver.place(job(tmp_path / "nowhere" / "trials" / "0007"), link, {})
    assert isinstance(place, saver.Far) and place.read("checkpoint.pt") is None
    saver.Saver(job("x"), place, link, None).save(STATE)
    folder = link.job.payload["folder"]
    assert os.listdir(folder) == ["checkpoint.pt"]
    for reader in (saver.Near(folder), saver.Far(link)):
        state = reader.read("checkpoint.pt")
        assert state["epoch"] == 3 and torch.equal(state["model"]["w"], STATE["model"]["w"])


def test_what_the_disk_of_the_run_says_is_what_the_worker_hears(link):
    os.rmdir(link.job.payload["folder"])
    os.rmdir(os.path.dirname(link.job.payload["folder"]))
    with pytest.raises(OSError) as refusal:
        saver.Far(link).write("model.pt", STATE)
    assert (refusal.value.errno, refusal.value.strerror) == (errno.ENOENT, "No such file or directory")


def test_a_job_that_is_over_gets_no_more_files_and_none_but_its_own(link):
    link.job.ended = True
    saver.Far(link).write("checkpoint.pt", STATE)
    assert not os.listdir(link.job.payload["folder"]) and saver.Far(link).read("checkpoint.pt") is None
    link.job.ended = False
    for name in ("../../study.journal", "config.yaml", "/etc/passwd"):
        with pytest.raises(ValueError, match="is none of checkpoint.pt, model.pt"):
            link.store(name, b"")
