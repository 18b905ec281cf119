from __future__ import annotations

import pytest

from raycal.cli import main
from raycal.errors import UserError
from raycal.report.compare import compare


def test_runs_are_paired_over_the_seeds_they_share(made):
    first = made("first").confirm((0.00, 0.10, 0.20), seeds=(1, 2, 3))
    second = made("second").confirm((0.11, 0.19, 0.30), seeds=(2, 3, 4))  # the same search: only the offsets differ
    found = compare(first.read(), second.read())
    pairing, = found.pairings
    assert pairing.seeds == (2, 3) and pairing.what == "confirmed"
    assert pairing.difference.mean == pytest.approx(((0.10 - 0.11) + (0.20 - 0.19)) / 2, abs=1e-9)
    assert "neither is shown to be better" in found.sentence


def test_the_better_run_is_named_where_the_interval_lies_beside_zero(made):
    first, second = made("first").confirm((0.0, 0.1, 0.2)), made("second").confirm((0.5, 0.61, 0.7))
    assert compare(first.read(), second.read()).sentence.startswith("first is better: NMSE -0.5")
    assert compare(second.read(), first.read()).sentence.startswith("first is better: NMSE 0.5")
    first.test()
    second.test(winner=(0.1, 0.11, 0.1))
    assert compare(first.read(), second.read()).sentence.startswith("second is better") , "the test has the last word"


def test_other_data_are_refused_with_the_reason(made, capsys):
    first, second = made("first").confirm(), made("second", fingerprint="beef").confirm()
    with pytest.raises(UserError, match="prepared or split differently .fingerprints d00d and beef"):
        compare(first.read(), second.read())
    facts = dict(second.study.user_attrs["facts"])
    second.study.set_user_attr("facts", {**facts, "fingerprints": {"mouse-9": "cc"}})
    assert main(["compare", str(first.path), str(second.path)]) == 2
    assert "the recordings differ (mouse-1, mouse-2, mouse-9)" in capsys.readouterr().err


def test_another_yardstick_is_refused(made):
    first, second = made("first"), made("second")
    second.study.set_user_attr("facts", {**second.study.user_attrs["facts"], "objective": "correlation"})
    with pytest.raises(UserError, match="judged by nmse, the other by correlation"):
        compare(first.read(), second.read())


def test_what_is_not_confirmed_says_the_command(made, capsys):
    first, second = made("first").confirm(), made("second")
    assert main(["compare", str(first.path), str(second.path)]) == 0
    shown = capsys.readouterr().out
    assert f"raycal confirm {second.path}" in shown and f"raycal confirm {first.path}" not in shown
    assert "NMSE, search" in shown
