"""What runs that died left on this machine: Ray's session folders, scratch folders, locks, shared memory."""
from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Iterator

SCRATCH = "raycal-"  # then host and pid of its driver
SEGMENTS = ("plasma", "torch_", "psm_")  # names that Ray, torch and Python give in /dev/shm


def find(out: pathlib.Path) -> list[tuple[str, list[pathlib.Path], str]]:
    """Return (what, where, how to remove {}) of each kind; nothing that a live process has is among them."""
    processes = _processes()
    return [("Ray sessions", list(_sessions(processes)), "rm -r {}"),
            ("scratch folders", list(_scratch()), "rm -r {}"),
            ("locks", list(_locks(out)), "none needed, --resume takes a run over (or rm {})"),
            ("shared memory segments", list(_segments(pathlib.Path("/dev/shm"))), "rm {}")]


def sweep() -> None:
    """Remove the scratch folders of this user's drivers that died: nobody else will."""
    for folder in _scratch():
        if _owned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _processes() -> str:
    """Return the command lines of all processes."""
    import ray  # noqa: F401  it brings psutil along
    import psutil

    return "\n".join(" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))


def _sessions(processes: str) -> Iterator[pathlib.Path]:
    for session in sorted(pathlib.Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray").glob("session_2*")):
        if session.is_dir() and session.name not in processes:
            yield session


def _scratch() -> Iterator[pathlib.Path]:
    import ray  # noqa: F401  it brings psutil along
    import psutil

    for folder in sorted(pathlib.Path(tempfile.gettempdir()).glob(f"{SCRATCH}{socket.gethostname()}-*-*")):
        pid = folder.name.split("-")[-2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            yield folder


def _locks(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """A lock is dead when its file can be locked: the one of a live driver cannot."""
    for path in sorted([*out.glob("lock"), *out.glob("*/lock")]):
        with contextlib.suppress(OSError), open(path, "rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield path


def _segments(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """Segments of this user that no process has open or mapped."""
    own = [p for p in place.glob("*") if p.name.startswith(SEGMENTS) and _owned(p)]
    held = _held(own) if own else set()
    yield from sorted(set(own) - held)


def _owned(path: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_uid == os.getuid()
    return False


def _held(paths: list[pathlib.Path]) -> set[pathlib.Path]:
    """Return those of the paths that some process has mapped or open (Linux, as /dev/shm is)."""
    held: set[pathlib.Path] = set()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            maps = (process / "maps").read_text()
            held |= {p for p in paths if str(p) in maps}
            held |= {p for p in paths for f in (process / "fd").iterdir() if _same(f, p)}
    return held


def _same(descriptor: pathlib.Path, path: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):  # closed meanwhile
        return os.readlink(descriptor) == str(path)
    return False
