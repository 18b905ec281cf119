from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from raycal.config import Config
from raycal.report.tensorboard import TensorBoard, add_counts, columns_of

DISTRIBUTIONS = {"quantizer.type": CategoricalDistribution(("vq", "ema")),
                 "quantizer.decay": FloatDistribution(0.8, 0.99),
                 "quantizer.codebook_size": IntDistribution(8, 64),
                 "model.flag": CategoricalDistribution((True, False))}
PARAMS = {0: {"quantizer.type": "vq", "quantizer.codebook_size": 16},
          1: {"quantizer.type": "ema", "quantizer.decay": 0.9, "quantizer.codebook_size": 32}}


def epoch(n, value, extras=None):
    return {"epoch": n, "objective": value, "extras": extras or {},
            "metrics": {"val/nmse": value, "train/loss": 2 * value, "seconds": 0.1, "note": "a word"}}


@pytest.fixture
def read(tmp_path):
    def read(number):
        events = list((tmp_path / f"{number:04d}").glob("events.*"))
        assert len(events) == 1, "one event file a trial"
        accumulator = EventAccumulator(str(events[0]), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
        accumulator.Reload()
        return accumulator

    return read


@pytest.fixture
def board(tmp_path):
    made = TensorBoard(lambda number: tmp_path / f"{number:04d}", DISTRIBUTIONS, "val/nmse", PARAMS.get)
    yield made
    made.close()


def run(board, told, number, values=(0.9, 0.4, 0.6), extras=None):
    board.on_start(number, Config())
    for n, value in enumerate(values, 1):
        board.on_epoch(number, epoch(n, value, extras if value == min(values) else None))
    metrics = {"val/nmse": min(values), "val/usage": 0.75, "val/r": "nan"}
    board.on_end(number, {}, told(values=[min(values)], metrics=metrics))


def plugin(accumulator, tag):
    content = accumulator.PluginTagToContent("hparams")[f"_hparams_/{tag}"]
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def scalar(accumulator, tag):
    return [(e.step, pytest.approx(e.value)) for e in accumulator.Scalars(tag)]


def test_every_metric_of_every_epoch_is_a_curve(board, told, read):
    run(board, told, 0)
    events = read(0)
    assert scalar(events, "val/nmse") == scalar(events, "objective") == [(1, 0.9), (2, 0.4), (3, 0.6)]
    assert scalar(events, "train/loss") == [(1, 1.8), (2, 0.8), (3, 1.2)]
    assert "note" not in events.Tags()["scalars"]


def test_best_is_the_best_value_at_its_epoch_and_not_the_last(board, told, read):
    run(board, told, 0)
    events = read(0)
    assert scalar(events, "best/objective") == scalar(events, "best/nmse") == [(2, 0.4)]
    assert scalar(events, "best/usage") == [(2, 0.75)]
    assert "best/r" not in events.Tags()["scalars"], "what was not measured has no value"


def test_the_experiment_names_every_parameter_conditional_ones_included(board, told, read):
    run(board, told, 0)
    experiment = plugin(read(0), "experiment").experiment
    assert {h.name for h in experiment.hparam_infos} == set(DISTRIBUTIONS)
    assert {m.name.tag for m in experiment.metric_infos} == {
        f"best/{n}" for n in ("objective", "nmse", "r", "behavior_r2", "bits_per_second", "usage")}


def test_a_family_has_the_columns_that_it_may_be_judged_by():
    vae = Config().replace({"model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2"})
    assert "val/cosmoothing_r2" in columns_of(vae) and "val/usage" not in columns_of(vae)
    drawn = Config().replace({"model.family": "diffusion", "model.downsample": 1, "search.objective": "generation"})
    assert columns_of(drawn) == ("val/generation", "val/behavior_r2", "val/evaluations")


def test_windows_that_a_model_drew_stand_as_pictures(board, told, read):
    from types import SimpleNamespace

    from raycal.training.examples import beside

    rng = np.random.default_rng(0)
    recording = SimpleNamespace(id="s", rate=5.0, neurons=("",) * 5)
    drawn = beside(recording, *(rng.standard_normal((8, 5, 16)) for _ in range(2)))
    board.on_start(0, Config())
    board.on_epoch(0, epoch(1, 0.5, {"generated": drawn}))
    board.on_end(0, {}, told(TrialState.COMPLETE, [0.5]))
    names = {f"generated-{name}" for name in ("traces", "spectra", "correlations")}
    assert names <= set(read(0).Tags()["images"])


def test_each_trial_holds_its_own_parameters_and_only_the_first_the_experiment(board, told, read):
    run(board, told, 0)
    run(board, told, 1)
    for number in (0, 1):
        got = {k: v.string_value or v.number_value
               for k, v in plugin(read(number), "session_start_info").session_start_info.hparams.items()}
        assert got == PARAMS[number]
        assert plugin(read(number), "session_end_info").HasField("session_end_info")
    assert "_hparams_/experiment" not in read(1).PluginTagToContent("hparams")


def test_of_latents_it_shows_what_each_costs_and_hidden_neurons(board, told, read):
    shown = {"session": "a", "rate": 5.0, "neurons": np.arange(2), "labels": ["", "AVA"], "scores": np.array([0.5, 0.1]),
             "target": np.zeros((2, 2, 8)), "reconstruction": np.ones((2, 2, 8)), "r2": [np.zeros(2)]}
    run(board, told, 0, extras={"kl": np.array([0.5, 2.5, 1.0]), "hidden": shown})
    events = read(0)
    assert events.Images("hidden-neurons")[0].step == 2 and events.Images("hidden-neurons")[0].width > 300
    assert events.Histograms("latents/kl")[0].histogram_value.bucket == pytest.approx([0.5, 2.5, 1.0])


def test_a_resumed_search_describes_the_experiment_in_its_first_trial(board, told, read):
    run(board, told, 1)
    assert "_hparams_/experiment" in read(1).PluginTagToContent("hparams")


def test_trials_that_end_without_an_epoch_are_closed(board, told, read):
    board.on_start(0, Config())
    board.on_end(0, {}, told(TrialState.FAIL, best_epoch=0, reason="error"))
    assert "best/objective" not in read(0).Tags()["scalars"]


def test_values_that_are_not_finite_are_written(board, told, read):
    board.on_start(0, Config())
    board.on_epoch(0, epoch(1, math.nan))
    board.on_end(0, {}, told(TrialState.PRUNED, best_epoch=0, reason="diverged"))
    assert math.isnan(read(0).Scalars("val/nmse")[0].value)


def test_the_best_epoch_leaves_a_picture_and_its_codes(board, told, read):
    rng = np.random.default_rng(0)
    examples = {"target": rng.normal(size=(2, 3, 16)), "reconstruction": rng.normal(size=(2, 3, 16)), "rate": 10.0,
                "labels": ("a", "", "c"), "neurons": np.arange(3), "session": "one"}
    run(board, told, 0, extras={"examples": examples, "counts": [np.array([3, 0, 5]), np.arange(200)]})
    events = read(0)
    image, = events.Images("reconstruction")
    assert image.step == 2 and image.width > image.height > 50
    first, = (h.histogram_value for h in events.Histograms("codebook/0"))
    assert first.bucket == [3, 0, 5] and first.num == 8
    second, = (h.histogram_value for h in events.Histograms("codebook/1"))
    assert len(second.bucket) == 64 and sum(second.bucket) == np.arange(200).sum()


def test_code_counts_keep_their_sum_mean_and_range():
    class Writer:
        def add_histogram_raw(self, tag, **kept):
            self.kept = kept

    writer, counts = Writer(), np.array([0, 4, 0, 6])
    add_counts(writer, "codes", counts, 7)
    kept = writer.kept
    assert (kept["min"], kept["max"], kept["num"], kept["global_step"]) == (0, 3, 10, 7)
    assert kept["sum"] == 4 * 1 + 6 * 3 and kept["sum_squares"] == 4 * 1 + 6 * 9
    assert kept["bucket_counts"] == [0, 4, 0, 6] and kept["bucket_limits"] == [1, 2, 3, 4]


def test_closing_ends_what_an_interrupt_left_open(board, read):
    board.on_start(0, Config())
    board.on_epoch(0, epoch(1, 0.5))
    board.close()
    assert scalar(read(0), "val/nmse") == [(1, 0.5)]
