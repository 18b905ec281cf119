from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from raycal.report import latents
from raycal.report.latents import MAX_POINTS, draw, portrait
from raycal.report.pictures import rendered, write
from raycal.training.codes import Steps


def made(n=200, codebooks=2, behaviors=2, sessions=1, seed=0):
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(size=(n, 5)), axis=0).astype(np.float32)
    session = np.sort(rng.integers(sessions, size=n))
    return Steps(rng.integers(12, size=(n, codebooks)), x, np.round(x), x[:, :behaviors].copy(), np.arange(n) * 0.4,
                 session, session * 3 + np.arange(n) % n // max(n // 3, 1))


def dataset(behaviors=2, sessions=1):
    return SimpleNamespace(behavior_names=tuple(f"b_${k}" for k in range(behaviors)),
                           behavior_units=("mm/s", "")[:behaviors] + ("",) * (behaviors - 2),
                           recordings=[SimpleNamespace(id=f"s{i}") for i in range(sessions)])


CASES = {"one_codebook": dict(codebooks=1), "many_codebooks": dict(codebooks=12), "no_behavior": dict(behaviors=0),
         "many_behaviors": dict(behaviors=5), "several_sessions": dict(sessions=3), "one_step": dict(n=1)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_kind_of_part_is_drawn_without_a_warning(case):
    steps = made(**case)
    shown = portrait(steps, (16,) * steps.indices.shape[1], dataset(case.get("behaviors", 2), case.get("sessions", 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in draw(shown).values():
            assert rendered(figure).std() > 1


def test_points_are_coloured_by_behaviour_and_by_time_where_there_is_none():
    def titles(behaviors, sessions, **changes):
        steps = made(behaviors=behaviors, sessions=sessions)._replace(**changes)
        figure = latents.draw_latents(portrait(steps, (12, 12), dataset(behaviors, sessions)))
        return [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]

    assert titles(2, 1) == ["b_$0 (mm/s)", "b_$1"]
    assert titles(0, 2) == ["time (s)", "session"]
    assert titles(2, 1, behavior=np.full((200, 2), np.nan)) == ["time (s)"], "a behaviour that was never observed"


def test_long_parts_are_thinned_the_same_way_every_time():
    flat = np.zeros((MAX_POINTS + 500, 2), np.float32)  # without neighbourhoods there is no t-SNE to wait for
    steps = made(n=MAX_POINTS + 500)._replace(latents=flat, quantized=flat)
    one, other = (portrait(steps, (12, 12), dataset()) for _ in range(2))
    assert len(one.seconds) == len(one.plane.pca) == len(one.ranks) == MAX_POINTS and one.n_steps == MAX_POINTS + 500
    np.testing.assert_array_equal(one.seconds, other.seconds)
    assert one.bars[0].sum() == pytest.approx(1.0), "the histogram is of all steps"


def test_codes_are_laid_out_along_the_latents_and_unused_ones_last():
    x = np.array([[3.0], [1.0], [2.0], [1.0]], np.float32)
    place, shares = latents._places(np.array([0, 4, 2, 4]), 6, x)
    ordered = place.tolist() if place[0] == 2 else (2 - place).tolist()  # an axis has no sign of its own
    assert ordered == [2, 0, 1, 0]
    assert sorted(shares[:3]) == [0.25, 0.25, 0.5] and not shares[3:].any()


def test_pictures_lie_in_the_folder_and_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    paths = write(tmp_path, draw(portrait(made(), (12, 12), dataset())), step=7)
    assert sorted(p.name for p in (tmp_path / "figures").glob("*.png")) == sorted(p.name for p in paths) \
        == ["codes.png", "latents.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)
    events = EventAccumulator(str(tmp_path / "figures"))
    events.Reload()
    assert [(events.Images(tag)[0].step, events.Images(tag)[0].height > 100) for tag in ("latents", "codes")] \
        == [(7, True)] * 2
