from __future__ import annotations

from types import SimpleNamespace

from raycal.report.planned import GAP, MARKS, measured, settled, strip

T, V, S = MARKS["train"], MARKS["validation"], MARKS["test"]
PIECES = {"train": ((0, 40),), "validation": ((50, 70),), "test": ((80, 100),)}


def test_a_strip_draws_the_split_to_scale():
    assert strip(PIECES, 100, 10) == T * 4 + GAP + V * 2 + GAP + S * 2
    assert strip(PIECES, 100, 20) == T * 8 + GAP * 2 + V * 4 + GAP * 2 + S * 4


def plan(n_sessions):
    sketches = [SimpleNamespace(id=f"mouse-{k}", fingerprint=f"f{k}", n_neurons=9, n_frames=100)
                for k in range(n_sessions)]
    agreement = SimpleNamespace(splits=[SimpleNamespace(pieces=PIECES)] * n_sessions, fingerprint="abc")
    return SimpleNamespace(objectives=("val/nmse",), directions=("minimize",), rate_limit=12.5, sketches=sketches,
                           agreement=agreement)


def test_judge_rate_split_and_fingerprints_are_said():
    text = "\n".join(settled(plan(2)))
    assert "val/nmse (lower is better), at most 12.5 bits a second" in text
    assert f"{T * 3}" in text and "9 neurons, 40 + 20 + 20 frames" in text
    assert "abc of data and split (mouse-0 f0, mouse-1 f1)" in text
    assert "and 4 more sessions" in "\n".join(settled(plan(10)))


def estimate(**changes):
    return SimpleNamespace(**{
        "corners": 7, "broken": (), "epoch": (0.5, 0.2, 3.0), "peak": {"host": 500 * 2**20, "gpu": 0, "gpu_has": 0}, "gpus": 0.0, "slots": 2,
        "fitting": 9, "trials": 20, "search": (80.0, 30.0, 600.0), "confirm": (9, 50.0), **changes})


def test_what_was_measured_is_said_with_its_range():
    text = "\n".join(measured(estimate(), 27))
    for said in ("7 corners", "0.5 s an epoch by default, 0.2 to 3 at the corners", "500 MiB", "20 trials of at most 27",
                 "2 at a time (memory for 9)", "80 s (30 s to 10 min", "50 s for 9 trainings"):
        assert said in text, said
    assert "GPU" not in text and "2 GiB of its GPU" in on_gpu(1.0)


def on_gpu(share):
    """What is said of workers that take 2 GiB of a GPU of 16 GiB, which `share` of it belongs to."""
    return "\n".join(measured(estimate(gpus=share, peak={"host": 1, "gpu": 2 * 2**30, "gpu_has": 2**34}), 27))


def test_a_gpu_that_would_hold_more_or_fewer_workers_is_said():
    assert "holds 7 such workers: --gpus-per-trial 0.14 lets them share it" in on_gpu(1.0)
    assert "such workers" not in on_gpu(1 / 7)
    assert "holds 7 such workers, but 10 share it: some trials will run out of memory; --gpus-per-trial 0.14" in on_gpu(0.1)


def test_a_corner_that_cannot_be_trained_is_named():
    text = "\n".join(measured(estimate(broken=(("windows.batch=1", "UserError: cannot feed 2 workers"),)), 27))
    assert "cannot be trained, trials there will fail: windows.batch=1: UserError: cannot feed 2 workers" in text


def test_recordings_that_begin_alike_are_told_apart():
    from raycal.report.planned import _cut

    assert _cut("mouse-1", 18) == "mouse-1"
    assert _cut("swf702_with_id__2022-07-26-31", 18) == "swf702_...07-26-31" and len(_cut("x" * 99, 18)) == 18
