"""Tune copies what it is given and keeps every trial; what a parcel held is gone once it is emptied."""
import copy

from raycal.search.parcel import Parcel


def test_every_copy_is_emptied_at_once():
    parcel = Parcel({"kind": "epoch", "metrics": {"val/nmse": 0.5}})
    config, result = copy.deepcopy({"payload": parcel}), {"event": parcel}
    parcel.empty()
    assert config["payload"].content == result["event"].content == {}


def test_it_is_printed_as_what_it_tells_of():
    assert repr(Parcel({"kind": "epoch", "metrics": {}})) == "epoch" and repr(Parcel({"config": {}})) == "..."
