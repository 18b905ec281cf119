"""What a search leaves holds no credential, and its Ray lets in nobody without the token."""
from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import sys

import pytest

KEY, SECRET = "AKIATESTRAYCALTEST00", "sEcReT-of-raycals-own-tests-0123456789ab"


def holding(folder: pathlib.Path, *secrets: str) -> list[str]:
    """Return the files below a folder that hold one of the secrets."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    return [str(p) for p in files if any(s.encode() in p.read_bytes() for s in secrets)]


@pytest.fixture(scope="module")
def token(ray_session):
    """The file of the token that the Ray of these tests was started with."""
    path = pathlib.Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    assert path.is_file(), "Ray of a search is started with a token"
    return path


def test_the_token_is_its_owners_alone_and_in_no_log(ray_session, token):
    assert stat.S_IMODE(token.stat().st_mode) & 0o077 == 0
    session = pathlib.Path(ray_session._private.worker._global_node.get_session_dir_path())
    assert list(session.glob("logs/*")) and holding(session, token.read_text().strip()) == []


def test_nobody_without_the_token_joins_the_ray_of_a_search(ray_session, token, tmp_path):
    address = ray_session.get_runtime_context().gcs_address
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print(ray.cluster_resources())"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    stranger = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=120,
                              env={**environment, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"})
    assert stranger.returncode != 0 and "CPU" not in stranger.stdout
    assert "nauthenticated" in stranger.stderr or "token" in stranger.stderr, stranger.stderr[-2000:]


def test_no_dashboard_and_no_client_server_listens_beyond_loopback(ray_session):
    """8265 is the dashboard's, 10001 Ray Client's; agents of a node have ports of their own, behind the token."""
    import psutil

    own = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c.laddr for p in own for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening, "Ray listens somewhere"
    loopback = ("127.0.0.1", "::1")
    assert [a for a in listening if a.port in (8265, 10001) and a.ip not in loopback] == []


@pytest.mark.slow
def test_a_search_with_credentials_leaves_none(s3, ray_session, space_file, tmp_path, monkeypatch, capfd):
    import boto3

    import raycal
    from raycal.sessions.simulate import simulate

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    uri = s3[1]
    monkeypatch.setattr(sys, "orig_argv", ["python", "run_search.py", "--sessions", f"https://ada:{SECRET}@host/a.npz"])
    raycal.search(space_file, [simulate(n_neurons=8, n_frames=1500, rate=5.0, seed=1).session], trials=2, pruner="none",
                  confirm_top=0, storage=uri, out=str(tmp_path / "run"))
    assert holding(tmp_path / "run", KEY, SECRET) == []
    session = pathlib.Path(ray_session._private.worker._global_node.get_session_dir_path())
    assert holding(session, KEY, SECRET) == []
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err and KEY not in said.out + said.err
    for found in boto3.resource("s3").Bucket(uri.split("/")[2]).objects.all():
        assert SECRET.encode() not in found.get()["Body"].read(), found.key
