"""Which slot a job is in when workers come and go: the rules alone, without Ray."""
from __future__ import annotations

import asyncio
import time

import pytest

from raycal.search.slot import DEATHS, Job, Slot, Slots


@pytest.fixture
def two():
    """Two slots, the second with a worker that waits."""
    slots = Slots({})
    slots._slots = [Slot(0), Slot(1, idle=True)]
    return slots


def settle(slots):
    asyncio.run(slots._settle())
    return [s.job and s.job.number for s in slots._slots]


def test_a_job_that_no_worker_has_goes_on_where_one_waits(two):
    two._slots[0].job = Job(7, {}, 1)
    assert settle(two) == [None, 7]


def test_a_job_that_is_in_work_stays(two):
    two._slots[0].job = Job(7, {}, 1, taken=True)
    assert settle(two) == [7, None]


def test_a_slot_that_is_taken_takes_no_other(two):
    two._slots[0].job, two._slots[1].job = Job(7, {}, 1), Job(8, {}, 2)
    assert settle(two) == [7, 8]


def test_the_job_of_a_dead_worker_moves_and_a_third_death_at_one_epoch_ends_it(two):
    first, second = two._slots
    first.job = job = Job(7, {}, 1, taken=True)
    two._died(first)
    assert settle(two) == [None, 7] and job.deaths == 1
    for death in range(2, DEATHS + 1):
        assert not job.ended
        job.taken = True
        two._died(second)
        assert job.deaths == death
    assert job.ended and job.events[0]["kind"] == "died" and "3 times at epoch 1" in job.events[0]["message"]


def test_winding_up_ends_jobs_that_no_worker_has_and_leaves_those_in_work(two):
    two._slots[0].job, two._slots[1].job = Job(7, {}, 1), Job(8, {}, 2, taken=True)
    two._winding_up = True
    settle(two)
    assert two._slots[0].job.events[0]["kind"] == "kept" and not two._slots[1].job.ended


def test_the_limit_of_an_epoch_counts_from_when_a_worker_has_the_job(monkeypatch):
    """What waits for nodes that boot has not hung; what a worker has and says nothing of has."""
    from raycal.search import slots as pool

    made = pool.SlotPool.__ray_actor_class__
    slots = made.__new__(made)
    Slots.__init__(slots, {"limit": -119.9})  # and two minutes more: 0.1 s
    monkeypatch.setattr(pool, "BEAT", 0.02)
    monkeypatch.setattr(slots, "_kill_workers", lambda job: None)
    job = Job(7, {"config": {}}, 1)
    slots._slots = [Slot(0, job)]

    async def course():
        waiting = asyncio.create_task(slots.step(1))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        job.taken, job.since = True, time.monotonic()
        return await asyncio.wait_for(waiting, 10), time.monotonic() - job.since

    event, seconds = asyncio.run(course())
    assert event["kind"] == "hang" and seconds >= 0.1
