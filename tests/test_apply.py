from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest
import torch

from raycal import adaptation, application, cli
from raycal.config import Config
from raycal.errors import UserError
from raycal.inference import Trained, load
from raycal.models.layers import PerSession
from raycal.report.applied import _file_names, _whole
from raycal.sessions.prepare import prepare
from raycal.sessions.readers import npz
from raycal.sessions.session import Session
from raycal.sessions.simulate import simulate
from raycal.training import checkpoint
from raycal.training.loop import measure, train

CONFIG = Config().replace({
    "windows.length": 16, "windows.batch": 16, "windows.stride": 3, "model.width": 16, "model.residual_width": 8,
    "model.residual_blocks": 1, "model.dropout": 0.1, "quantizer.type": "grvq", "quantizer.groups": 2,
    "quantizer.codebook_size": 16, "quantizer.code_dim": 8, "optimizer.lr": 3e-3, "optimizer.ema": 0.9,
    "training.epochs": 8, "loss.behavior": 1.0, "training.device": "cpu"})
TINY = CONFIG.replace({"training.epochs": 1, "windows.min_steps": 2, "windows.stride": 32})


def part(whole: Session, first: int, last: int, id: str, **changes) -> Session:
    """One animal of two that the same latents drive: some neurons of a simulated session."""
    traces = np.ascontiguousarray(whole.traces[:, first:last])
    return dataclasses.replace(whole, **{"id": id, "traces": traces, "neurons": whole.neurons[first:last], **changes})


def train_to(folder, sessions, config) -> Trained:
    torch.set_num_threads(1)
    dataset, state = prepare(sessions, config.sessions, 16, log=lambda _: None), {}
    for _ in train(config, dataset, save=state.update):
        pass
    folder.mkdir(exist_ok=True)
    checkpoint.save(folder / "model.pt", checkpoint.export(state))
    return load(folder)


@pytest.fixture(scope="module")
def animals():
    whole = simulate(n_neurons=30, n_frames=2000, rate=5.0, seed=3, n_latents=2, noise=0.1).session
    return part(whole, 0, 14, "first"), part(whole, 14, 30, "second")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, animals):
    """The model of the first animal, and the recordings of both as files."""
    path = tmp_path_factory.mktemp("run")
    train_to(path / "best", [animals[0]], CONFIG)
    for animal in animals:
        npz.write(animal, path / f"{animal.id}.npz")
    return path


@pytest.fixture(scope="module")
def trained(folder):
    return load(folder)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, folder):
    """What the command line leaves when it adapts the first animal's model to the second."""
    out = tmp_path_factory.mktemp("adapted") / "out"
    assert cli.main(["apply", str(folder), "--sessions", str(folder / "second.npz"), "--out", str(out), "--adapt",
                     "--epochs", "10", "--device", "cpu"]) == 0
    return out


def facts_of(out) -> dict:
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads((out / "metrics.json").read_text(), parse_constant=refuse)["sessions"]


def nmse_and_r(target, prediction, mean, sd):
    error, away = (target - prediction) / sd, (target - mean) / sd
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(target.T, prediction.T)]
    return (error**2).sum() / (away**2).sum(), r


@pytest.mark.parametrize("format", ["npz", "hdf5"])
def test_the_file_holds_what_the_model_says(folder, trained, animals, tmp_path, capsys, format):
    out = tmp_path / "out"
    assert cli.main(["apply", str(folder / "best"), "--sessions", str(folder / "first.npz"), "--out", str(out),
                     "--format", format, "--device", "cpu"]) == 0
    said, session = capsys.readouterr().out, animals[0]
    path = out / ("first.npz" if format == "npz" else "first.h5")
    assert sorted(p.name for p in out.iterdir()) == sorted([path.name, "metrics.json"])
    with (np.load(path) if format == "npz" else h5py.File(path)) as f:
        got = {name: f[name][()] for name in f}
    names = got.pop("behavior_names"), got.pop("behavior_units")
    assert [[getattr(x, "decode", lambda x=x: x)() for x in n] for n in names] == [["running", "stimulus"],
                                                                                   ["cm/s", ""]]
    want = {"codes": trained.codes(session), "code_frames": trained.code_frames(session),
            "latents": trained.encode(session)[0], "reconstruction": trained.reconstruct(session),
            "behavior": trained.decode_behavior(session), "times": session.times}
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].dtype == array.dtype and np.array_equal(got[name], array), name
    assert f"results      {out}" in said and "next         python -c" in said and "seen in training" in said
    assert facts_of(out)["first"]["file"] == path.name


def test_figures_of_a_session_it_was_trained_on_are_about_the_train_mean(trained, animals):
    session = animals[0]
    arrays, metrics = trained.apply(session)
    mean, sd = prepare([session], CONFIG.sessions, 16).recordings[0].scalers["zscore"]
    nmse, r = nmse_and_r(session.traces, arrays["reconstruction"], mean.astype(float), sd.astype(float))
    assert metrics["seen_in_training"] is True and metrics["nmse_about"] == "train"
    assert metrics["nmse"] == pytest.approx(nmse, rel=1e-5) and metrics["nmse"] < 0.7
    np.testing.assert_allclose(metrics["neuron_r"], r, rtol=1e-5)
    assert metrics["r"] == pytest.approx(np.mean(r), rel=1e-5)
    train = trained.data["sessions"][0]
    for k, name in enumerate(("running", "stimulus")):
        y, about = session.behavior[:, k].astype(float), float(train["behavior_center"][k])
        r2 = 1 - ((y - arrays["behavior"][:, k]) ** 2).sum() / ((y - about) ** 2).sum()
        assert metrics["behavior_r2"][name] == pytest.approx(r2, rel=1e-5)


def test_code_figures_are_those_of_the_codes(trained, animals):
    arrays, metrics = trained.apply(animals[0])
    shares = [np.unique(column, return_counts=True)[1] / len(column) for column in arrays["codes"].T]
    bits = [-(p * np.log2(p)).sum() for p in shares]
    assert metrics["bits_per_second"] == pytest.approx(sum(bits) * len(arrays["codes"]) / 400.0)  # 2000 frames, 5 Hz
    assert metrics["usage"] == pytest.approx(np.mean([len(p) / 16 for p in shares]))
    assert metrics["perplexity"] == pytest.approx(np.mean(2 ** np.array(bits)))


def test_figures_of_a_new_recording_are_about_its_own_mean(trained, animals):
    """Other content is not mixed with the train mean, whether the id is that of training or another."""
    moved = animals[0].traces.copy() + np.float32(3.0)
    moved[5:9, 2] = np.nan
    for id, seen in (("first", None), ("another day", False)):
        session = dataclasses.replace(animals[0], id=id, traces=moved)
        arrays, metrics = trained.apply(session)
        assert metrics["seen_in_training"] is seen and metrics["nmse_about"] == "session"
        error = (arrays["reconstruction"] - moved) / np.nanstd(moved.astype(float), axis=0)
        away = (moved - np.nanmean(moved.astype(float), axis=0)) / np.nanstd(moved.astype(float), axis=0)
        assert metrics["nmse"] == pytest.approx(np.nansum(error**2) / np.nansum(away**2), rel=1e-4)


def test_figures_count_only_what_the_model_says(trained, animals):
    """Frames outside segments, and behaviours that the session lacks, count for nothing."""
    session = dataclasses.replace(animals[0], id="cut", segments=((0, 900), (950, 1500)),
                                  behavior=animals[0].behavior[:, :1], behavior_names=("running",),
                                  behavior_units=("cm/s",))
    spoiled = session.traces.copy()
    spoiled[900:950] = 1e6
    arrays, metrics = trained.apply(session)
    _, same = trained.apply(dataclasses.replace(session, traces=spoiled))
    assert same["nmse"] == metrics["nmse"] and metrics["behavior_r2"].keys() == {"running"}
    assert metrics["seconds"] == 290.0 and np.isnan(arrays["reconstruction"][900:950]).all()
    assert len(arrays["latents"]) == len(arrays["codes"]) == len(arrays["code_frames"])


def test_a_model_of_prepared_recordings_is_judged_on_what_was_recorded(tmp_path, animals):
    config = TINY.replace({"sessions.resample": 2.5, "sessions.smooth": 0.5, "sessions.features": 3.0,
                           "sessions.normalize": "minmax", "sessions.select": "variance", "sessions.neurons": 9})
    model, session = train_to(tmp_path, [animals[0]], config), animals[0]
    arrays, metrics = model.apply(session)
    kept = list(model.entry(session)["kept"])
    mean, sd = prepare([session], config.sessions, 16).recordings[0].scalers["zscore"]
    nmse, r = nmse_and_r(session.traces[:, kept].astype(float), arrays["reconstruction"][:, kept], mean, sd)
    assert metrics["nmse"] == pytest.approx(nmse, rel=1e-5) and metrics["neurons"] == 9
    assert np.flatnonzero(~np.isnan(metrics["neuron_r"])).tolist() == kept
    assert len(metrics["behavior_r2"]) == 8 and "running_mean" in metrics["behavior_r2"]
    other = model.adapt(animals[1], epochs=1)
    assert other.behavior_names == model.behavior_names and other.apply(animals[1]).metrics["neurons"] == 9


def test_adapting_holds_what_is_shared_bit_for_bit(trained, adapted):
    before, after = trained.model.state_dict(), load(adapted / "second.pt").model.state_dict()
    own = {name for name in before if name.startswith(("read_in.", "read_out."))}
    assert before.keys() == after.keys() and len(own) == 4
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - own)
    assert any("codes" in name for name in before.keys() - own) and any("counts" in name for name in before)
    assert all(after[name].shape != before[name].shape for name in own if "weight" in name and "read_in" in name)
    assert adaptation.shared_weights(trained.model).keys() == before.keys() - own
    assert sum(isinstance(m, PerSession) for m in trained.model.modules()) == 2


def test_only_read_in_and_read_out_move(trained, animals):
    config = adaptation.configure(trained, 1, device="cpu")
    state, states = trained.model.state_dict(), []
    for _ in train(config, adaptation.prepared(config, animals[0]), save=lambda s: states.append(s["model"]),
                   held=adaptation.shared_weights(trained.model)):
        pass
    assert all(torch.equal(states[0][n], state[n]) for n in adaptation.shared_weights(trained.model))
    torch.manual_seed(config.training.seed)
    new = type(trained.model)(config, [14], 2).state_dict()
    assert not any(torch.equal(states[0][n], new[n]) for n in new if n.startswith(("read_in.", "read_out.")))


def test_an_adapted_model_reads_a_second_animal(adapted, animals, capsys):
    facts, model = facts_of(adapted)["second"], load(adapted / "second.pt")
    dataset = prepare([animals[1]], model.config.sessions, 16)
    found = {k.removeprefix("val/"): v for k, v in measure(model.model, dataset, model.config).metrics.items()}
    assert facts["validation"] == pytest.approx(found) and found["nmse"] < 0.75
    assert facts["code_length"]["entropy_bits_per_second"] == pytest.approx(found["bits_per_second"])
    assert found["behavior_r2/stimulus"] > 0.4  # decoded by the first animal's head
    assert facts["model"] == "second.pt" and facts["seen_in_training"] is True and facts["best_epoch"] <= 10
    assert np.array_equal(np.load(adapted / "second.npz")["codes"], model.codes(animals[1]))
    assert model.fingerprint == dataset.fingerprint and model.sessions == ("second",)
    assert checkpoint.load(adapted / "second.pt")["adapted_from"]["sessions"] == ["first"]


def test_an_adapted_model_is_applied_like_any_other(adapted, folder, animals, tmp_path, capsys):
    assert cli.main(["apply", str(adapted / "second.pt"), "--sessions", str(folder / "second.npz"), "--out",
                     str(tmp_path / "again")]) == 0
    for name in ("codes", "reconstruction"):
        assert np.array_equal(np.load(tmp_path / "again" / "second.npz")[name], np.load(adapted / "second.npz")[name])


def test_adapting_twice_gives_the_same_model(trained, animals):
    first, second = (trained.adapt(animals[1], epochs=1).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_behaviours_that_a_new_animal_lacks_are_decoded_and_not_judged(trained, animals):
    bare = dataclasses.replace(animals[1], behavior=np.empty((2000, 0), np.float32), behavior_names=(),
                               behavior_units=())
    model = trained.adapt(bare, epochs=1)
    arrays, metrics = model.apply(bare)
    assert arrays["behavior"].shape == (2000, 2) and arrays["behavior_units"].tolist() == ["sd", "sd"]
    assert np.isfinite(arrays["behavior"]).all() and metrics["behavior_r2"] == {}
    assert model.data["sessions"][0]["fingerprint"] == bare.fingerprint


def test_a_model_without_behaviour_adapts_to_an_animal_with_some(tmp_path, animals):
    bare = dataclasses.replace(animals[0], behavior=np.empty((2000, 0), np.float32), behavior_names=(),
                               behavior_units=())
    model = train_to(tmp_path, [bare], TINY).adapt(animals[1], epochs=1)
    arrays, metrics = model.apply(animals[1])
    assert arrays["behavior"].shape == (2000, 0) and metrics["behavior_r2"] == {} and metrics["nmse"] > 0


def test_an_export_of_before_train_means_were_kept_is_judged(tmp_path, animals, trained, folder):
    state = checkpoint.load(folder / "best" / "model.pt")
    for name in ("mean", "sd"):
        del state["data"]["sessions"][0][name]
    checkpoint.save(tmp_path / "model.pt", state)
    assert load(tmp_path).apply(animals[0]).metrics == trained.apply(animals[0]).metrics
    state["data"]["normalize"] = "robust"
    checkpoint.save(tmp_path / "model.pt", state)
    assert load(tmp_path).apply(animals[0]).metrics["nmse_about"] == "session"


def refused(capsys, out, *argv) -> str:
    before = sorted(out.parent.rglob("*"))
    assert cli.main(["apply", *map(str, argv), "--out", str(out)]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("raycal: ") and "Traceback" not in err and sorted(out.parent.rglob("*")) == before
    return err


def test_what_cannot_be_applied_is_refused_before_anything_is_written(folder, tmp_path, capsys):
    out, (first, second) = tmp_path / "out", (folder / f"{id}.npz" for id in ("first", "second"))
    best = folder / "best"
    assert "holds no model.pt" in refused(capsys, out, tmp_path, "--sessions", first)
    assert "is not a raycal checkpoint" in refused(capsys, out, first, "--sessions", first)
    assert "no such file" in refused(capsys, out, best, "--sessions", tmp_path / "absent.npz")
    assert "--sessions" in refused(capsys, out, best)
    err = refused(capsys, out, best, "--sessions", first, second)
    assert "'second' (16 neurons)" in err and "first (14 neurons)" in err and "--adapt" in err
    assert "did you mean 'hdf5'" in refused(capsys, out, best, "--sessions", first, "--format", "hdf")
    assert "training.device='gpu'" in refused(capsys, out, best, "--sessions", first, "--device", "gpu")
    assert "--adapt alone" in refused(capsys, out, best, "--sessions", first, "--epochs", "3")
    assert "--adapt alone" in refused(capsys, out, best, "--sessions", first, "--set", "sessions.gap=2")
    assert "must be a whole number" in refused(capsys, out, best, "--sessions", first, "--adapt", "--epochs", "0")
    assert "settled by the model" in refused(capsys, out, best, "--sessions", second, "--adapt", "--set",
                                             "model.width=8")
    assert "sessions.gap" in refused(capsys, out, best, "--sessions", second, "--adapt", "--set", "sessions.gap=200")


def test_a_used_or_unwritable_folder_is_refused(folder, tmp_path, capsys):
    argv = [folder / "best", "--sessions", folder / "first.npz"]
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "note").write_text("mine")
    assert "already used" in refused(capsys, tmp_path / "used", *argv)
    assert "already used" in refused(capsys, tmp_path / "used" / "note", *argv)
    assert "cannot be written" in refused(capsys, tmp_path / "used" / "note" / "in", *argv)


def test_a_model_of_shared_read_in_is_not_adapted(tmp_path, animals):
    model = train_to(tmp_path, list(animals), TINY.replace({"sessions.mode": "pad"}))
    with pytest.raises(UserError, match="one read-in and one read-out that its sessions share"):
        model.adapt(animals[1])
    with pytest.raises(UserError, match="no read-in") as e:
        model.codes(part(animals[0], 0, 9, "third"))
    assert "--adapt" not in str(e.value)


def test_neurons_are_not_chosen_by_behaviour_that_is_not_there(tmp_path, animals):
    model = train_to(tmp_path, [animals[0]], TINY.replace({"sessions.select": "behavior", "sessions.neurons": 8}))
    blind = dataclasses.replace(animals[1], behavior=np.full((2000, 2), np.nan, np.float32))
    with pytest.raises(UserError, match="has none of the behaviours running, stimulus"):
        model.adapt(blind, epochs=1)
    assert model.adapt(blind, epochs=1, settings={"sessions.select": "variance"}).data["sessions"][0]["n_neurons"] == 16


def test_a_diverged_adaptation_is_said(trained, animals):
    config = adaptation.configure(trained, 1, device="cpu")
    dataset = adaptation.prepared(config, animals[1])
    recording = dataset.recordings[0]
    lost = {**recording.scalers, "zscore": (recording.scalers["zscore"][0], np.full(16, np.nan, np.float32))}
    dataset = dataclasses.replace(dataset, recordings=(dataclasses.replace(recording, scalers=lost),))
    with pytest.raises(UserError, match="'second': its adaptation diverged"):
        adaptation.fit(trained, config, dataset)


def test_an_unfinished_file_is_not_left(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with _whole(tmp_path / "a.npz") as path:
            path.write_text("half")
            raise KeyboardInterrupt
    with pytest.raises(UserError, match="cannot be written .No space"):
        with _whole(tmp_path / "a.npz") as path:
            path.write_text("half")
            raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_names_of_files_are_safe_and_differ():
    long = "x" * 300
    names = _file_names(["mouse-1", "../a/b", "A b", "a_b", "", long, f"{long}y", "a/b"])
    assert names["mouse-1"] == "mouse-1" and names["../a/b"] == "_a_b" and names[""] == "session"
    assert len({n.lower() for n in names.values()}) == 8 and max(map(len, names.values())) <= 102
    assert not any(set("/\\ ") & set(n) or n.startswith(".") for n in names.values())


def test_python_and_command_line_say_the_same(adapted, trained, animals):
    assert application.apply(trained, animals[0]).metrics == trained.apply(animals[0]).metrics
    model = trained.adapt(animals[1], epochs=10)
    assert np.array_equal(model.codes(animals[1]), np.load(adapted / "second.npz")["codes"])


def test_a_transform_code_is_applied_and_adapted_at_its_rate(tmp_path, animals):
    config = TINY.replace({"quantizer.type": "transform", "quantizer.bits": 6.0, "quantizer.code_dim": 14,
                           "model.linear": 1, "model.downsample": 1, "optimizer.ema": 0.0})
    first = train_to(tmp_path, [animals[0]], config)
    applied = first.apply(animals[0])
    assert applied.metrics["bits_per_second"] == pytest.approx(6.0 * 5, rel=0.15)  # it was steered on validation
    assert applied.arrays["codes"].shape == (2000, 14) and applied.metrics["nmse"] < 0.5
    second = first.adapt(animals[1], epochs=1)
    assert second.apply(animals[1]).metrics["nmse"] < 0.6
    assert torch.equal(second.model.quantizer.weights, first.model.quantizer.weights)
