"""The pool of slots with real Ray Train workers: jobs, failures and what is left behind."""
from __future__ import annotations

import os
import signal
import time
from typing import NamedTuple

import pytest

from raycal.config import Config


class Epoch(NamedTuple):
    epoch: int
    metrics: dict
    objective: float
    best_epoch: int
    best_value: float
    done: bool
    ended_by: str
    extras: dict


def counting(config, dataset, *, resume=None, rank=0, world=1, save=None):
    """A trainer of no work; the seed asks for trouble: 13 raises, 14 hangs, 15 is slow enough to be killed."""
    last = config.training.epochs
    for n in range(1, last + 1):
        if config.training.seed == 13 and n == 2:
            raise ZeroDivisionError("thirteen")
        if config.training.seed == 14 and n == 2:
            time.sleep(60)
        if config.training.seed == 15:
            time.sleep(0.4)
        yield Epoch(n, {"world": world, "data": float(dataset.n_neurons[0])}, 1.0 / n, n, 1.0 / n, n == last,
                    "epochs" if n == last else "", {})


@pytest.fixture(scope="module")
def pool(ray_session, tmp_path_factory):
    """Two slots of one worker."""
    import ray
    from ray import cloudpickle
    import sys

    from raycal.search.slots import SlotPool
    from raycal.sessions import store
    from raycal.sessions.prepare import prepare
    from raycal.sessions.simulate import simulate

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    actor = SlotPool.remote({"workers": 1, "resources": {"CPU": 1.0}, "use_gpu": False, "threads": 1, "limit": 3.0,
                             "storage": str(tmp_path_factory.mktemp("train"))})
    ray.get(actor.grow.remote(2))
    session = simulate(n_neurons=7, n_frames=2000).session
    actor.refs = store.put(prepare([session], Config().sessions, 16))
    ray.get(actor.set_dataset.remote(actor.refs))
    assert ray.get(actor.wait_ready.remote(120))
    yield actor
    groups = ray.get(actor.state.remote())["groups"]
    assert ray.get(actor.close.remote(90.0)), "every fit() ends when the pool closes"  # a busy machine takes its time
    from raycal.search.groups import remove

    remove(groups)
    assert {ray.util.placement_group_table()[g]["state"] for g in groups} == {"REMOVED"}
    ray.kill(actor)


def run_job(pool, number: int, folder, epochs: int = 3, seed: int = 0, during=lambda event: None) -> list[dict]:
    import ray

    config = Config().replace({"training.epochs": epochs, "training.seed": seed}).flat()
    seq = ray.get(pool.borrow.remote(number, {"config": config, "folder": str(folder), "trainer": counting}))
    events = []
    while not events or (events[-1]["kind"] == "epoch" and not events[-1]["done"]):
        events.append(ray.get(pool.step.remote(seq)))
        during(events[-1])
    ray.get(pool.release.remote(seq))
    return events


def test_a_job_posts_every_epoch_and_sees_the_stored_data(pool, tmp_path):
    events = run_job(pool, 0, tmp_path)
    assert [e["epoch"] for e in events] == [1, 2, 3]
    assert events[-1]["ended_by"] == "epochs" and events[0]["metrics"] == {"world": 1, "data": 7.0}


def test_a_slot_survives_an_exception_and_hands_over_the_original_traceback(pool, tmp_path):
    events = run_job(pool, 1, tmp_path, seed=13)
    assert events[-1]["kind"] == "error"
    assert "ZeroDivisionError: thirteen" in events[-1]["message"] and "counting" in events[-1]["message"]
    assert run_job(pool, 2, tmp_path)[-1]["done"]


def test_a_released_job_stops_before_its_next_epoch(pool, tmp_path):
    import ray

    config = Config().replace({"training.epochs": 1000}).flat()
    seq = ray.get(pool.borrow.remote(3, {"config": config, "folder": str(tmp_path), "trainer": counting}))
    assert ray.get(pool.step.remote(seq))["epoch"] == 1
    ray.get(pool.release.remote(seq))
    assert ray.get(pool.state.remote())["running"] == []
    assert ray.get(pool.step.remote(seq))["kind"] == "lost"


def test_a_job_still_running_is_joined_by_a_new_trainable_which_hears_its_last_event_again(pool, tmp_path):
    import ray

    payload = {"config": Config().replace({"training.epochs": 5}).flat(), "folder": str(tmp_path), "trainer": counting}
    seq = ray.get(pool.borrow.remote(4, payload))
    assert ray.get(pool.step.remote(seq))["epoch"] == 1
    assert ray.get(pool.borrow.remote(4, payload)) == seq
    assert [ray.get(pool.step.remote(seq))["epoch"] for _ in range(3)] == [1, 2, 3]
    ray.get(pool.release.remote(seq))


@pytest.mark.slow
def test_a_killed_worker_comes_back_and_the_epochs_stay_monotone(pool, tmp_path):
    import ray

    def kill_once(event, killed=[]):
        if event["epoch"] == 2 and not killed:
            killed.append(True)
            for pid in ray.get(pool.state.remote())["pids"]:
                os.kill(pid, signal.SIGKILL)

    events = run_job(pool, 5, tmp_path, epochs=5, seed=15, during=kill_once)
    assert [e["epoch"] for e in events] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_an_epoch_over_its_limit_ends_the_trial_with_the_workers_stack(pool, tmp_path):
    events = run_job(pool, 6, tmp_path, seed=14)
    assert events[-1]["kind"] == "hang"
    assert "time.sleep(60)" in events[-1]["message"]
    assert run_job(pool, 7, tmp_path)[-1]["done"]
