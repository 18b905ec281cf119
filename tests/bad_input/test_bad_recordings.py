"""Recordings that cannot serve: unreadable, of no format, too small, without what is asked for."""
from __future__ import annotations

import ast
import os
import pathlib

import numpy as np
import pytest

import raycal
from raycal.errors import UserError
from raycal.sessions.session import Session

ROOT = pathlib.Path(raycal.__file__).parents[1]
pytestmark = pytest.mark.timeout(20, func_only=True)  # s: what the program promises


def search(*argv, space="vq", sessions="good.npz"):
    return ["--space", space, *(["--sessions", sessions] if sessions is not None else []), *argv]


def test_good_input_gets_as_far_as_ray(accepted):
    accepted(search())


@pytest.mark.parametrize("sessions, words", [
    ("gone.npz", ["gone.npz: no such file", "read from"]), ("folder", ["folder: is a folder", "folder/*.h5'"]),
    ("nothing/*.npz", ["nothing/*.npz: no file matches", "read from"]), ("", ["no session in ''", "'worms/*.h5'"]),
    ("pipe.npz", ["pipe.npz: is not a regular file", "copy"]), ("empty.npz", ["empty.npz: is empty", "raycal npz"]),
    ("cut.npz", ["cut.npz: is a damaged or cut-off npz", "copy it again"]),
    ("good.npz,good.npz", ["given twice, as ", "good.npz and as ", "leave one out"]),
    ("good.npz,./g*d.npz", ["given twice, as ", "good.npz and as ", "leave one out"]),
    ("table.csv", ["'table'", "1 frames x 2 neurons", "rows are frames, columns neurons"]),
    ("array.npy", ["array.npy: is of an unknown format", "raycal npz, worm HDF5"]),
    ("other.h5", ["HDF5 file of another layout (its top level: x)", "Allen Brain Observatory NWB 1"]),
    ("loop.npz", ["loop.npz: is a loop of symbolic links", "give the file itself"]),
    ("state0.npz,state1.npz", ["'mouse'", "state0.npz and ", "state1.npz both state this id", "leave one out"]),
    ("masked.npz", ["masked.npz: ", "mask 'train' has shape (1499,)", "1500 frames"]),
    ("back.npz", ["back.npz: ", "do not increase at frame 1499", "begin a new segment"]),
    ("bomb.h5", ["bomb.h5: 'gcamp/traces_array_F_F20' declares 36.38 TiB", "leave it out"]),
    ("halved.h5", ["halved.h5: is a damaged or cut-off HDF5 file", "copy it again"]),
    ("allen:mouse", ["allen:mouse", "a number such as allen:501940850"])])
def test_a_recording_that_cannot_be_read(sessions, words, refused):
    refused(search(sessions=sessions), *words)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_recording_without_permission(refused, made):
    (made / "secret.npz").write_bytes(b"")
    (made / "secret.npz").chmod(0)
    refused(search(sessions="secret.npz"), "secret.npz: cannot be read", "permissions")


@pytest.mark.parametrize("sessions, words", [
    ("hole.npz", ["session hole: neuron 3 is NaN, first at frame 5", "sessions.nan=drop", "sessions.nan=mask"]),
    ("still.npz", ["session still: 0 of 8 neurons left", "8 constant", "leave the session out"]),
    ("lonely.npz", ["session lonely: 1 of 8 neurons left", "7 constant", "a model needs 2"]),
    ("one.npz", ["'one'", "1500 frames x 1 neurons", "2 neurons are needed"]),
    ("few.npz", ["'few'", "10 frames x 8 neurons", "16 frames"]),
    ("short.npz", ["session short: too few frames", "200 frames", "8 gaps of 40", "sessions.gap=8"]),
    ("shortish.npz", ["shortest block holds 6 frames", "windows of 16", "--set sessions.rounds=1"]),
    ("hidden.npz", ["session hidden: 0 of 8 neurons left", "8 constant or not measured", "leave the session out"]),
    ("infinite.npz", ["'infinite'", "infinite at index (3, 0)", "NaN"]),
    ("words.npz", ["'words'", "<U1", "real numbers"]),
    ("rateless.npz", ["session rateless states no sampling rate", "--set sessions.rate=HZ"])])
def test_a_recording_with_too_little_in_it(sessions, words, refused):
    refused(search(sessions=sessions), *words)


@pytest.mark.parametrize("argv, words", [
    (["--set", "windows.length=4000"], ["holds 78 frames", "windows of 4000", "--set windows.length=78"]),
    (["--set", "sessions.rounds=50"], ["149 gaps", "sessions.rounds=50"]),
    (["--set", "sessions.train=0.9", "--set", "sessions.validation=0.1"], ["sessions.train=0.9", "less than 1"]),
    (["--set", "sessions.split=file"], ["the file marks no train", "--set sessions.split=blocks"])])
def test_blocks_and_windows_that_do_not_fit(argv, words, refused):
    refused(search(*argv), *words)


@pytest.mark.parametrize("argv, words", [
    (search("--set", "sessions.behavior=[speed]"), ["no behaviour 'speed'", "it has running, stimulus", "change"]),
    (search("--set", "sessions.behavior=runing"), ["'runing'", "did you mean 'running'"]),
    (search("--set", "sessions.behavior=[running]", sessions="blind.npz"), ["blind", "'running'", "it has none"]),
    (search("--set", "sessions.behavior="), ["sessions.behavior=None", "[velocity, head_angle]"]),
    (search("--objective", "behavior_r2", sessions="blind.npz"), ["'behavior_r2'", "no behaviour", "--objective nmse"]),
    (search("--objective", "behavior_r2", sessions="unseen.npz"),
     ["running: constant or not observed", "give recordings with behaviour"]),
    (search("--objective", "behavior_r2", sessions="good.npz,blind.npz"), ["no behaviour is in every session"]),
    (search("--set", "vae.condition=always", space="vae", sessions="good.npz,blind.npz"),
     ["vae.condition=always", "no behaviour is in every session", "--set vae.condition=observed"]),
    (search("--set", "vae.condition=always", space="vae", sessions="unseen.npz"),
     ["session unseen: running: constant or not observed in every train block", "--set vae.condition=observed"])])
def test_behaviour_that_is_asked_for_and_absent(argv, words, refused):
    refused(argv, *words)


def test_an_array_is_told_from_a_session_and_a_session_counts_once(program):
    with pytest.raises(UserError, match="a ndarray is no session; .*Session.build"):
        raycal.search("vq", np.zeros((100, 4)))
    session = Session.build(id="a", traces=np.random.default_rng(0).normal(size=(1500, 4)), rate=5.0)
    with pytest.raises(UserError, match="given twice, as a and as a"):
        raycal.search("vq", [session, session])


def test_a_pickled_recording_is_refused_and_not_executed(refused, made, payload):
    refused(search(sessions="pickled.npz"), "'traces' is pickled", "save it again")
    refused(search(sessions="names.npz"), "'behavior_names' is pickled", "save it again as an array")
    marker = made / payload[1]
    assert not marker.exists()
    np.load("pickled.npz", allow_pickle=True)["traces"]
    assert marker.exists(), "the payload works where it is let"
    marker.unlink()


def test_a_pickled_checkpoint_is_refused_and_not_executed(made, monkeypatch, payload):
    import torch

    monkeypatch.chdir(made)
    model, marker = made / "folder" / "model.pt", made / payload[1]
    torch.save({"format": 1, "model": {}, "extra": payload[0]}, model)
    try:
        with pytest.raises(UserError, match="model.pt: is not a raycal checkpoint, .*; copy it again, or train again"):
            raycal.load("folder")
        assert not marker.exists()
        torch.load(model, weights_only=False)
        assert marker.exists(), "the payload works where it is let"
    finally:
        model.unlink()
        marker.unlink(missing_ok=True)


def test_nothing_in_the_tree_unpickles():
    wanted = {"np.load": "allow_pickle=False", "numpy.load": "allow_pickle=False", "torch.load": "weights_only=True",
              "yaml.load": ""}
    seen = []
    for path in [*(ROOT / "raycal").rglob("*.py"), *(ROOT / "search_spaces").rglob("*.py"), ROOT / "run_search.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {getattr(node, "module", None), *(a.name for a in node.names)}
                assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}, path
            elif isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in wanted:
                assert wanted[called] and wanted[called] in ast.unparse(node), (path, ast.unparse(node))
                seen.append(called)
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec")), path
    assert {"np.load", "torch.load"} <= set(seen)
