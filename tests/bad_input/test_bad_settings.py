"""Settings, settings files, spaces and verbs that cannot be."""
from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from raycal.search import connection

pytestmark = pytest.mark.timeout(20, func_only=True)  # s: what the program promises


def search(*argv, space="vq", sessions="good.npz"):
    return ["--space", space, *(["--sessions", sessions] if sessions is not None else []), *argv]


@pytest.mark.parametrize("argv, words", [
    (["--trials", "-3"], ["search.trials=-3", "at least 1"]),
    (["--epochs", "many"], ["training.epochs='many'", "whole number"]),
    (["--set", "optimizer.lr=fast"], ["optimizer.lr='fast'", "must be a number"]),
    (["--set", "model.width=1.5"], ["model.width=1.5", "whole number"]),
    (["--set", "model.width=true"], ["True", "whole"]),
    (["--set", "optimizer.lr"], ["'optimizer.lr'", "key=value"]), (["--set", "optimizer.lr="], ["lr=None", "a number"]),
    (["--set", "optimizer.rl=1"], ["unknown setting 'optimizer.rl'", "did you mean 'optimizer.lr'"]),
    (["--set", "lr=1"], ["unknown setting 'lr'", "did you mean 'optimizer.lr'"]),
    (["--set", "windows.length=2"], ["windows.length=2", "from 4 to 4096"]),
    (["--set", "optimizer.lr=.nan"], ["optimizer.lr=nan", "must be finite"]),
    (["--device", "gpu"], ["training.device='gpu'", "auto, cpu, cuda"]),
    (["--objective", "nsme"], ["'nsme'", "did you mean 'nmse'"]),
    (["--objective", "loss"], ["'loss'", "coefficients", "nmse"]),
    (["--objective", "nmse,correlation"], ["nmse,correlation", "--pruner asha", "add --pruner none"]),
    (["--sampler", "gp"], ["--sampler gp", "vq", "use --sampler tpe"]),
    (["--gpus-per-trial", "0.5", "--workers-per-trial", "2"], ["gpus=0.5", "workers=2", "--workers-per-trial 1"]),
    (["--device", "cpu", "--gpus-per-trial", "1"], ["device=cpu", "gpus=1.0", "drop one"]),
    (["--set", "training.shard=1"], ["training.shard=1", "model.family=vqvae", "use training.shard=0"]),
    (["--split", "animals"], ["sessions.split=animals", "model.family=vqvae", "raycal apply --adapt"]),
    (["--more", "3"], ["--more", "--resume DIR"]), (["--trails", "3"], ["--trails", "did you mean '--trials'"]),
    (["--set", "search.warm_start=folder"], ["folder: no run there", "give the folder of a run"]),
    (["--storage", "nowhere/runs"], ["--storage nowhere/runs", "s3://bucket/folder"])])
def test_a_setting_that_cannot_be(argv, words, refused):
    refused(search(*argv), *words)


@pytest.mark.parametrize("argv, words", [
    (["--set", "model.downsample=4"], ["model.downsample=4", "a latent a frame", "use model.downsample=1"]),
    (["--set", "model.linear=1"], ["model.linear=1", "use model.linear=0"]),
    (["--set", "model.width=30"], ["model.width=30", "vae.heads=4", "such as 32"]),
    (["--set", "search.rate_limit=10"], ["search.rate_limit=10", "no codes", "leave it out"]),
    (["--set", "vae.reconstruction=poisson"], ["vae.reconstruction=poisson", "sessions.normalize=zscore", "=none"]),
    (["--set", "vae.pooling=sum"], ["vae.pooling='sum'", "factors, mean, attention, identity"]),
    (["--set", "vae.masking=1"], ["vae.masking=1", "from 0.0 to 0.9"]),
    (["--split", "animals"], ["holding out simulated-1 leaves no session to train on", "--sessions"]),
    (["--set", "sessions.held_out=[simulated]"], ["no session 'simulated'", "did you mean 'simulated-1'"]),
    (["--split", "animals", "--set", "sessions.mode=first_only"], ["sessions.split=animals", "first_only", "separate"]),
    (["--split", "animal"], ["sessions.split='animal'", "did you mean 'animals'"]),
    (["--objective", "bits_per_second"], ["'bits_per_second'", "no such yardstick", "cosmoothing_r2"])])
def test_a_setting_that_a_vae_cannot_have(argv, words, refused):
    refused(search(*argv, space="vae"), *words)


@pytest.mark.parametrize("argv, words", [
    (["--set", "windows.length=4", "--set", "model.downsample=8"],
     ["windows.length=4", "shorter than the 8 frames", "lower model.downsample"]),
    (["--set", "diffusion.evaluations=0"], ["diffusion.evaluations=0", "from 1 to 1000"]),
    (["--set", "diffusion.steps=0"], ["unknown setting 'diffusion.steps'"]),
    (["--set", "diffusion.guidance=2", "--sessions", "blind.npz"],
     ["diffusion.guidance=2", "no behaviour is in every session", "leave it at 1"]),
    (["--sessions", "still.npz"], ["session still: 0 of 8 neurons left", "8 constant"]),
    (["--sessions", "lonely.npz"], ["session lonely: 1 of 8 neurons left", "a model needs 2"]),
    (["--set", "sessions.normalize=none"], ["sessions.normalize=none", "use sessions.normalize=zscore"]),
    (["--set", "diffusion.guidance_dropout=2"], ["diffusion.guidance_dropout=2", "from 0.0 to 1.0"]),
    (["--set", "diffusion.sampler=eular"], ["diffusion.sampler='eular'", "did you mean 'euler'"]),
    (["--set", "model.width=20"], ["model.width=20", "diffusion.heads=4", "such as 16"]),
    (["--set", "search.rate_limit=10"], ["search.rate_limit=10", "no codes", "leave it out"]),
    (["--device", "cpu", "--set", "training.precision=bf16"],
     ["training.precision=bf16", "use training.precision=float32"]),
    (["--first-stage", "gone"], ["--first-stage", "gone: holds no model.pt", "folder of a run"]),
    (["--set", "search.objective=nmse"], ["'nmse'", "no such yardstick", "generation"])])
def test_a_setting_that_a_generative_model_cannot_have(argv, words, refused):
    refused(search(*argv, space="diffusion"), *words)
    refused(["train", *search(*argv, space="diffusion")], *words)


def test_behaviour_that_is_not_there_is_no_yardstick_of_a_generative_model(refused):
    refused(search("--objective", "behavior_r2", space="diffusion", sessions="blind.npz"),
            "there is nothing to decode", "--objective generation")


@pytest.mark.parametrize("name, words", [
    ("gone.yaml", ["gone.yaml: no such file", "--print-config"]), ("folder", ["folder: cannot be read", "directory"]),
    ("list.yaml", ["list.yaml: holds a list", "'optimizer: {lr: 0.001}'"]), ("broken.yaml", ["broken.yaml", "line 3"]),
    ("deep.yaml", ["optimizer.lr={'a': 1}", "a number"]), ("good.npz", ["good.npz: cannot be read as YAML"]),
    ("misspelt.yaml", ["'optimiser.lr'", "did you mean 'optimizer.lr'"]), ("held.yaml", ["run.held=['a']", "settings"]),
    ("where.yaml", ["run.sessions=3", "a list of paths"]), ("what.yaml", ["run.space=3", "a word"]),
    ("part.yaml", ["'run.spaces'", "did you mean 'space'"])])
def test_a_settings_file_that_is_none(name, words, refused):
    refused(search("--config", name), *words)


@pytest.mark.parametrize("space, words", [
    ("qv", ["--space 'qv'", "did you mean 'vq'", "my_space.py"]), ("gone.py", ["gone.py: no such file", "diffusion, grvq, quantizers,"]),
    ("syntax.py", ["syntax.py", "SyntaxError", "line 4", "correct the file"]),
    ("import.py", ["import.py", "No module named 'no_such_module'", "line 4"]),
    ("leaves.py", ["leaves.py", "SystemExit"]),
    ("bare.py", ["bare.py", "propose(trial, base)"]), ("base.py", ["base.py", "'optimizer.rl'", "did you mean"]),
    ("raises.py", ["raises.py", "propose() raises TypeError", "line 5", "correct"]),
    ("branch.py", ["branch.py", "propose() raises KeyError", "line 6"]),
    ("nothing.py", ["nothing.py", "propose() returns a NoneType", "return base.replace(trial.params)"]),
    ("unknown.py", ["unknown.py", "unknown setting 'optimizer.rl'", "did you mean 'optimizer.lr'"]),
    ("sometimes.py", ["sometimes.py", "unknown setting 'optimizer.rl'", "did you mean 'optimizer.lr'"]),
    ("beyond.py", ["beyond.py", "quantizer.codebook_size=1", "from 2 to 65536"]),
    ("outside.py", ["outside.py", "optimizer.lr=0.003", "widen the range"]),
    ("first.py", ["first.py: FIRST", "did you mean 'optimizer.lr'"]),
    ("points.py", ["points.py: FIRST", "a list of points"])])
def test_a_space_that_is_none(space, words, refused):
    refused(search(space=space), *words)


def test_a_rate_limit_that_nothing_meets(refused):
    refused(search("--set", "search.rate_limit=0.001", space="plain.py"), "search.rate_limit=0.001 bits/s",
         "nothing meets it", "the default 8.75", "raise it, or leave it out")


@pytest.mark.parametrize("argv, words", [
    (["--set", "search.rate_limit=0.001"], ["search.rate_limit=0.001", "nothing meets it"]),
    (["--set", "sessions.behavior=whisking"], ["'whisking'", "it has running, stimulus"]),
    (["--set", "windows.length=4000"], ["windows of 4000", "--set windows.length="])])
def test_what_simulated_sessions_cannot_serve_ends_before_a_slot_starts(argv, words, refused, unreachable, monkeypatch):
    """They are made while Ray starts; the plan is made before the first slot is."""
    idle = SimpleNamespace(grow=unreachable)
    monkeypatch.setattr(connection, "cluster", lambda *_: contextlib.nullcontext(idle))
    refused(search("-q", *argv, space="plain.py", sessions=None), *words)


@pytest.mark.parametrize("argv", [
    search(sessions="gone.npz"), search("--epochs", "1", sessions="hole.npz"),
    search("--set", "sessions.behavior=[speed]"),
    search("--set", "search.objective=loss"), search("--set", "optimizer.rl=1"), search(space="raises.py"),
    search("--set", "windows.length=4000")])
def test_training_refuses_the_same(argv, refused):
    refused(["train", *argv])


@pytest.mark.parametrize("argv, words", [
    (["sessions", "show", "gone.npz"], ["gone.npz: no such file"]), (["sessions", "show"], ["PATH", "--help"]),
    (["sessions", "show", "good.npz", "--out", "nowhere/a.png"], ["nowhere/a.png", "cannot be written"]),
    (["sessions", "show", "good.npz", "hole.npz", "--out", "a.png"], ["--out a.png", "2 recordings"]),
    (["serch"], ["unknown verb 'serch'", "did you mean 'search'"]), ([], ["--space is missing", "--space grvq"])])
def test_other_verbs_refuse_as_shortly(argv, words, refused):
    refused(argv, *words)


def test_of_several_faults_the_first_is_named(refused):
    several = ["--set", "optimizer.rl=1", "--sessions", "gone.npz", "hole.npz", "--out", "used"]
    refused(["--space", "qv", *several], "'qv'")
    refused(["--space", "vq", *several], "optimizer.rl")
    refused(["--space", "vq", *several[2:]], "used")  # before anything is read: that may take long
    refused(["--space", "vq", *several[2:5]], "gone.npz")
    refused(["--space", "vq", "--sessions", "hole.npz"], "hole")


@pytest.mark.parametrize("argv", [
    search("--set", "sessions.nan=drop", sessions="hole.npz"),
    search("--set", "sessions.nan=mask", sessions="hole.npz"),
    search("--set", "sessions.rounds=1", sessions="shortish.npz"),
    search("--set", "sessions.rate=5", sessions="rateless.npz"),
    search("--set", "windows.length=78"), search("--objective", "nmse", sessions="blind.npz"),
    search("--objective", "nmse,correlation", "--pruner", "none"),
    search("--set", "optimizer.lr=0.003", space="outside.py")])
def test_the_fix_that_a_message_names_is_one(argv, accepted):
    accepted(argv)
