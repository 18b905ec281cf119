from __future__ import annotations

import io
import os

import pytest
import torch

from raycal.config import Config
from raycal.errors import UserError
from raycal.training import checkpoint
from raycal.training.loop import train


@pytest.fixture(scope="module")
def state(small, dataset):
    kept = {}
    for _ in train(small.replace({"training.epochs": 2, "optimizer.ema": 0.9}), dataset, save=kept.update):
        pass
    return kept


def test_round_trip_loads_with_weights_only(state, tmp_path):
    checkpoint.save(tmp_path / "c.pt", state)
    found = torch.load(tmp_path / "c.pt", weights_only=True)
    assert found.keys() == state.keys()
    assert all(torch.equal(v, found["model"][k]) for k, v in state["model"].items())
    assert found["history"] == state["history"]


def test_holds_settings_fingerprint_versions_and_data(state, small, dataset):
    assert Config().replace(state["config"]) == small.replace({"training.epochs": 2, "optimizer.ema": 0.9})
    assert state["fingerprint"] == dataset.fingerprint
    assert state["versions"]["torch"] == torch.__version__ and {"raycal", "numpy", "python"} <= state["versions"].keys()
    first = state["data"]["sessions"][0]
    recording = dataset.recordings[0]
    assert first["id"] == "s12" and first["n_neurons"] == 12 and first["kept"] == list(range(12))
    assert (first["recorded_rate"], first["resample"], first["smooth"]) == (recording.rate, 0.0, 0.0)
    assert first["center"].tolist() == recording.scalers["zscore"][0].tolist()
    assert first["spread"].tolist() == recording.scalers["zscore"][1].tolist()
    assert first["mean"].tolist() == recording.scalers["zscore"][0].tolist() and first["sd"].tolist() == \
        recording.scalers["zscore"][1].tolist()
    assert state["data"]["behavior_names"] == list(dataset.behavior_names)


def test_export_keeps_the_best_weights_and_drops_the_rest(state):
    best = checkpoint.export(state)
    assert not {"optimizer", "scaler", "ema"} & best.keys()
    assert all(torch.equal(v, best["model"][k]) for k, v in state["best"]["model"].items())
    assert best["metrics"] == state["history"][state["best"]["epoch"] - 1]
    assert best["metrics"][state["objective"]] == best["best"]["value"]
    buffer = io.BytesIO()
    checkpoint.save(buffer, best)
    buffer.seek(0)
    assert checkpoint.load(buffer)["best"] == best["best"]


def test_a_failed_write_leaves_the_old_file_and_no_rest(state, tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    checkpoint.save(path, state)
    before = path.read_bytes()

    def full(state, f):
        f.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError):
        checkpoint.save(path, state)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["c.pt"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut"])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="bad.pt.*not a raycal checkpoint"):
        checkpoint.load(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UserError, match="gone.pt: no such checkpoint"):
        checkpoint.load(tmp_path / "gone.pt")
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="format None"):
        checkpoint.load(tmp_path / "other.pt")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Bad:
        def __reduce__(self):
            return os.system, ("true",)

    torch.save({"format": 1, "x": Bad()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="bad.pt"):
        checkpoint.load(tmp_path / "bad.pt")


def test_copies_are_real():
    weights = torch.ones(3, requires_grad=True)
    tree = {"a": [weights, (weights, 1)], "b": "text"}
    copy = checkpoint.copied(tree)
    with torch.no_grad():
        weights.fill_(5.0)
    assert copy["a"][0].tolist() == copy["a"][1][0].tolist() == [1.0] * 3
    assert not copy["a"][0].requires_grad and copy["b"] == "text"


@pytest.mark.parametrize("change", [{}, {"optimizer.name": "sgd"}, {"optimizer.ema": 0.9, "model.width": 64},
                                    {"quantizer.codebook_size": 4096}])
def test_size_is_what_a_training_takes_at_most_and_not_far_above(small, dataset, tmp_path, change):
    config, files = small.replace({"training.epochs": 2, **change}), {}
    for _ in train(config, dataset, save=files.update):
        pass
    checkpoint.save(tmp_path / "state", files)
    checkpoint.save(tmp_path / "export", checkpoint.export(files))
    bounds = checkpoint.size(config, dataset.n_neurons, len(dataset.behavior_names))
    for name, bound in zip(("state", "export"), bounds):
        taken = (tmp_path / name).stat().st_size
        assert taken <= bound <= 2 * taken + 2 * checkpoint.SLACK
