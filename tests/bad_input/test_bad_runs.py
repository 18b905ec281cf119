"""Run folders that are used or unwritable, runs that cannot be continued, clusters and GPUs that are not there."""
from __future__ import annotations

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest

import raycal
from raycal import api, cli
from raycal.errors import UserError
from raycal.search import connection
from raycal.search import run as runner
from raycal.search.folder import RunFolder
from raycal.search.plan import make_plan
from raycal.sessions.agreement import sketch

ROOT = pathlib.Path(raycal.__file__).parents[1]
pytestmark = pytest.mark.timeout(20, func_only=True)  # s: what the program promises


def search(*argv, space="vq", sessions="good.npz"):
    return ["--space", space, *(["--sessions", sessions] if sessions is not None else []), *argv]


@pytest.mark.parametrize("out, words", [
    ("used", ["--out used: already used", "empty folder"]), ("good.npz", ["--out good.npz: already used"]),
    ("good.npz/run", ["good.npz/run: cannot be written (Not a directory)", "--out DIR"]),
    ("/proc/run", ["/proc/run: cannot be written", "--out DIR"])])
@pytest.mark.parametrize("verb", [[], ["train"]])
def test_a_run_folder_that_is_used_or_cannot_be_written(verb, out, words, refused):
    refused([*verb, *search("--out", out)], *words)


def test_an_empty_folder_of_the_user_outlives_bad_input(refused, made):
    (made / "mine").mkdir(exist_ok=True)
    refused(search("--out", "mine", "--storage", "nope://x"), "--storage nope://x")
    refused(["train", *search("--out", "mine", sessions="gone.npz")], "gone.npz")
    assert not list((made / "mine").iterdir())


@pytest.mark.parametrize("argv, words", [
    (["--resume", "folder"], ["--resume folder: no run there", "study.journal", "give the folder of a run"]),
    (["--resume", "gone"], ["--resume gone: no run there"]),
    (["--resume", "good.npz"], ["--resume good.npz: no run there"]),
    (["--resume", "nope://bucket/run"], ["nope://bucket/run", "s3://bucket/folder"])])
def test_a_run_to_resume_that_is_none(argv, words, refused):
    refused(argv, *words)


@pytest.fixture
def earlier(program, tmp_path):
    """The folder of a run of plain.py that ended in its first trial."""
    connection.hush()
    space, config, held = api.configure("plain.py", {}, {})
    folder = RunFolder.create(str(tmp_path / "earlier"), "plain")
    folder.lock()
    plan = make_plan(space, config, [sketch(s, config.sessions) for s in api.read(["good.npz"])], print)
    space.propose(runner._open(plan, folder, print, False).ask())
    (folder.path / "config.yaml").write_text(runner._run_yaml(space, config, runner.Options(sessions=["good.npz"])))
    folder.unlock()
    return folder


def test_an_earlier_run_is_not_continued_as_another(earlier, refused, accepted, program, tmp_path):
    resume = ["--resume", str(earlier.path)]
    accepted(resume)
    refused([*resume, "--sessions", "blind.npz"], "sessions or their split changed", "start a new run")
    refused([*resume, "--objective", "correlation"], "searched for nmse", "resume it without --objective")
    changed = (program / "plain.py").read_text().replace("suggest_int('quantizer.codebook_size', 64, 512)",
                                                         "suggest_categorical('quantizer.codebook_size', [64, 128])")
    (tmp_path / "plain.py").write_text(changed)
    refused([*resume, "--space", str(tmp_path / "plain.py")], "quantizer.codebook_size", "it began with")
    earlier.lock()
    refused(resume, "a live search holds this run", f"pid {os.getpid()}")
    earlier.unlock()


@pytest.mark.parametrize("name, text, words", [
    ("study.journal", "garbage\nand more\n", ["study.journal: is damaged", "put back a copy"]),
    ("format.json", '{"version": 99}', ["written in format 99", "use the raycal version"]),
    ("config.yaml", None, ["has no config.yaml", "start a new run"])])
def test_an_earlier_run_that_is_damaged(name, text, words, earlier, refused):
    (earlier.path / name).unlink()
    if text:
        (earlier.path / name).write_text(text)
    refused(["--resume", str(earlier.path)], *words)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "[::1]:{port}", "127.0.0.1:99999"])
def test_an_address_where_no_cluster_answers(address, made, unreachable, monkeypatch, capsys):
    """Ray itself looks for more than a minute, then ends the process."""
    import ray

    monkeypatch.chdir(made)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", unreachable)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        address = address.format(port=silent.getsockname()[1])
        assert cli.main(search("--address", address)) == 2
    err = capsys.readouterr().err
    assert f"--address {address}: no Ray cluster answers there" in err and "leave --address out" in err
    assert not list(made.glob("runs/*"))


@pytest.fixture
def without_gpus(ray_session):
    if ray_session.cluster_resources().get("GPU"):
        pytest.skip("this machine has GPUs: asking for some that are absent was not tested")


@pytest.mark.parametrize("settings, words", [
    ({"training.gpus": 1.0}, ["--gpus-per-trial 1", "no GPU that Ray sees", "--device cpu --gpus-per-trial 0"]),
    ({"training.gpus": 0.25}, ["--gpus-per-trial 0.25", "no GPU"]),
    ({"training.device": "cuda"}, ["device cuda", "no GPU"])])
def test_gpus_that_are_asked_for_and_not_there(settings, words, without_gpus, made, unreachable, monkeypatch, capsys):
    """The real Ray says what there is; no slot starts."""
    with pytest.raises(UserError) as refusal:
        connection.slots(raycal.Config().replace(settings), 4)
    assert all(w in str(refusal.value) for w in words)
    monkeypatch.chdir(made)
    monkeypatch.setattr(connection.Cluster, "grow", unreachable)
    before = {str(p) for p in made.rglob("*")}
    assert cli.main(search(*(w for k, v in settings.items() for w in ("--set", f"{k}={v}")))) == 2
    err = capsys.readouterr().err
    assert all(w in err for w in words), err
    assert len(err.splitlines()) <= 8 and {str(p) for p in made.rglob("*")} - before <= {str(made / "runs")}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_program_itself_refuses_absent_gpus_and_makes_no_pool(made, tmp_path):
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine may have GPUs: asking for some that are absent was not tested")
    scratch = tempfile.mkdtemp(prefix="rc", dir="/tmp")  # short: a socket's path holds 107 bytes
    environment = {**os.environ, "RAY_TMPDIR": scratch, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    try:
        done = subprocess.run([sys.executable, ROOT / "run_search.py", *search("--gpus-per-trial", "1",
                              sessions=str(made / "good.npz"))], cwd=tmp_path, env=environment, capture_output=True,
                              text=True, timeout=60)  # three times what is promised: machines that test are busy
        logs = [p.read_text(errors="replace") for p in pathlib.Path(scratch).glob("*/session_2*/logs/*") if p.is_file()]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) <= 8 and "Traceback" not in done.stderr, done.stderr
    assert "raycal: --gpus-per-trial 1" in done.stderr and "no GPU" in done.stderr and "--device cpu" in done.stderr
    assert logs and not any("SlotPool" in text for text in logs), "Ray started, the pool did not"
    assert not list((tmp_path / "runs").iterdir())
