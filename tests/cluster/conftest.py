"""A cluster of several raylets on this machine, each with a folder of its own, and searches that join it."""
from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import raycal

ROOT = pathlib.Path(raycal.__file__).parents[1]


class Search:
    """`run_search.py` in a process of its own, and what it has said by the second."""

    def __init__(self, *flags: str, address: str, cwd: pathlib.Path):
        self.said: list[tuple[float, str]] = []
        self._began = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        environment.pop("RAY_ADDRESS", None)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "run_search.py"), "--address", address, *flags], cwd=cwd, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.said.append((time.monotonic() - self._began, line.rstrip()))

    def hears(self, pattern: str, timeout: float) -> re.Match:
        """Wait for a line and return the match; what was said instead is the failure."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self.process.poll() is not None
            found = next(filter(None, (re.search(pattern, line) for _, line in list(self.said))), None)
            if found:
                return found
            assert not ended and time.monotonic() < deadline, f"{pattern!r} was not said:\n{self}"
            time.sleep(0.2)

    def ends(self, timeout: float) -> int:
        self.process.wait(timeout)
        self._thread.join()
        return self.process.returncode

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join()
        self.process.stdout.close()

    def __str__(self) -> str:
        return "\n".join(f"{second:6.1f} s  {line}" for second, line in self.said)


class Raylets:
    """Nodes that come and go."""

    def __init__(self, head_cpus: int = 0):
        from ray.cluster_utils import Cluster

        self.temp_dir = tempfile.mkdtemp(prefix="rc", dir="/tmp")  # short: a socket's path holds 107 bytes
        self._cluster = Cluster(initialize_head=True, head_node_args={
            "num_cpus": head_cpus, "object_store_memory": 100 * 2**20, "temp_dir": self.temp_dir,
            "include_dashboard": False})
        self.address = self._cluster.address

    def join(self, **resources):
        return self._cluster.add_node(object_store_memory=100 * 2**20, **resources)

    def leave(self, node) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def end(self) -> None:
        self._cluster.shutdown()
        shutil.rmtree(self.temp_dir, ignore_errors=True)


@pytest.fixture
def raylets():
    pytest.importorskip("ray")
    found = Raylets()
    yield found
    found.end()


@pytest.fixture
def search(raylets, tmp_path):
    """Start searches that join the raylets."""
    started = []

    def start(*flags: str) -> Search:
        started.append(Search(*flags, address=raylets.address, cwd=tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.stop()
