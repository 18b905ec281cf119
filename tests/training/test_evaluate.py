from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raycal import models
from raycal.models import quantizers
from raycal.models.vqvae import Output
from raycal.sessions.prepare import prepare
from raycal.training.evaluate import evaluate, measure


class Stub(torch.nn.Module):
    """Answers with a function of the windows and counts the frames that were asked for."""

    def __init__(self, answer, codes=lambda part, s: torch.zeros(len(part.traces), s, 1, dtype=torch.int64)):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self._answer, self._codes, self.modes = answer, codes, []

    def forward(self, batch):
        part = batch[0]
        self.modes.append(self.training)
        steps = math.ceil(part.traces.shape[-1] / 4)
        return [Output(*self._answer(part), self._codes(part, steps))], torch.zeros(())


def known(part):
    return part.traces, torch.nan_to_num(part.behavior)


def mean(part):
    return torch.zeros_like(part.traces), torch.zeros_like(part.behavior)


def frames(dataset) -> int:
    return sum(b - a for r in dataset.recordings for a, b in r.pieces["validation"])


def test_a_perfect_model(small, dataset):
    found = evaluate(Stub(known), dataset, small)
    assert found["val/nmse"] == pytest.approx(0.0, abs=1e-12) and found["val/r"] == pytest.approx(1.0)
    for name in ("", "_heldout_mean", "/running", "/stimulus"):
        assert found[f"val/behavior_r2{name}"] == pytest.approx(1.0)


def test_the_train_mean_scores_nmse_1_and_r2_0(small, dataset):
    found = evaluate(Stub(mean), dataset, small)
    assert found["val/nmse"] == pytest.approx(1.0) and found["val/r"] == 0.0
    assert found["val/behavior_r2"] == pytest.approx(0.0, abs=1e-9)
    assert found["val/behavior_r2_heldout_mean"] <= 0.0


@pytest.mark.parametrize("normalize", ["robust", "minmax", "none"])
def test_the_score_of_a_raw_prediction_does_not_depend_on_the_normalisation(small, dataset, normalize):
    """The same prediction in the file's unit (0.9 of each raw trace) is given in the unit of each normalisation."""
    def scores(normalize):
        def answer(part):
            center, spread = (torch.from_numpy(np.array(a))[:, None]
                              for a in dataset.recordings[part.session].scalers[normalize])
            return (0.9 * (part.traces * spread + center) - center) / spread, torch.nan_to_num(part.behavior)
        return evaluate(Stub(answer), dataset, small.replace({"sessions.normalize": normalize}))

    assert scores(normalize)["val/nmse"] == pytest.approx(scores("zscore")["val/nmse"], rel=1e-4)


@pytest.mark.parametrize("length", [16, 17, 23])
def test_whole_split_counts_whatever_the_window(small, dataset, length):
    config = small.replace({"windows.length": length}) if length <= dataset.window else None
    if config is None:
        pytest.skip("the window does not fit")

    def answer(part):  # an error that depends on the frame's own value only
        return part.traces * 0.5, torch.nan_to_num(part.behavior) * 0.5

    found = evaluate(Stub(answer), dataset, config)
    assert found["val/nmse"] == pytest.approx(0.25, rel=1e-6)
    reference = evaluate(Stub(answer), dataset, small)
    assert found["val/r"] == pytest.approx(reference["val/r"], rel=1e-6)
    assert found["val/behavior_r2_heldout_mean"] == pytest.approx(reference["val/behavior_r2_heldout_mean"], rel=1e-6)


def test_codebook_figures_of_known_codes(small, dataset):
    """Codes 0..3 in turn: usage 4/16, perplexity near 4, 2 bits a code at rate / 4 codes a second."""
    def in_turn(part, s):
        return (torch.arange(s) % 4).view(1, s, 1).expand(len(part.traces), s, 1)

    found = evaluate(Stub(known, in_turn), dataset, small)
    assert found["val/usage"] == found["val/usage/0"] == 0.25
    assert found["val/perplexity"] == pytest.approx(4.0, rel=0.01)
    assert found["val/codebook_size"] == 16
    assert frames(dataset) / 4 <= found["val/tokens"] <= frames(dataset) / 4 + 12
    assert found["val/bits_per_second"] == pytest.approx(2.0 * 5.0 / 4, rel=0.01)


def test_every_codebook_is_counted_apart(small, dataset):
    config = small.replace({"quantizer.type": "grvq", "quantizer.groups": 2, "quantizer.levels": 2})

    def codes(part, s):  # column c uses c + 1 codes
        return torch.stack([torch.arange(s) % (c + 1) for c in range(4)], -1).expand(len(part.traces), s, 4)

    result = measure(Stub(known, codes), dataset, config)
    assert [result.metrics[f"val/usage/{c}"] for c in range(4)] == [1 / 16, 2 / 16, 3 / 16, 4 / 16]
    assert len(result.arrays["counts"]) == 4
    assert all(int(c.sum()) == result.metrics["val/tokens"] for c in result.arrays["counts"])


def test_perplexity_is_not_a_mean_of_batches(small, dataset):
    """Every window uses one code, all windows together use many."""
    seen = [0]

    def one_a_window(part, s):
        b = len(part.traces)
        seen[0] += b
        return ((torch.arange(b) + seen[0]) % 16).view(b, 1, 1).expand(b, s, 1)

    assert evaluate(Stub(known, one_a_window), dataset, small)["val/perplexity"] > 10


def test_eval_mode_inside_and_restored_after(small, dataset):
    model = Stub(known)
    model.train()
    evaluate(model, dataset, small)
    assert model.training and not any(model.modes)


def test_a_model_is_not_changed_and_answers_the_same_twice(small, dataset):
    torch.manual_seed(0)
    model = models.build(small.replace({"model.dropout": 0.5}), dataset.n_neurons, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(1)
    first = evaluate(model, dataset, small)
    assert evaluate(model, dataset, small) == first
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert sum(quantizers.codebook_sizes(small.quantizer)) == first["val/codebook_size"]


def test_without_behaviour_there_is_no_r2(small, recordings):
    import dataclasses

    bare = dataclasses.replace(recordings[0], behavior=recordings[0].behavior[:, :0], behavior_names=(),
                               behavior_units=())
    found = evaluate(Stub(known), prepare([bare], small.sessions, 16), small)
    assert not [k for k in found if "behavior" in k] and found["val/nmse"] == pytest.approx(0.0, abs=1e-12)


def test_masked_frames_do_not_count(small, recordings):
    import dataclasses

    valid = np.random.default_rng(0).random(recordings[0].traces.shape) > 0.2
    config = small.replace({"sessions.nan": "mask"})
    dataset = prepare([dataclasses.replace(recordings[0], valid=valid)], config.sessions, 16)

    def wrong_where_unseen(part):
        return torch.where(part.valid, part.traces, 1e6), torch.nan_to_num(part.behavior)

    assert evaluate(Stub(wrong_where_unseen), dataset, config)["val/nmse"] == pytest.approx(0.0, abs=1e-12)


def test_examples_are_of_the_part(small, dataset):
    examples = measure(Stub(known), dataset, small).arrays["examples"]
    assert examples["target"].shape == examples["reconstruction"].shape == (4, 6, 16)
    assert examples["session"] == "s12" and len(examples["labels"]) == 6


def test_parts_have_their_own_names(small, dataset):
    assert all(k.startswith("fit/") for k in evaluate(Stub(known), dataset, small, "train"))
