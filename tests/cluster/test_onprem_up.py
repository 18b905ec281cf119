"""`ray up` of cluster/onprem.yaml as it is, on three machines on this box that share no disk, and searches over them.

    pytest -m cloud -s tests/cluster/test_onprem_up.py       # root on Linux; minutes; prints how long each step took
"""
from __future__ import annotations

import os
import pathlib
import pwd
import re
import subprocess
import sys

import pytest
import yaml

import raycal

pytestmark = [pytest.mark.cloud, pytest.mark.root, pytest.mark.timeout(3600)]
ROOT = pathlib.Path(raycal.__file__).parents[1]
FILE = "cluster/onprem.yaml"
PROVIDER = yaml.safe_load((ROOT / FILE).read_text())["provider"]
ADDRESSES = [PROVIDER["head_ip"], *PROVIDER["worker_ips"]]
SEARCH = ("--space", "checkout/tests/tiny.py", "--address", "auto", "--pruner", "none", "--sampler", "random",
          "--no-confirm")
WIDE = os.cpu_count() + 1  # workers of a trial, more than a machine has CPUs


def own_home() -> str:
    """Return the home that ssh knows, whatever HOME says."""
    return pwd.getpwuid(os.getuid()).pw_dir


@pytest.fixture
def own_key():
    """What gives the public half of this user's key; one is made where none is."""
    key = pathlib.Path(own_home(), ".ssh", "id_ed25519")
    made = not key.exists()
    if made:
        key.parent.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    yield lambda: subprocess.run(["ssh-keygen", "-y", "-f", key], check=True, capture_output=True, text=True).stdout
    if made:
        key.unlink()
        key.with_suffix(".pub").unlink()


@pytest.fixture
def lab(machines, tmp_path, monkeypatch, own_key):
    """The three machines of the file, which take the key that it names."""
    if machines.lacking():
        pytest.skip(f"{machines.lacking()}: ray up of {FILE} was not tested")
    for name, value in {"HOME": own_home(), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1", "TERM": "dumb",
                        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    state = pathlib.Path("/tmp/ray/cluster-raycal-onprem.state")  # Ray's provider keeps it, beside a lock, for good
    gateway = ADDRESSES[0].rsplit(".", 1)[0] + ".1/24"
    found = machines.Machines(tmp_path / "machines", gateway, "rcop0", own_key, named="127.0.1.1")
    for address in ADDRESSES:
        found.start(f"op{address.rsplit('.', 1)[1]}", address)
    yield found
    found.end()
    for left in (state, state.with_suffix(".lock")):
        left.unlink(missing_ok=True)


def rays(machine: str) -> list[str]:
    """Return the commands of Ray's own that run on a machine."""
    pids = subprocess.run(["ip", "netns", "pids", machine], check=True, capture_output=True, text=True).stdout.split()
    commands = [subprocess.run(["ps", "-o", "args=", "-p", pid], capture_output=True, text=True).stdout for pid in pids]
    return [c for c in commands if "raylet" in c or "gcs_server" in c]


def test_a_search_on_three_machines_without_a_disk_in_common(lab, shell):
    steps = shell.Steps()

    def ray(verb: str, *rest: str):
        fresh = [] if verb == "down" else ["--no-config-cache"]  # which knows no cache
        return shell.Command(steps, "ray", verb, *fresh, *rest, cwd=ROOT)

    def nodes() -> int:
        status = ray("exec", FILE, "ray status")
        status.ends(120)
        told = "\n".join(status.lines)
        active = told[told.find("Active:"):told.find("Pending:")]
        return sum(map(int, re.findall(r"^ *(\d+) \S", active, re.MULTILINE)))  # nodes of a kind share a line

    ray("up", "-y", FILE).ends(1200)
    steps.done("ray up")
    shell.until(lambda: nodes() == 3, 300, "not all machines joined")
    steps.done("three nodes")
    wide = ray("submit", FILE, "run_search.py", "--", *SEARCH, "--epochs", "9", "--max-concurrent", "1",
               "--trials", "2", "--workers-per-trial", str(WIDE), "--out", "wide")
    wide.ends(1800)
    assert any("2 trials complete, 0 stopped early, 0 failed" in line for line in wide.lines)
    steps.done("trials over two machines")

    search = ray("submit", FILE, "run_search.py", "--", *SEARCH, "--epochs", "100", "--max-concurrent", "6",
                 "--trials", "8", "--out", "run")
    search.hears(r"trial +\d+ +nmse ", 1200)
    lab.stop(f"op{ADDRESSES[-1].rsplit('.', 1)[1]}")  # in the middle of a trial of each of its slots
    search.ends(1800)
    assert any("8 trials complete, 0 stopped early, 0 failed" in line for line in search.lines)
    steps.done("a search on all, a machine lost")
    left = ray("exec", FILE, "ls run/best/model.pt run/report.html && ls run/trials/*/model.pt | wc -l")
    left.ends(120)
    assert "5" in left.lines, "what workers on other machines trained is on the head"
    ray("down", "-y", FILE).ends(600)
    steps.done("ray down")
    shell.until(lambda: not any(map(rays, lab.up)), 180, "a machine still runs Ray")
    steps.done("nothing left")  # raylets of the others end a minute after their head is gone
    print(steps)
