from __future__ import annotations

import resource
import shutil
import threading

import fsspec
import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions import remote
from raycal.sessions.readers import npz, read
from raycal.sessions.session import Session

BODY = np.random.default_rng(0).bytes(3 * 2**20 + 17)


@pytest.fixture
def server(loopback):
    loopback.files["/data/mouse.bin"], loopback.url = BODY, f"{loopback.address}/data/mouse.bin?key=secret"
    return loopback


def test_a_file_is_fetched_once_under_its_own_name(server, tmp_path):
    path = remote.fetch(server.url, tmp_path)
    assert path.read_bytes() == BODY and path.name == "mouse.bin" and path.parent.parent == tmp_path
    assert server.sent == len(BODY)
    assert remote.fetch(server.url, tmp_path) == path and server.sent == len(BODY)
    assert not list(tmp_path.rglob("*.part"))


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, tmp_path):
    server.breaks = [2**20]
    assert remote.fetch(server.url, tmp_path).read_bytes() == BODY
    assert server.sent == len(BODY), "no byte was served twice"
    assert server.asked[-1][::2] == ("GET", f"bytes={2**20}-{len(BODY) - 1}")


def test_a_download_goes_on_after_another_start(server, tmp_path):
    server.breaks = [2**20, 0, 0]
    with pytest.raises(UserError, match=r"mouse.bin: cannot be fetched .*network and try again; 1.0 MB are kept"):
        remote.fetch(server.url, tmp_path)
    assert not list(tmp_path.rglob("mouse.bin"))
    server.breaks = []
    assert remote.fetch(server.url, tmp_path).read_bytes() == BODY and server.sent == len(BODY)


@pytest.mark.parametrize("length", [True, False])
def test_without_ranges_it_starts_again_from_the_beginning(server, tmp_path, length):
    server.ranges, server.length = False, length
    assert remote.fetch(server.url, tmp_path / "whole").read_bytes() == BODY
    if length:
        server.breaks, server.sent = [2**20], 0
        assert remote.fetch(server.url, tmp_path / "broken").read_bytes() == BODY
        assert server.sent >= 2**20 + len(BODY)


@pytest.mark.parametrize("change", ["tag", "size"])
def test_a_changed_file_is_fetched_anew(server, tmp_path, change):
    first = remote.fetch(server.url, tmp_path)
    server.files["/data/mouse.bin"], server.tag = (BODY[::-1], '"2"') if change == "tag" else (BODY[:-1], None)
    again = remote.fetch(server.url, tmp_path)
    assert again.read_bytes() != BODY and again != first and again.name == first.name


def test_a_part_of_another_version_is_not_continued(server, tmp_path):
    server.breaks = [2**20, 0]
    with pytest.raises(UserError):
        remote.save(server.url, tmp_path / "a.bin")
    server.files["/data/mouse.bin"], server.tag, server.breaks = BODY[::-1], '"2"', []
    remote.save(server.url, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY[::-1]


def test_progress_counts_the_bytes(server, tmp_path):
    seen = []
    remote.fetch(server.url, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(BODY), len(BODY)) and seen == sorted(seen)


def test_several_at_once_fetch_it_once(server, tmp_path):
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(remote.fetch(server.url, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and len(paths) == 4 and paths[0].read_bytes() == BODY and server.sent == len(BODY)


@pytest.mark.parametrize("status, message", [(404, "no such file; check the address"), (403, "access is refused"),
                                             (401, "access is refused"), (500, "cannot be fetched .*network")])
def test_what_the_server_refuses_is_said_without_the_secret(server, tmp_path, status, message):
    server.status = status
    with pytest.raises(UserError, match=f"^http://127.0.0.1:[0-9]+/data/mouse.bin: {message}") as caught:
        remote.fetch(server.url, tmp_path)
    assert "secret" not in str(caught.value)


def test_no_network_is_said(tmp_path):
    with pytest.raises(UserError, match="http://127.0.0.1:9/a.npz: cannot be fetched .*check the network"):
        remote.fetch("http://127.0.0.1:9/a.npz", tmp_path)  # the discard port: nothing listens


@pytest.mark.parametrize("bad", ["nothing://host/a.npz", "https:///", "s3://"])
def test_an_unusable_address_is_refused_naming_it(bad, tmp_path):
    with pytest.raises(UserError, match=f"^{bad.rstrip('/')}"):
        remote.fetch(bad, tmp_path)


def test_a_disk_too_small_is_said_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(UserError, match=r"mouse.bin: takes 3 MB, .* has 0 MB free; make room or choose another folder by RAYCAL_CACHE"):
        remote.fetch(server.url, tmp_path)
    assert server.sent == 0


def test_a_disk_that_fills_up_is_said_and_what_is_there_stays(server, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))  # no file may grow beyond: writing fails
    try:
        with pytest.raises(UserError, match=r"mouse.bin: cannot be written to .*; make room or choose another folder by RAYCAL_CACHE"):
            remote.fetch(server.url, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert remote.fetch(server.url, tmp_path).read_bytes() == BODY


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYCAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"mouse.bin: cannot be written to .*RAYCAL_CACHE"):
        remote.fetch(server.url)


def test_file_systems_of_fsspec_serve(tmp_path):
    with fsspec.open("memory://folder/mouse.bin", "wb") as f:
        f.write(BODY)
    assert remote.fetch("memory://folder/mouse.bin", tmp_path).read_bytes() == BODY
    (tmp_path / "a.bin").write_bytes(BODY)
    assert remote.fetch(f"file://{tmp_path}/a.bin", tmp_path).read_bytes() == BODY
    with pytest.raises(UserError, match="memory://folder: is a folder"):
        remote.fetch("memory://folder", tmp_path)
    with pytest.raises(UserError, match="memory://folder/gone.bin: no such file"):
        remote.fetch("memory://folder/gone.bin", tmp_path)


def test_recordings_are_read_from_urls(server, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYCAL_CACHE", str(tmp_path / "cache"))
    npz.write(Session.build(id="m", traces=np.random.default_rng(1).normal(size=(30, 3)), rate=5.0), tmp_path / "m.npz")
    server.files["/data/mouse.bin"] = (tmp_path / "m.npz").read_bytes()
    session, = read(server.url)
    assert session.id == "m" and session.source == remote.shown(server.url) and len(server.asked) == 2


@pytest.fixture
def bucket(monkeypatch):
    """An S3 bucket on loopback; yields the client that fills it."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    s3 = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    s3.start()
    address = "http://{}:{}".format(*s3.get_host_and_port())
    for key, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": address,
                       "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(key, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="lab")
    yield client
    s3.stop()


def test_s3_serves_resumes_and_sees_changes(bucket, tmp_path, monkeypatch):
    bucket.put_object(Bucket="lab", Key="mice/mouse.bin", Body=BODY)
    monkeypatch.setattr(remote, "BLOCK", 2**20)
    url, seen = "s3://lab/mice/mouse.bin", []

    def interrupted(done, total):
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        remote.fetch(url, tmp_path, interrupted)
    path = remote.fetch(url, tmp_path, interrupted)
    assert path.read_bytes() == BODY and seen == [2**20, 2**21, 3 * 2**20, len(BODY)]
    bucket.put_object(Bucket="lab", Key="mice/mouse.bin", Body=BODY[:99])
    assert remote.fetch(url, tmp_path).read_bytes() == BODY[:99]
    with pytest.raises(UserError, match="s3://lab/mice/gone.bin: no such file"):
        remote.fetch("s3://lab/mice/gone.bin", tmp_path)
    with pytest.raises(UserError, match="s3://lab/mice: is a folder"):
        remote.fetch("s3://lab/mice", tmp_path)


@pytest.mark.parametrize("text, public", [
    ("--sessions https://ada:pass@host/a.nwb,b.npz", "--sessions https://host/a.nwb,b.npz"),
    ("get 's3://b/a.npz?X-Amz-Signature=abc&X-Amz-Date=1' now", "get 's3://b/a.npz' now"),
    ("https://host/a?access_token=abc https://host/b?download=1", "https://host/a https://host/b?download=1"),
    ("s3://bucket/runs?region=us-west-2&scheme=http", "s3://bucket/runs?region=us-west-2&scheme=http"),
    ("worms/*.h5 allen:501940850 a@b", "worms/*.h5 allen:501940850 a@b")])
def test_what_is_written_down_holds_no_password_and_no_signature(text, public):
    assert remote.without_secrets(text) == public
