"""What model.linear begins as: the classical code of the train part, and nothing of any other part."""
import dataclasses

import numpy as np
import pytest
import torch

from raycal import models
from raycal.metrics.baselines import ridge_on_traces
from raycal.metrics.classical import Classical
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate
from raycal.training.evaluate import evaluate
from raycal.training.start import start

TRANSFORM = {"quantizer.type": "transform", "model.linear": 1, "model.downsample": 1, "quantizer.code_dim": 12,
             "windows.length": 16, "model.residual_blocks": 0}


def begun(dataset, config):
    torch.manual_seed(0)
    model = models.build(config, dataset.n_neurons, len(dataset.behavior_names))
    start(model, dataset, config)
    return model.eval()


@pytest.mark.parametrize("downsample", [1, 2, 4])
def test_the_linear_path_is_orthonormal_and_the_networks_add_nothing(small, dataset, downsample):
    config = small.replace({**TRANSFORM, "model.downsample": downsample, "quantizer.code_dim": 12 * downsample})
    model, x = begun(dataset, config), torch.randn(3, 12, 16)
    with torch.no_grad():
        z = model.encode(x, 0)
        torch.testing.assert_close(z.square().sum(), (x - model.read_out.maps[0].bias[:, None]).square().sum())
        torch.testing.assert_close(model.decode(z, 0, 16), x, atol=1e-5, rtol=1e-5)


def test_latents_come_in_the_order_of_their_variance(small, dataset):
    config = small.replace({**TRANSFORM, "model.downsample": 4, "quantizer.code_dim": 16})
    model, recording = begun(dataset, config), dataset.recordings[0]
    center, spread = recording.scalers["zscore"]
    (a, b), *_ = recording.pieces["train"]
    windows = (recording.traces[a:b][: (b - a) // 16 * 16] - center) / spread
    with torch.no_grad():
        z = model.encode(torch.from_numpy(windows.reshape(-1, 16, 12)).mT, 0)
    variance = z.square().mean((0, 1))
    assert variance[0] > 3 * variance[8] and variance[:4].sum() > variance[4:].sum()


@pytest.mark.parametrize("bits", [3.0, 12.0])
@pytest.mark.parametrize("mode", ["separate", "pad"])
def test_it_is_no_worse_than_the_classical_transform_code_at_its_rate(small, dataset, bits, mode):
    config = small.replace({**TRANSFORM, "quantizer.bits": bits, "sessions.mode": mode})
    found = evaluate(begun(dataset, config), dataset, config)
    classical = Classical(dataset, "validation", 16).transform(found["val/bits_per_second"])
    assert found["val/bits_per_second"] == pytest.approx(5.0 * bits, rel=0.005)
    assert found["val/nmse"] < classical["nmse"] * (1.01 if mode == "separate" else 2)  # 12 shared axes for 21 neurons


def test_a_grouped_quantizer_begins_no_worse_than_grouped_residual_kmeans(small, dataset):
    config = small.replace({"model.linear": 1, "quantizer.type": "grvq", "quantizer.groups": 4, "quantizer.levels": 2,
                            "quantizer.code_dim": 32, "quantizer.codebook_size": 16})
    found = evaluate(begun(dataset, config), dataset, config)
    classical = Classical(dataset, "validation", 16).residual_kmeans(models.bits_per_second(config, 5.0), 4)
    assert found["val/nmse"] < 1.05 * classical["nmse"]


def test_behaviour_is_decoded_from_the_codes_before_any_training(small, dataset):
    config = small.replace({**TRANSFORM, "quantizer.bits": 40.0})
    found, ridge = evaluate(begun(dataset, config), dataset, config), ridge_on_traces(dataset)
    for name, figures in ridge.items():
        assert found[f"val/behavior_r2/{name}"] == pytest.approx(figures["r2"], abs=0.1)


def test_only_train_frames_matter(small, recordings):
    config = small.replace(TRANSFORM)
    one = prepare(recordings[:1], config.sessions, 16)
    (r,) = one.recordings
    traces = r.traces.copy()
    inside = np.zeros(len(traces), bool)
    for a, b in r.pieces["train"]:
        inside[a:b] = True
    traces[~inside] = 1e6
    other = dataclasses.replace(one, recordings=(dataclasses.replace(r, traces=traces),))
    assert all(torch.equal(x, y) for x, y in zip(begun(one, config).state_dict().values(),
                                                 begun(other, config).state_dict().values()))


def test_masked_values_and_fewer_neurons_than_latents_are_no_obstacle(small):
    session = simulate(n_neurons=5, n_frames=1500, rate=5.0, seed=3).session
    traces = session.traces.copy()
    traces[10:40, 2] = np.nan
    config = small.replace({**TRANSFORM, "sessions.nan": "mask"})
    dataset = prepare([dataclasses.replace(session, traces=traces)], config.sessions, 16)
    assert np.isfinite(evaluate(begun(dataset, config), dataset, config)["val/nmse"])
