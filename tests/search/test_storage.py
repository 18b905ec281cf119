from __future__ import annotations

import os
import time

import pytest

from raycal.errors import UserError
from raycal.search import storage
from raycal.search.storage import Mirror, fetch


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "grvq-1"
    for name in ("study.journal", "summary.json", "trials/0000/model.pt", "lock", "study.journal.lock", ".summary.77"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"{name} one")
    return path


@pytest.fixture
def uri(tmp_path):
    return f"file://{tmp_path}/bucket/runs"


def contents(root):
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def test_the_run_is_copied_without_locks_and_half_written_files(folder, uri, tmp_path):
    assert Mirror(folder, uri).upload() == 3
    assert contents(tmp_path / "bucket" / "runs") == {
        f"grvq-1/{n}": f"{n} one" for n in ("study.journal", "summary.json", "trials/0000/model.pt")}


def test_only_changed_files_are_sent_again(folder, uri, tmp_path):
    mirror = Mirror(folder, uri)
    mirror.upload()
    assert mirror.upload(force=True) == 0
    (folder / "summary.json").write_text("two, longer than before")
    (folder / "trials/0001").mkdir()
    (folder / "trials/0001/model.pt").write_text("new")
    untouched = (tmp_path / "bucket/runs/grvq-1/study.journal").stat().st_mtime_ns
    assert mirror.upload(force=True) == 2
    copy = contents(tmp_path / "bucket/runs/grvq-1")
    assert copy["summary.json"] == "two, longer than before" and copy["trials/0001/model.pt"] == "new"
    assert (tmp_path / "bucket/runs/grvq-1/study.journal").stat().st_mtime_ns == untouched


def test_uploads_are_spaced_unless_forced(folder, uri, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(storage.time, "monotonic", lambda: now[0])
    mirror = Mirror(folder, uri)
    assert mirror.upload() == 3
    (folder / "summary.json").write_text("changed")
    now[0] += storage.EVERY - 1
    assert mirror.upload() == 0
    now[0] += 2
    assert mirror.upload() == 1


def test_the_journal_is_sent_last(folder, uri, monkeypatch):
    mirror, sent = Mirror(folder, uri), []
    monkeypatch.setattr(mirror, "_send", sent.append)
    mirror.upload()
    assert sent[-1] == folder / "study.journal" and len(sent) == 3


def test_files_that_vanish_while_being_sent_are_passed_over(folder, uri, monkeypatch):
    mirror = Mirror(folder, uri)
    send = mirror._send
    monkeypatch.setattr(mirror, "_send", lambda path: (path.unlink() if path.name == "model.pt" else None, send(path)))
    assert mirror.upload() == 2


def test_a_run_is_fetched_whole(folder, uri, tmp_path):
    Mirror(folder, uri).upload()
    copy = fetch(f"{uri}/grvq-1", tmp_path / "elsewhere")
    assert copy == tmp_path / "elsewhere" / "grvq-1"
    assert contents(copy) == contents(tmp_path / "bucket/runs/grvq-1")


def test_newer_local_files_win_over_fetched_ones(folder, uri, tmp_path):
    Mirror(folder, uri).upload()
    (folder / "summary.json").write_text("newer")
    os.utime(folder / "summary.json", (time.time() + 60,) * 2)
    (folder / "study.journal").write_text("older")
    os.utime(folder / "study.journal", (time.time() - 3600,) * 2)
    fetch(f"{uri}/grvq-1/", tmp_path)
    assert (folder / "summary.json").read_text() == "newer"
    assert (folder / "study.journal").read_text() == "study.journal one"
    assert (folder / "lock").exists(), "what is only here stays"


@pytest.mark.parametrize("bad", ["nothing://bucket/x", "just words"])
def test_an_unusable_address_is_refused_naming_it(bad, folder):
    with pytest.raises(UserError, match=f"--storage {bad}: not a storage"):
        Mirror(folder, bad)


def test_a_storage_that_cannot_be_written_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Mirror(folder, f"file://{tmp_path}/file/runs")


def test_fetching_nothing_is_refused(uri, tmp_path):
    with pytest.raises(UserError, match="nothing is stored there"):
        fetch(f"{uri}/missing", tmp_path)
