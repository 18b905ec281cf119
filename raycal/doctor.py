"""Whether a machine is fit for a long search: a line a check, and how to mend what is not.

    raycal doctor --out runs --storage s3://bucket/runs
"""
from __future__ import annotations

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from raycal.errors import UserError

PACKAGES = ("torch", "ray", "optuna", "numpy")  # whose version numbers and resuming depend on
GIB = 2**30
FREE_DISK = 1.0 * GIB  # bytes that journal, event files and a few models take
FREE_SHM = 0.25 * GIB  # bytes; Docker gives 0.06 GiB, and Ray then keeps the recordings on the disk
FREE_MEMORY = 2.0 * GIB  # bytes: Ray takes 0.4, a slot 0.9
RAY_STOPS = 0.95  # share of a full disk at which Ray writes no further object to it
OPEN_FILES = 1024
SKEW = 5.0  # s; a resume takes the newer of two files


@dataclass(frozen=True)
class Finding:
    """What a check found. state: "ok", "note" (worth knowing) or "bad" (stands in the way); fix: how to mend it."""

    name: str
    found: str
    state: str = "ok"
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.state:<6}{self.name:<14}{self.found}" + (f"; fix: {self.fix}" if self.fix else "")


def examine(out: str = "runs", storage: str = "", address: str = "") -> Iterator[Finding]:
    """Yield the findings of every check; none of them raises, and none changes anything it did not make itself."""
    folder = _existing(pathlib.Path(out))
    checks: list[Callable[[], list[Finding]]] = [
        versions, memory, shared_memory, lambda: [disk(folder)], lambda: [scratch()], lambda: [open_files()],
        lambda: [gpu()], lambda: [ports(address)], lambda: [clock(folder)]]
    if storage:
        checks.append(lambda: [reach(storage)])
    checks.append(lambda: leftovers(out))
    for check in checks:
        yield from check()


def versions() -> list[Finding]:
    """Compare python and the packages that matter with what raycal's own metadata asks for."""
    import importlib.metadata

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    own = importlib.metadata.metadata("raycal")
    wanted = {r.name: r.specifier for r in map(Requirement, importlib.metadata.requires("raycal") or ()) if not r.marker}
    python = ".".join(map(str, sys.version_info[:3]))
    found = [_version("python", python, SpecifierSet(own["Requires-Python"]), "python 3.11 in a new environment")]
    if found[0].state == "ok" and sys.version_info[:2] != (3, 11):
        found = [Finding("python", f"{python}; raycal is tested with 3.11", "note")]
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        found.append(_version(name, version, wanted[name], "pip install -c constraints.txt -e ."))
    return found


def _version(name: str, version: str, wanted, fix: str) -> Finding:
    if version and wanted.contains(version, prereleases=True):
        return Finding(name, version)
    return Finding(name, f"{version or 'not installed'}; raycal wants {wanted}", "bad", fix)


def memory() -> list[Finding]:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # no Linux
        return []
    free = int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) * 1024
    return [_room("memory", free, FREE_MEMORY, "available", "end other programs, or search with --max-concurrent 1")]


def shared_memory() -> list[Finding]:
    place = pathlib.Path("/dev/shm")
    if not place.is_dir():  # macOS has none
        return []
    return [_room("/dev/shm", shutil.disk_usage(place).free, FREE_SHM, "free for the recordings",
                  "free it, or mount it larger (docker run --shm-size=8g; mount -o remount,size=8G /dev/shm)")]


def disk(folder: pathlib.Path) -> Finding:
    """Write into the folder where the run will go, and look how much more fits."""
    try:
        with tempfile.TemporaryFile(dir=folder) as f:
            f.write(b"\0" * 65536)
    except OSError as e:
        return Finding("disk", f"{folder} cannot be written ({e.strerror})", "bad",
                       "make it writable, or give another folder with --out DIR")
    return _room("disk", shutil.disk_usage(folder).free, FREE_DISK, f"free in {folder}",
                 "free some, or give a folder on another disk with --out DIR")


def scratch() -> Finding:
    """Look at the disk of Ray's logs and of what its object store has no room for."""
    place = pathlib.Path(os.environ.get("RAY_TMPDIR") or "/tmp")
    if not place.is_dir():
        return Finding("Ray's disk", f"{place} does not exist", "bad", "make it, or unset RAY_TMPDIR")
    usage = shutil.disk_usage(place)
    full = 1 - usage.free / usage.total
    found = f"{place} is {full:.0%} full"
    if full > RAY_STOPS:
        return Finding("Ray's disk", f"{found}; above {RAY_STOPS:.0%} Ray writes no objects", "bad",
                       "free some, or set RAY_TMPDIR to a short path on another disk")
    return Finding("Ray's disk", found)


def open_files() -> Finding:
    """Ray raises the limit itself as far as the hard one goes."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reached = max(soft, min(hard if hard != resource.RLIM_INFINITY else 65536, 65536))
    if reached < OPEN_FILES:
        return Finding("open files", f"{reached} at most; a search opens up to {OPEN_FILES}", "bad",
                       "ulimit -n 65536, or raise nofile in /etc/security/limits.conf")
    return Finding("open files", f"{soft}, Ray raises it to {reached}" if reached > soft else f"{soft}")


def gpu() -> Finding:
    """Ask the driver, then torch; where the driver shows a GPU that torch cannot use, training would take the CPU."""
    try:
        shown = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                               capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return Finding("GPU", "none (no nvidia-smi): training takes the CPU", "note")
    except subprocess.TimeoutExpired:
        return Finding("GPU", "nvidia-smi does not answer within 30 s", "bad", "restart the driver, or the machine")
    lines = shown.stdout.strip().splitlines()
    if shown.returncode or not lines:
        said = (shown.stdout + shown.stderr).strip().splitlines()
        return Finding("GPU", f"nvidia-smi fails ({said[0] if said else shown.returncode})", "bad",
                       "reinstall or restart the NVIDIA driver")
    import torch

    found = f"{len(lines)} x {lines[0].replace(', ', ', driver ')}"
    if torch.cuda.is_available():
        return Finding("GPU", f"{found}, torch sees {torch.cuda.device_count()}")
    return Finding("GPU", f"{found}, but torch {torch.__version__} sees none", "bad",
                   "install the build of torch that this driver takes (pytorch.org), or unset CUDA_VISIBLE_DEVICES")


def ports(address: str = "") -> Finding:
    """Ray's processes talk through this machine's own address; a cluster's head has to answer."""
    if address and address != "auto":
        from raycal.search.connection import check_listening

        try:
            check_listening(address)
        except UserError as e:
            return Finding("ports", str(e).split("; ")[0], "bad", "start the cluster (ray up), or open its port")
        return Finding("ports", f"{address} answers")
    host = _own_address()
    try:
        with socket.create_server((host, 0)) as server, socket.create_connection(server.getsockname(), timeout=5.0):
            return Finding("ports", f"{host} reaches itself")
    except OSError as e:
        return Finding("ports", f"{host} does not reach itself ({e.strerror or e})", "bad",
                       "let the firewall or VPN pass this machine's own address")


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))  # sends nothing: it asks for the way there
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def clock(folder: pathlib.Path) -> Finding:
    """Compare this clock with the one that stamps files in the folder of the run."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as f:
            return _skew("clock", time.time() - os.stat(f.name).st_mtime, f"the file system of {folder}")
    except OSError as e:
        return Finding("clock", f"not compared: {folder} cannot be written ({e.strerror})", "note")


def reach(uri: str) -> Finding:
    """Write, read and delete a small file there, and compare its time with this clock."""
    from raycal.search.storage import try_out

    began = time.monotonic()
    try:
        skew = try_out(uri)
    except UserError as e:
        return Finding("storage", str(e).split("; ")[0], "bad",
                       "check the address, the credentials (AWS_ACCESS_KEY_ID ...) and the network")
    if skew is not None and abs(skew) > SKEW:
        return _skew("storage", skew, uri)
    return Finding("storage", f"{uri}: written, read and deleted in {time.monotonic() - began:.1f} s")


def _skew(name: str, seconds: float, other: str) -> Finding:
    if abs(seconds) <= SKEW:
        return Finding(name, f"agrees with {other} within {SKEW:g} s")
    return Finding(name, f"this machine is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} {other}", "bad",
                   "set both by NTP (timedatectl set-ntp true): a resume takes the newer of two files")


def leftovers(out: str) -> list[Finding]:
    """Name what dead runs left: none of it stands in the way of a search, all of it may be removed."""
    from raycal.search import leftovers as left

    found = [Finding("dead runs", f"{kind} of dead processes: {_some(paths)}", "note", fix.format(_arguments(paths)))
             for kind, paths, fix in left.find(pathlib.Path(out)) if paths]
    return found or [Finding("dead runs", "left nothing")]


def _some(paths: list[Any]) -> str:
    size = sum(_bytes(p) for p in paths if isinstance(p, pathlib.Path))
    return f"{len(paths)}" + (f", {size / 1e6:.0f} MB" if size >= 1e6 else "")


def _arguments(paths: list[Any]) -> str:
    return " ".join(map(str, paths[:3])) + (" ..." if len(paths) > 3 else "")


def _bytes(path: pathlib.Path) -> int:
    files = [path] if not path.is_dir() else [p for p in path.rglob("*") if not p.is_symlink()]
    sizes = 0
    for file in files:
        try:
            sizes += file.stat().st_size if file.is_file() else 0
        except OSError:  # a socket, or gone meanwhile
            continue
    return sizes


def _room(name: str, free: float, wanted: float, where: str, fix: str) -> Finding:
    found = f"{free / GIB:.3g} GiB {where}"
    return Finding(name, found) if free >= wanted else Finding(name, f"{found}, {wanted / GIB:.3g} wanted", "bad", fix)


def _existing(path: pathlib.Path) -> pathlib.Path:
    """Return the nearest folder above that is there."""
    path = path.resolve()
    return next(p for p in (path, *path.parents) if p.is_dir())
