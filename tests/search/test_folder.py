from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from raycal.errors import UserError
from raycal.search import folder as folders
from raycal.search.folder import RunFolder, config_of, write_atomically

HOLD = """
import sys
from raycal.search.folder import RunFolder
run = RunFolder.existing(sys.argv[1])
run.lock()
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def made(tmp_path):
    run = RunFolder.create(str(tmp_path / "run"), "grvq")
    run.journal.write_text("")
    return run


def test_atomic_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    write_atomically(target, "first, which is longer")
    write_atomically(target, b"second")
    assert target.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["a.json"]


def test_failed_atomic_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_atomically(target, "old")
    monkeypatch.setattr(folders.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, "new")
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_folders_without_out_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = RunFolder.create(None, "grvq"), RunFolder.create(None, "grvq")
    assert re.fullmatch(r"grvq-\d{8}-1", first.path.name) and re.fullmatch(r"grvq-\d{8}-2", second.path.name)
    assert first.path.parent == tmp_path / "runs" and first.path.is_absolute()


def test_an_empty_folder_may_be_given_and_a_used_one_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    RunFolder.create(str(tmp_path / "empty"), "vq")
    with pytest.raises(UserError, match=r"already used.*--resume .*empty"):
        RunFolder.create(str(tmp_path / "empty"), "vq")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="already used"):
        RunFolder.create(str(tmp_path / "file"), "vq")


def test_a_folder_that_cannot_be_written_is_refused_naming_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run: cannot be written.*--out"):
        RunFolder.create(str(tmp_path / "file" / "run"), "vq")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder.create(str(tmp_path / "run"), "vq")


def test_resuming_a_folder_without_a_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=f"--resume {path}: no run there"):
            RunFolder.existing(str(path))


@pytest.mark.parametrize("identity, version", [('{"version": 99}', "99"), (None, "0"), ("{broken", "0"), ("[]", "0")])
def test_another_format_is_refused_by_name(made, identity, version):
    made.path.joinpath("format.json").unlink()
    if identity:
        made.path.joinpath("format.json").write_text(identity)
    with pytest.raises(UserError, match=f"written in format {version}, this raycal reads format 1"):
        RunFolder.existing(str(made.path))


def test_config_of_a_run_is_its_config_yaml(made):
    (made.path / "config.yaml").write_text("")
    assert config_of(str(made.path)) == str(made.path / "config.yaml")


def test_a_second_driver_on_a_live_run_is_refused_naming_host_and_pid(made):
    import socket

    with subprocess.Popen([sys.executable, "-c", HOLD, str(made.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as other:
        assert other.stdout.readline() == "held\n"
        owner = f"host {socket.gethostname()}, pid {other.pid}"
        with pytest.raises(UserError, match=f"live search holds this run .{owner}"):
            made.lock()
        other.kill()
        other.wait()
    made.lock()  # a dead driver holds nothing
    made.unlock()


def test_a_lock_can_be_taken_again_after_it_was_given_back(made):
    made.lock()
    again = RunFolder.existing(str(made.path))
    with pytest.raises(UserError, match=f"pid {os.getpid()}"):
        again.lock()
    made.unlock()
    made.unlock()
    again.lock()
    again.unlock()


@pytest.mark.parametrize("content, kept", [(b'{"a": 1}\n{"b": 2}\n{"c"', b'{"a": 1}\n{"b": 2}\n'), (b'{"a"', b""),
                                           (b'{"a": 1}\n', b'{"a": 1}\n'), (b"", b"")])
def test_a_torn_journal_is_cut_to_its_last_full_line(made, content, kept):
    made.journal.write_bytes(content)
    made.path.joinpath("study.journal.lock").write_text("")
    made.repair_journal()
    assert made.journal.read_bytes() == kept
    assert not list(made.path.glob("study.journal.*"))


def test_replacing_a_folder_leaves_checkpoints_and_event_files_out(made):
    for number, text in ((3, "three"), (4, "four")):
        source = made.trial(number)
        source.mkdir()
        for name in ("model.pt", "checkpoint.pt", "events.out.tfevents.1", ".model.pt.77"):
            (source / name).write_text(text)
        made.path.joinpath(".best.new").mkdir(exist_ok=True)  # what a crash left
        made.replace_folder(source, "best")
        assert [p.name for p in made.path.joinpath("best").iterdir()] == ["model.pt"]
        assert made.path.joinpath("best", "model.pt").read_text() == text
    assert not [p for p in made.path.iterdir() if p.name.startswith(".")]
    assert made.trial(3) == pathlib.Path(made.path, "trials", "0003")
