from __future__ import annotations

import pytest
from optuna.trial import TrialState, create_trial

from raycal.errors import UserError
from raycal.search.ends import Ends


def ended(reason="", message=""):
    facts = {k: v for k, v in (("reason", reason), ("message", message)) if v}
    return create_trial(state=TrialState.FAIL, user_attrs=facts)


def traceback(line, kind="ValueError", said="no"):
    return f'Traceback (most recent call last):\n  File "loop.py", line {line}, in train\n    f()\n{kind}: {said}\n'


def play(*ends, order=None):
    heard = Ends("runs/x")
    for number in range(len(ends)):
        heard.on_start(number, None)
    for number in order or range(len(ends)):
        heard.on_end(number, {}, ended(*ends[number]))


@pytest.mark.parametrize("end, words", [
    (("oom", "torch.OutOfMemoryError: ..."), ["for one reason", "oom", "windows.batch", "--resume runs/x"]),
    (("diverged",), ["diverged", "optimizer.lr"]), (("memorised",), ["memorised", "longer recordings"]),
     (("hang", "stood at ..."), ["hang", "epoch_limit"]),
    (("error", traceback(7)), ["ValueError", "loop.py", "line 7"]), (("died",), ["died"])])
def test_three_alike_end_the_search(end, words):
    with pytest.raises(UserError) as stopped:
        play(end, end, end)
    assert all(w in str(stopped.value) for w in words)


@pytest.mark.parametrize("ends", [
    [("oom",), ("oom",), ()], [("oom",), ("oom",), ("diverged",)], [("oom",), ("oom",)],
    [("stopped early",)] * 3, [()] * 3, [(), ("oom",), ("oom",), ("oom",), ("oom",)],
    [("error", traceback(7)), ("error", traceback(7)), ("error", traceback(8))],
    [("error", traceback(7)), ("error", traceback(7)), ("error", traceback(7, "KeyError"))]])
def test_others_do_not(ends):
    play(*ends)


def test_the_same_line_with_other_numbers_is_one_cause():
    with pytest.raises(UserError):
        play(*[("error", traceback(7, said=f"batch {n}: too small")) for n in range(3)])


def test_quick_failures_of_later_trials_do_not_outvote_the_default_that_still_runs():
    play((), *[("diverged",)] * 5, order=[1, 2, 3, 4, 5, 0])
