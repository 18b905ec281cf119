from __future__ import annotations

import os
import threading
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
    Mirror(folder, uri).upload(force=True)
    assert contents(tmp_path / "bucket" / "runs") == {
        f"grvq-1/{n}": f"{n} one" for n in ("study.journal", "summary.json", "trials/0000/model.pt")}


def test_only_changed_files_are_sent_again(folder, uri, tmp_path):
    mirror = Mirror(folder, uri)
    mirror.upload(force=True)
    (folder / "summary.json").write_text("two, longer than before")
    (folder / "trials/0001").mkdir()
    (folder / "trials/0001/model.pt").write_text("new")
    untouched = (tmp_path / "bucket/runs/grvq-1/study.journal").stat().st_mtime_ns
    mirror.upload(force=True)
    copy = contents(tmp_path / "bucket/runs/grvq-1")
    assert copy["summary.json"] == "two, longer than before" and copy["trials/0001/model.pt"] == "new"
    assert (tmp_path / "bucket/runs/grvq-1/study.journal").stat().st_mtime_ns == untouched


def test_uploads_are_spaced_unless_forced(folder, uri, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(storage.time, "monotonic", lambda: now[0])
    mirror, sent = Mirror(folder, uri), []
    monkeypatch.setattr(mirror, "_send", sent.append)

    def upload():
        mirror.upload()
        mirror._join()
        return len(sent)

    assert upload() == 3
    now[0] += storage.EVERY - 1
    assert upload() == 3
    now[0] += 2
    assert upload() == 6


def test_the_journal_is_sent_last(folder, uri, monkeypatch):
    mirror, sent = Mirror(folder, uri), []
    monkeypatch.setattr(mirror, "_send", sent.append)
    mirror.upload(force=True)
    assert sent[-1] == folder / "study.journal" and len(sent) == 3


def test_checkpoints_that_the_run_drops_are_dropped_there_but_not_those_of_a_folder_that_vanished(folder, uri, tmp_path):
    mirror = Mirror(folder, uri)
    mirror.upload(force=True)
    (folder / "trials/0000/model.pt").unlink()
    mirror.upload(force=True)
    assert set(contents(tmp_path / "bucket/runs/grvq-1")) == {"study.journal", "summary.json"}
    folder.rename(tmp_path / "gone")
    mirror.upload(force=True)
    assert set(contents(tmp_path / "bucket/runs/grvq-1")) == {"study.journal", "summary.json"}


def test_files_that_vanish_while_being_sent_are_passed_over(folder, uri, tmp_path, monkeypatch):
    mirror = Mirror(folder, uri)
    send = mirror._send
    monkeypatch.setattr(mirror, "_send", lambda path: (path.unlink() if path.name == "model.pt" else None, send(path)))
    mirror.upload(force=True)
    assert set(contents(tmp_path / "bucket/runs/grvq-1")) == {"study.journal", "summary.json"}


def test_a_run_is_fetched_whole(folder, uri, tmp_path):
    Mirror(folder, uri).upload(force=True)
    copy = fetch(f"{uri}/grvq-1", tmp_path / "elsewhere")
    assert copy == tmp_path / "elsewhere" / "grvq-1"
    assert contents(copy) == contents(tmp_path / "bucket/runs/grvq-1")


def test_newer_local_files_win_over_fetched_ones(folder, uri, tmp_path):
    Mirror(folder, uri).upload(force=True)
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


def test_a_run_survives_s3_that_errs_now_and_then_and_is_slow(s3, folder, tmp_path):
    faults, uri = s3
    faults.status, faults.every, faults.delay = "503 Slow Down", 4, 0.02
    said = []
    Mirror(folder, uri, said.append).upload(force=True)
    assert not said and faults.refused > 2, "the client of the storage retries by itself"
    copy = fetch(f"{uri}/grvq-1", tmp_path / "elsewhere")
    assert set(contents(copy)) == {"study.journal", "summary.json", "trials/0000/model.pt"}


def test_an_s3_outage_is_said_once_and_the_copy_is_complete_after_it(s3, folder, tmp_path, monkeypatch):
    faults, uri = s3
    monkeypatch.setattr(storage, "EVERY", 0.0)
    said, mirror = [], None
    mirror = Mirror(folder, uri, said.append)
    faults.status = "403 Forbidden"  # not retried by the client
    for _ in range(3):
        mirror.upload()
        mirror._join()
    assert len(said) == 1 and f"--storage {uri}: cannot be written" in said[0] and "goes on without the copy" in said[0]
    with pytest.raises(UserError, match=f"--resume {uri}/grvq-1: cannot be read"):
        fetch(f"{uri}/grvq-1", tmp_path / "elsewhere")
    mirror.upload(force=True)
    assert len(said) == 2 and "the copy there is not complete" in said[1]
    faults.status = ""
    mirror.upload(force=True)
    assert len(said) == 3 and "the copy is complete" in said[2]
    assert len(contents(fetch(f"{uri}/grvq-1", tmp_path / "elsewhere"))) == 3


def test_a_slow_storage_does_not_hold_up_the_search(s3, folder):
    faults, uri = s3
    mirror, gate = Mirror(folder, uri), threading.Event()
    app, faults._app = faults._app, lambda *request: gate.wait() and app(*request)
    mirror.upload()  # returns while the storage has not answered
    mirror.upload()
    gate.set()
    mirror.upload(force=True)
    assert len(mirror._sent) == 3


def test_trying_a_storage_out_leaves_nothing_there_and_says_what_fails(s3, tmp_path):
    faults, uri = s3
    assert abs(storage.try_out(uri)) < 60
    assert not fetchable(uri)
    faults.status = "403 Forbidden"
    with pytest.raises(UserError, match=f"{uri}: cannot be used"):
        storage.try_out(uri)
    assert abs(storage.try_out(f"file://{tmp_path}/bucket")) < 60 and not contents(tmp_path / "bucket")


def fetchable(uri):
    import pyarrow.fs

    fs, root = storage.filesystem(uri)
    return [i for i in fs.get_file_info(pyarrow.fs.FileSelector(root, recursive=True)) if i.is_file]


@pytest.mark.parametrize("uri, above", [
    ("s3://bucket/runs/one", "s3://bucket/runs"), ("s3://bucket/runs/one/", "s3://bucket/runs"),
    ("s3://b/r/one?endpoint_override=http://host:1/&region=x", "s3://b/r?endpoint_override=http://host:1/&region=x")])
def test_a_run_is_stored_above_its_uri_with_the_same_options(uri, above):
    assert storage.parent(uri) == above


def test_what_a_live_search_drops_meanwhile_and_what_no_reader_wants_is_passed_over(s3, folder, tmp_path, monkeypatch):
    _, uri = s3
    for name in ("checkpoint.pt", "events.out.1"):
        (folder / "trials/0000" / name).write_text("large")
    Mirror(folder, uri).upload(force=True)
    read = storage._read

    def late(fs, path):
        if path.endswith("model.pt"):
            fs.delete_file(path)
        return read(fs, path)

    monkeypatch.setattr(storage, "_read", late)
    copy = fetch(f"{uri}/grvq-1", tmp_path / "elsewhere", without=storage.RUNNING)
    assert set(contents(copy)) == {"study.journal", "summary.json"}


@pytest.mark.parametrize("flag, use", [("--storage ", lambda uri, path: Mirror(path, uri)),
                                       ("--resume ", lambda uri, path: fetch(uri, path))])
def test_an_address_that_holds_a_credential_is_refused_without_saying_it(folder, flag, use):
    with pytest.raises(UserError) as refusal:
        use("s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI@bucket/runs", folder)
    said = str(refusal.value)
    assert said.startswith(f"{flag}s3://bucket/runs: holds a credential") and "AWS_PROFILE" in said
    assert "AKIA" not in said and "wJalr" not in said
