"""Jobs outside Tune in a real pool of slots: its workers and the pool itself are killed, and it is asked to stop."""
from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from raycal.config import Config
from raycal.errors import UserError
from raycal.search import jobs
from raycal.sessions.simulate import simulate

EPOCHS = 12


def slow(config, dataset, *, train=None, **options):
    """Train as always, but a third of a second an epoch, so that there is time to kill."""
    for epoch in train(config, dataset, **options):
        time.sleep(0.3)
        yield epoch


@pytest.fixture
def cluster(ray_session, tmp_path):
    from ray import cloudpickle

    from raycal.search.connection import Cluster, Slots
    from raycal.sessions import store
    from raycal.sessions.prepare import prepare

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    session = simulate(n_neurons=6, n_frames=1500, rate=5.0, seed=1).session
    found = Cluster(Slots(1, 1, {"CPU": 1.0}, False), str(tmp_path / "train"), 60.0)
    found.grow(1)
    found.hand_over(store.put(prepare([session], Config().sessions, 16)))
    yield found
    found.close(gently=True)


@pytest.fixture
def job(tmp_path):
    """Make (key, payload) of a training in a folder of its own."""
    import functools

    from raycal.training import loop

    def make(key, seed=0):
        folder = tmp_path / str(key)
        folder.mkdir()
        config = Config().replace({
            "quantizer.codebook_size": 16, "model.width": 16, "model.residual_blocks": 0, "windows.length": 16,
            "windows.min_steps": 2, "windows.stride": 32, "training.epochs": EPOCHS, "training.seed": seed,
            "training.save_every": 0.0})
        return key, {"config": config.flat(), "folder": str(folder), "trainer": functools.partial(slow, train=loop.train)}

    return make


def curve(cluster, made, at=0, act=lambda: None):
    """Return {epoch: objective} of a job, and its last event; act() at an epoch."""
    heard = {}

    def hear(key, event):
        if event["epoch"] not in heard:
            heard[event["epoch"]] = event["objective"]
            if event["epoch"] == at:
                act()

    (key, event), = jobs.complete(cluster, [made], heard=hear)
    assert key == made[0]
    return heard, event


def test_a_job_goes_on_with_the_same_curve_after_its_worker_and_after_its_pool_was_killed(cluster, job):
    import ray

    whole, event = curve(cluster, job("whole"))
    assert list(whole) == list(range(1, EPOCHS + 1)) and event["ended_by"] == "epochs"
    pid, = ray.get(cluster.pool.state.remote())["pids"]
    assert curve(cluster, job("worker"), 4, lambda: os.kill(pid, signal.SIGKILL))[0] == whole
    assert curve(cluster, job("pool"), 4, lambda: ray.kill(cluster.pool, no_restart=False))[0] == whole


def test_what_runs_is_saved_and_what_waits_is_left_when_it_is_to_stop(cluster, job, tmp_path):
    from raycal.training import checkpoint

    reached, said = [], []
    ended = jobs.complete(cluster, [job("first"), job("second")], say=said.append, over=lambda: len(reached) >= 3,
                          heard=lambda key, event: reached.append((key, event["epoch"])))
    assert list(ended) == [] and "saved" in said[0] and len(said) == 1
    assert {key for key, _ in reached} == {"first"} and not list((tmp_path / "second").iterdir())
    assert checkpoint.load(tmp_path / "first" / "checkpoint.pt")["epoch"] == max(e for _, e in reached)


def test_recordings_that_a_node_took_along_are_said_with_what_to_do():
    with pytest.raises(UserError, match="took the recordings along"):
        jobs._mended(None)({"kind": "data", "message": "lost"})
