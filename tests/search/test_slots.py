"""The pool of slots with real Ray Train workers: jobs, failures and what is left behind."""
from __future__ import annotations

import contextlib
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
    """A trainer of no work; the seed asks for trouble: 13 raises, 14 hangs, 15 is slow enough to be killed, 16 to 18
    want more memory than there is, 19 fills it, 20 and 21 raise and hang in the second worker alone."""
    last = config.training.epochs
    for n in range(1, last + 1):
        if config.training.seed == 13 and n == 2:
            raise ZeroDivisionError("thirteen")
        if config.training.seed == 14 and n == 2:
            time.sleep(60)
        if config.training.seed == 15:
            time.sleep(0.4)
        if config.training.seed in GREEDY and n == 2:
            GREEDY[config.training.seed]()
        if config.training.seed in (20, 21) and n == 2:
            fail_beside_a_peer(config.training.seed, rank)
        yield Epoch(n, {"world": world, "data": float(dataset.n_neurons[0])}, 1.0 / n, n, 1.0 / n, n == last,
                    "epochs" if n == last else "", {})


def fail_beside_a_peer(seed, rank):
    import torch.distributed as dist

    if rank == 1 and seed == 20:
        raise ZeroDivisionError("in the second worker")
    if rank == 1:
        time.sleep(60)
    dist.barrier()


def raise_as_a_gpu_does():
    import torch

    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def ask_torch_for_too_much():
    import torch

    torch.empty(10**15)


def ask_numpy_for_too_much():
    import numpy as np

    np.empty(10**15)


def fill_a_limited_memory():
    """Touch memory until the system refuses more: the limit of this process is lowered to 400 MiB above what it has."""
    import resource

    import numpy as np

    pages = int(open("/proc/self/statm").read().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 400 * 2**20, before[1]))
    try:
        held = [np.ones(2**21) for _ in range(1000)]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return held


GREEDY = {16: raise_as_a_gpu_does, 17: ask_torch_for_too_much, 18: ask_numpy_for_too_much, 19: fill_a_limited_memory}


@pytest.fixture(scope="module")
def pool(ray_session, tmp_path_factory):
    """Two slots of one worker."""
    with started(tmp_path_factory.mktemp("train"), slots=2, workers=1) as actor:
        yield actor


@contextlib.contextmanager
def started(storage, slots: int, workers: int):
    import ray
    from ray import cloudpickle
    import sys

    from raycal.search.slots import SlotPool
    from raycal.sessions import store
    from raycal.sessions.prepare import prepare
    from raycal.sessions.simulate import simulate

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    actor = SlotPool.remote({"workers": workers, "resources": {"CPU": 1.0}, "use_gpu": False, "threads": 1, "limit": 3.0,
                             "storage": str(storage)})
    ray.get(actor.grow.remote(slots))
    session = simulate(n_neurons=7, n_frames=2000).session
    actor.refs = store.put(prepare([session], Config().sessions, 16))
    ray.get(actor.set_dataset.remote(actor.refs))
    assert ray.get(actor.wait_ready.remote(280))
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


def pids(pool):
    import ray

    return ray.get(pool.state.remote())["pids"]


def test_a_job_posts_every_epoch_and_sees_the_stored_data(pool, tmp_path):
    events = run_job(pool, 0, tmp_path)
    assert [e["epoch"] for e in events] == [1, 2, 3]
    assert events[-1]["ended_by"] == "epochs" and events[0]["metrics"] == {"world": 1, "data": 7.0}


def test_a_slot_survives_an_exception_and_hands_over_the_original_traceback(pool, tmp_path):
    events = run_job(pool, 1, tmp_path, seed=13)
    assert events[-1]["kind"] == "error"
    assert "ZeroDivisionError: thirteen" in events[-1]["message"] and "counting" in events[-1]["message"]
    assert run_job(pool, 2, tmp_path)[-1]["done"]


@pytest.mark.parametrize("seed", GREEDY)
def test_a_slot_survives_a_job_that_ran_out_of_memory(pool, tmp_path, seed):
    """The class that CUDA raises is raised as it stands: that a GPU raises it was not tested."""
    before = run_job(pool, 20, tmp_path)[-1]["done"] and pids(pool)
    events = run_job(pool, seed, tmp_path, seed=seed)
    assert [e["kind"] for e in events] == ["epoch", "oom"]
    assert events[-1]["batch"] == 32 and events[-1]["memory"] > 2**26 and GREEDY[seed].__name__ in events[-1]["message"]
    assert run_job(pool, 21, tmp_path)[-1]["done"] and set(before) <= set(pids(pool)), "no worker is a new process"


def test_the_peak_memory_of_a_job_is_not_that_of_an_earlier_one(pool, tmp_path):
    filled = [run_job(pool, 30 + n, tmp_path, seed=19)[-1]["memory"] for n in range(4)]  # whichever slot takes it
    after = [run_job(pool, 40 + n, tmp_path, seed=17)[-1]["memory"] for n in range(4)]
    assert max(after) < min(filled) - 200 * 2**20


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


def test_the_end_of_a_job_reaches_a_new_trainable_whose_predecessor_died_with_it(pool, tmp_path):
    import ray

    payload = {"config": Config().replace({"training.epochs": 1}).flat(), "folder": str(tmp_path), "trainer": counting}
    for number in (5, 6):  # two slots
        seq = ray.get(pool.borrow.remote(number, payload))
        assert ray.get(pool.step.remote(seq))["done"]
    again = ray.get(pool.borrow.remote(5, payload), timeout=20)
    assert ray.get(pool.step.remote(again))["done"]
    ray.get(pool.release.remote(again))
    ray.get(pool.take_back.remote(6))  # its trial is over, and nobody gives the slot back
    assert ray.get(pool.state.remote())["running"] == []


def test_a_pool_that_came_back_without_slots_says_so_to_whoever_borrows(ray_session, tmp_path):
    """Its owner may not have heard of its end: those who were told may have died as well."""
    import ray

    from raycal.search.slots import Empty, SlotPool

    pool = SlotPool.remote({"workers": 1, "resources": {"CPU": 1.0}, "use_gpu": False, "storage": str(tmp_path),
                            "threads": 1, "limit": 60.0})
    with pytest.raises(Empty, match="came back without any"):
        ray.get(pool.borrow.remote(1, {}), timeout=30)
    ray.kill(pool)


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


@pytest.mark.slow
def test_what_goes_wrong_in_the_second_worker_alone_is_told_as_it_was(ray_session, tmp_path):
    """Its peer only meets a lost connection, or waits; the group is started anew and takes the next job."""
    with started(tmp_path / "train", slots=1, workers=2) as pool:
        raised = run_job(pool, 50, tmp_path, seed=20)[-1]
        assert raised["kind"] == "error" and "ZeroDivisionError: in the second worker" in raised["message"]
        hung = run_job(pool, 51, tmp_path, seed=21)[-1]
        assert hung["kind"] == "hang" and "time.sleep(60)" in hung["message"], "the one that hangs, not who waits for it"
        assert run_job(pool, 52, tmp_path)[-1]["done"]
