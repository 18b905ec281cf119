"""confirm, test and reproduce through the command line, on one small run that a search left; real Ray, real files.

Every training of it is done by a worker that first tries to reach a test frame.
"""
from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import raycal
from raycal import cli
from raycal.config import Config
from raycal.search.study import read_study
from raycal.sessions.agreement import agree, sketch
from raycal.sessions.readers import npz
from raycal.sessions.simulate import simulate
from raycal.training import loop

ROOT = pathlib.Path(raycal.__file__).parents[1]
MARK = np.float32(1.2345678)  # stands in test frames alone
TINY = (pathlib.Path(__file__).parents[1] / "tiny.py").read_text()


def holds_mark(thing) -> bool:
    return MARK.tobytes() in pickle.dumps(thing, protocol=5)


def trying(config, dataset, *, train=loop.train, **options):
    """Look through the dataset and through every object of the store that this worker can name, then train."""
    import ray

    core = ray._private.worker.global_worker.core_worker
    named = [ray.ObjectRef(bytes.fromhex(i.decode())) for i in core.get_all_reference_counts()]
    ready, _ = ray.wait(named, num_returns=len(named), timeout=0.5) if named else ([], [])
    reached = [dataset]
    for ref in ready:
        try:
            reached.append(ray.get(ref, timeout=0.5))
        except Exception:
            continue
    if len(reached) < 2 or any(map(holds_mark, reached)):
        raise RuntimeError(f"of {len(reached)} objects in reach, one holds a test frame")
    yield from train(config, dataset, **options)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    session, settings = simulate(n_neurons=8, n_frames=1500, rate=5.0, seed=1).session, Config().sessions
    traces = session.traces.copy()
    for start, stop in agree([sketch(session, settings)], settings, 16).splits[0].pieces["test"]:
        traces[start:stop:7, 3] = MARK
    path = tmp_path_factory.mktemp("recording") / "s1.npz"
    npz.write(dataclasses.replace(session, traces=traces), path)
    return path


@pytest.fixture(scope="module")
def run(ray_session, recording, tmp_path_factory):
    """The folder of a search of four trials, confirmed on two seeds at its end; what it printed is in printed.txt."""
    import contextlib
    import io

    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    patch = pytest.MonkeyPatch()
    patch.setattr(loop, "train", trying)
    folder, space = tmp_path_factory.mktemp("runs") / "tiny", tmp_path_factory.mktemp("space") / "tiny.py"
    space.write_text(TINY)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["--space", str(space), "--sessions", str(recording), "--trials", "4", "--pruner", "none",
                         "--out", str(folder), "--confirm-top", "1", "--confirm-seeds", "2"]) == 0, out.getvalue()
    (folder / "printed.txt").write_text(out.getvalue())
    yield folder
    patch.undo()


def said(capsys, *argv, status=0):
    assert cli.main(list(map(str, argv))) == status
    out, err = capsys.readouterr()
    return err if status == 2 else out


def attributes(folder):
    return read_study(str(folder)).user_attrs


def test_what_tries_would_find_a_test_frame(recording):
    from raycal.sessions.readers import read_one

    assert holds_mark(read_one(recording)) and not holds_mark(simulate(n_neurons=8, n_frames=1500, seed=1).session)


@pytest.mark.slow
def test_a_search_says_what_it_will_do_and_confirms_at_its_end(run):
    text, study = (run / "printed.txt").read_text(), read_study(str(run))
    for words in ("judged by    val/nmse (lower is better)", "split ", "fingerprint", "corners of the space", "4 trials of",
                  "checkpoints take at most", "confirmed    nmse over 2 fresh seeds", f"next         raycal test {run}"):
        assert words in text, words
    assert text.index("judged by") < text.index("trial   0") < text.index("confirmed  ") < text.index("run   ")
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 4, "no worker reached a test frame"
    record = study.user_attrs["confirm"]
    assert record == json.loads((run / "confirm.json").read_text()) and record["seeds"] == [1, 2]
    assert set(record["trials"]) == {"0", str(next(t.number for t in sorted(study.trials, key=lambda t: t.value)
                                                   if t.number))}
    assert record == json.loads((run / "summary.json").read_text())["confirm"]
    assert study.user_attrs["plan"]["corners"] >= 6 and study.user_attrs["plan"]["peak"]["host"] > 2**26
    assert not any((run / "confirm").iterdir()), "trainings that are in the study leave no folder"
    assert not any(entry["failed"] for entry in record["trials"].values())


@pytest.mark.slow
def test_value_metrics_and_weights_of_a_trial_are_of_one_epoch(run):
    from raycal.training import checkpoint

    for trial in read_study(str(run)).trials:
        best, by_epoch = trial.user_attrs["best_epoch"], dict(trial.user_attrs["objective_by_epoch"])
        assert trial.value == by_epoch[best] == trial.user_attrs["metrics"]["val/nmse"] == min(by_epoch.values())
        state = checkpoint.load(run / "trials" / f"{trial.number:04d}" / "model.pt")
        assert (state["best"]["epoch"], state["best"]["value"]) == (best, trial.value) and state["metrics"]["val/nmse"] == trial.value
    summary = json.loads((run / "summary.json").read_text())["best"]
    kept = checkpoint.load(run / "best" / "model.pt")["best"]
    assert (kept["epoch"], kept["value"]) == (summary["epoch"], summary["value"])


@pytest.mark.slow
def test_a_confirmation_with_more_keeps_what_is_trained(run, capsys):
    before = {k: v for k, v in attributes(run).items() if k.startswith("confirm trial")}
    text = said(capsys, "confirm", run, "--top", "2", "--seeds", "3")
    assert len(before) == 4 and "on seeds 1, 2, 3: 5 trainings, 4 are there" in text
    after = attributes(run)
    assert {k: after[k] for k in before} == before and after["confirm"]["seeds"] == [1, 2, 3]
    for number, entry in after["confirm"]["trials"].items():
        assert entry["values"] == [after[f"confirm trial {number} seed {s}"]["value"] for s in (1, 2, 3)]
        assert entry["search_value"] == read_study(str(run)).trials[int(number)].value
        assert len(set(entry["values"])) == 3, "another seed is another training"
    winner = min(after["confirm"]["trials"].items(), key=lambda item: item[1]["mean"])[0]
    assert after["confirm"]["winner"] == winner and after["confirm"]["verdict"] in text
    assert f"next         raycal test {run}" in text


@pytest.mark.slow
def test_the_test_blocks_open_once(run, capsys):
    text, receipt = said(capsys, "test", run, "--seeds", "2"), json.loads((run / "test_receipt.json").read_text())
    opening, = receipt
    assert receipt == attributes(run)["test"] == json.loads((run / "summary.json").read_text())["test"]
    assert opening["again"] is False and opening["earlier"] == [] and opening["seeds"] == [4, 5], "chosen by nothing"
    confirmed = attributes(run)["confirm"]
    for role in ("winner", "default"):
        number = confirmed[role]
        assert opening[role]["number"] == int(number)
        assert opening["epochs"][role] == np.median(confirmed["trials"][number]["epochs"])
        figures = opening[role]["metrics"]["test/nmse"]
        assert len(figures["values"]) == 2 and figures["low"] <= figures["mean"] <= figures["high"]
    assert {"running", "stimulus"} <= set(opening["baselines"]["ridge"]) and opening["baselines"]["classical"]
    assert opening["versions"]["torch"] and opening["fingerprints"]["simulated-1"] and opening["verdict"] in text
    refused = said(capsys, "test", run, status=2)
    assert f"opened {opening['when']}" in refused and "--again" in refused
    assert receipt == json.loads((run / "test_receipt.json").read_text()), "a refusal opens nothing"


@pytest.mark.slow
def test_the_figures_of_the_receipt_are_those_of_the_models_on_the_test_blocks(run, recording):
    """Judged anew from the file, in this process, with scalers of train and validation together."""
    from raycal import inference
    from raycal.sessions.agreement import with_validation
    from raycal.sessions.prepare import assemble, record
    from raycal.sessions.readers import read_one
    from raycal.training.evaluate import evaluate

    opening, session, settings = attributes(run)["test"][0], read_one(recording), Config().sessions
    agreement = with_validation(agree([sketch(session, settings)], settings, 16))
    data = assemble(agreement, [record(session, settings, agreement, 0, ("train", "test"))])
    assert holds_mark(data), "the test frames are there"
    winner, values = opening["winner"], []
    for seed in opening["seeds"]:
        place = run / "test" / f"{winner['number']:04d}-seed{seed}-epochs{opening['epochs']['winner']}"
        model = inference.load(place)
        assert model.config.training.seed == seed and not [name for name in model.metrics if name.startswith("val/")]
        values.append(evaluate(model.model, data, model.config, "test")["test/nmse"])
    assert winner["metrics"]["test/nmse"]["values"] == pytest.approx(values, rel=1e-5)


@pytest.mark.slow
def test_opening_again_has_to_be_asked_for_and_is_marked(run, capsys, tmp_path):
    from raycal.report.console import closing

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    text = said(capsys, "test", copy, "--seeds", "2", "--again")
    first, second = json.loads((copy / "test_receipt.json").read_text())
    assert second["again"] is True and second["earlier"] == [first["when"]]
    assert second["winner"] == first["winner"], "the same trainings give the same figures"
    assert "opened 2 times" in text and "only the first opening was a test" in text
    summary = {**json.loads((copy / "summary.json").read_text()), "folder": "x", "interrupted": False}
    assert "only the first opening was a test" in closing(summary)


@pytest.mark.slow
def test_a_trial_is_reproduced_bit_for_bit(run, capsys):
    text = said(capsys, "reproduce", run, "--trial", "2")
    assert "trial 2: the objective of all 3 epochs is the same bit for bit, and so are the weights" in text
    assert not (run / "reproduced").exists()


@pytest.mark.slow
def test_a_trial_whose_record_differs_is_said_to_differ_and_where(run, capsys, tmp_path):
    from raycal.search.folder import RunFolder
    from raycal.search.space import load
    from raycal.search.study import open_study

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    space = load(_space_of(copy))
    study = open_study(RunFolder.existing(str(copy)), space.base, ["minimize"], space)
    known = study.user_attrs["environments"][0]["environment"]
    study.set_user_attr("environments", [{"from_trial": 0, "environment": {**known, "torch": "1.0"}}])
    (copy / "trials" / "0001" / "model.pt").write_bytes((copy / "trials" / "0002" / "model.pt").read_bytes())
    text = said(capsys, "reproduce", copy, "--trial", "1", status=1)
    assert "differs      trial 1 in its weights alone" in text and "torch: 1.0 then" in text


def _space_of(folder):
    import yaml

    return yaml.safe_load((folder / "config.yaml").read_text())["run"]["space"]


@pytest.mark.slow
def test_other_recordings_and_trials_that_never_were_are_refused(run, capsys, tmp_path):
    other = tmp_path / "other.npz"
    npz.write(simulate(n_neurons=9, n_frames=1500, rate=5.0, seed=3).session, other)
    assert "the sessions or their split changed" in said(capsys, "confirm", run, "--sessions", other, status=2)
    assert "--trial 77: was not trained" in said(capsys, "reproduce", run, "--trial", "77", status=2)
    assert "at least 2" in said(capsys, "confirm", run, "--seeds", "1", status=2)
    assert "no run there" in said(capsys, "test", tmp_path, status=2)


@pytest.mark.slow
def test_a_dry_run_says_the_same_and_leaves_nothing(run, capsys, recording, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = said(capsys, "plan", "--space", _space_of(run), "--sessions", recording, "--trials", "9",
                "--max-concurrent", "1")
    lines = [line for line in (run / "printed.txt").read_text().splitlines()
             if line.startswith(("judged", "fingerprint"))]
    assert len(lines) == 2 and all(line in text for line in lines)
    assert "9 trials of at most 3 epochs, 1 at a time" in text and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_confirmation_that_is_killed_goes_on_where_it_was(run, capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    command = ["confirm", str(copy), "--top", "2", "--seeds", "40", "--max-concurrent", "1"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = subprocess.Popen([sys.executable, "-m", "raycal.cli", *command], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env={**environment, "PYTHONPATH": str(ROOT)})

    def trained() -> dict:
        return {k: v for k, v in attributes(copy).items() if k.startswith("confirm trial")}

    before, end = trained(), time.monotonic() + 200
    while len(trained()) < len(before) + 3:
        assert driver.poll() is None and time.monotonic() < end, driver.communicate()[0]
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=60)
    left = trained()
    assert len(left) < 120, "it was killed before its end"
    text = said(capsys, "confirm", copy, "--top", "2", "--seeds", "20")
    wanted = {f"confirm trial {n} seed {s}" for n in attributes(copy)["confirm"]["trials"] for s in range(1, 21)}
    there = len(wanted & set(left))
    assert f"{60 - there} trainings, {there} are there" in text
    assert {k: v for k, v in trained().items() if k in left} == left and wanted <= set(trained())
