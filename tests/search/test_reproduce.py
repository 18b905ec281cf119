from __future__ import annotations

import math

from raycal.search.reproduce import Comparison

THEN = {1: 0.5, 2: 0.4, 3: math.nan}


def comparison(**changes):
    return Comparison(**{"number": 7, "then": THEN, "now": dict(THEN), "weights": True, "changed": {}, "exact": True,
                         **changes})


def test_the_same_bits_are_said_to_be_the_same_and_nan_is_like_nan():
    assert comparison().same and comparison(weights=None).same and not comparison(weights=False).same
    assert comparison().lines() == ["reproduced   trial 7: the objective of all 3 epochs is the same bit for bit, and so "
                                    "are the weights"]
    assert comparison(weights=None).lines()[0].endswith("; its weights were not kept")


def test_the_last_bit_of_one_epoch_is_a_difference_and_is_named():
    other = comparison(now={**THEN, 2: math.nextafter(0.4, 1.0)})
    assert not other.same and other.differing == [2]
    assert "from epoch 2 on: 0.4 then, 0.4000000000000001 now" in other.lines()[0]


def test_what_changed_and_why_it_may_differ_are_said():
    other = comparison(now={1: 0.5}, changed={"torch": ("2.11", "2.13")}, exact=False, message="killed\n")
    text = other.lines()
    assert "from epoch 2 on: 0.4 then, None now" in text[0] and "torch: 2.11 then, 2.13 now" in text[1]
    assert "add sums up in another order" in text[2] and text[3] == "killed"
