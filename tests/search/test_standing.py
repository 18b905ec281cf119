"""What is said of a pool whose slots have no nodes, and when; the clock and the pool are stand-ins."""
from __future__ import annotations

import pytest

from raycal.errors import UserError
from raycal.search import nodes, standing
from raycal.search.connection import Cluster
from raycal.search.nodes import Slots


class Told:
    """A Standing whose pool has so many slots, and what it said by the second."""

    def __init__(self, monkeypatch):
        self.now, self.slots, self.why, self.placed, self.said = 0.0, 0, "no node has 1 GPU", False, []
        monkeypatch.setattr(standing.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(nodes, "lacking", lambda worker, workers: self.why)
        self.standing = standing.Standing(None, {"GPU": 1.0}, 1, lambda: self.placed)
        monkeypatch.setattr(self.standing, "_look", self._look)

    def _look(self):
        self.standing._slots = self.slots
        return True

    def until(self, second):
        while self.now < second:
            self.now += 1
            now = self.standing(lambda line: self.said.append((self.now, line)))
        return now


@pytest.fixture
def told(monkeypatch):
    return Told(monkeypatch)


def test_why_no_slot_stands_is_said_once_within_half_a_minute_and_again_when_one_does(told):
    told.until(200)
    assert told.said == [(10, "waiting: no node has 1 GPU")]
    told.slots = 2
    assert told.until(210).slots == 2
    assert told.said[1:] == [(201, "2 slots stand; the search goes on")]
    told.slots = 0
    told.until(225)
    assert told.said[2:] == [(220, "waiting: no node has 1 GPU")], "every node left"


def test_another_reason_is_said_after_a_minute_at_the_soonest(told):
    told.until(30)
    told.why = "the autoscaler failed"
    told.until(300)
    assert told.said == [(10, "waiting: no node has 1 GPU"), (71, "waiting: the autoscaler failed")]


def test_slots_that_have_their_place_are_starting(told):
    told.placed = True
    told.until(300)
    assert told.said == []


def test_a_slot_is_not_waited_for_without_end(told):
    with pytest.raises(UserError, match="no slot stands for 30 min: no node has 1 GPU\nfix: ray status .* --resume"):
        told.until(standing.PATIENCE + 5)
    assert told.now == standing.PATIENCE + 1


def test_room_follows_the_slots_that_stand_and_grows_with_the_nodes(monkeypatch):
    found = Cluster(Slots(2, 2, {"CPU": 1.0}, False), "", 60.0, most=4)
    found._count, grown, shapes = 2, [], [({"CPU": 4.0}, 1)]
    monkeypatch.setattr(nodes, "present", lambda: shapes)
    monkeypatch.setattr(Cluster, "grow", lambda self, count: (grown.append(count), setattr(self, "_count", count)))
    now = {"slots": 0}
    found._standing = lambda say: standing.Now(now["slots"], True)
    assert found.room() == 1, "a trial waits for the first, and hears where there is none"
    now["slots"] = 2
    assert found.room() == 2 and not grown
    shapes.append(({"CPU": 3.0}, 1))
    assert found.room() == 2 and grown == [3], "seven workers are three slots of two"
    now["slots"] = 3
    shapes.append(({"CPU": 64.0}, 1))
    found.room()
    assert grown == [3, 4] and found.slots.count == 4, "no more than was asked for"
    now["slots"] = 1
    assert found.room() == 1, "three nodes left"
