"""A cluster of several raylets on this machine, each with a folder of its own, and searches that join it."""
from __future__ import annotations

import importlib.util
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


class Program:
    """A program in a process of its own, and what it has said by the second."""

    def __init__(self, *command: str, cwd: pathlib.Path, **environment: str):
        self.said: list[tuple[float, str]] = []
        self._began = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment}
        environment.pop("RAY_ADDRESS", None)
        self.process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
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
        self._apart: list[Program] = []

    def join(self, **resources):
        return self._cluster.add_node(object_store_memory=100 * 2**20, **resources)

    def leave(self, node) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def join_apart(self, folder: pathlib.Path, cpus: int = 1) -> Program:
        """Start a node that sees an empty folder where the others see one, and return the program it dies with.

        Its processes find its number in the environment, as APART.
        """
        ray = pathlib.Path(sys.executable).with_name("ray")
        # an address of its own: a driver joins the raylet that has its machine's, and that is the head's
        start = (f"mount -t tmpfs none {folder} && exec {ray} start --address {self.address} --num-cpus {cpus} "
                 f"--node-ip-address 127.0.0.{2 + len(self._apart)} --object-store-memory {100 * 2**20} "
                 "--disable-usage-stats --block")
        self._apart.append(Program("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
                                   start, cwd=ROOT, APART=str(len(self._apart))))
        self._apart[-1].hears("Ray runtime started", 200)  # two that start at once on one machine take the same ports
        return self._apart[-1]

    def end(self) -> None:
        for node in self._apart:
            node.stop()
        self._cluster.shutdown()
        shutil.rmtree(self.temp_dir, ignore_errors=True)


def _beside(name: str):
    """Return a module of this folder."""
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def machines():
    return _beside("machines")


@pytest.fixture(scope="session")
def shell():
    return _beside("steps")


@pytest.fixture
def raylets():
    pytest.importorskip("ray")
    found = Raylets()
    yield found
    found.end()


@pytest.fixture
def program(tmp_path):
    """Start Python programs that end with the test."""
    started = []

    def start(*arguments: str) -> Program:
        started.append(Program(sys.executable, *arguments, cwd=tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def search(raylets, program):
    """Start searches that join the raylets."""
    return lambda *flags: program(str(ROOT / "run_search.py"), "--address", raylets.address, *flags)
