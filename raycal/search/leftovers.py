"""What runs that died left on this machine: processes, Ray's session folders, scratch folders, locks, shared memory."""
from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

SCRATCH = "raycal-"  # then host and pid of its driver
DRIVER = "raycal-driver"  # in the folder of a local Ray's session: the pid of the driver that started it
SEGMENTS = ("plasma", "torch_", "psm_")  # names that Ray, torch and Python give in /dev/shm


def find(out: pathlib.Path) -> list[tuple[str, list[Any], str]]:
    """Return (what, paths or pids, how to remove {}) of each kind; nothing that a live process has is among them."""
    processes = _processes()
    return [("Ray processes", [p.pid for p in _orphans()], "kill {} (the next search does)"),
            ("Ray sessions", list(_sessions(processes)), "rm -r {}"),
            ("scratch folders", list(_scratch()), "rm -r {}"),
            ("locks", list(_locks(out)), "none needed, --resume takes a run over (or rm {})"),
            ("shared memory segments", list(_segments(pathlib.Path("/dev/shm"))), "rm {}")]


def sweep() -> None:
    """Remove what drivers of this user left that died: nobody else will."""
    import ray  # noqa: F401  it brings psutil along
    import psutil

    for process in _orphans():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            process.kill()
    for folder in _scratch():
        if _owned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def mark(session: str) -> None:
    """Note in the folder of a Ray session that this process is its driver, and that it ends with it."""
    pathlib.Path(session, DRIVER).write_text(str(os.getpid()))


def _orphans() -> Iterator[Any]:
    """Yield the Ray processes whose marked driver is dead; the logs that they hold open say of which session they are.

    They look once a second whether their raylet lives, by the time of day: once the clock was set back they do not
    look again before it is where it was.
    """
    import ray  # noqa: F401  it brings psutil along
    import psutil

    dead = {str(p.parent) for p in _ray_folder().glob(f"session_2*/{DRIVER}") if not psutil.pid_exists(_pid(p))}
    for process in psutil.process_iter() if dead else ():
        with contextlib.suppress(OSError, psutil.Error):  # it ended meanwhile, or is another user's
            if "ray" in "".join(process.cmdline()[:1]) and any(_of(dead, f.path) for f in process.open_files()):
                yield process


def _of(sessions: set[str], path: str) -> bool:
    return any(path.startswith(f"{session}/") for session in sessions)


def _pid(path: pathlib.Path) -> int:
    text = path.read_text()
    return int(text) if text.isdecimal() else os.getpid()


def _ray_folder() -> pathlib.Path:
    return pathlib.Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray")


def _processes() -> str:
    """Return the command lines of all processes."""
    import ray  # noqa: F401  it brings psutil along
    import psutil

    return "\n".join(" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))


def _sessions(processes: str) -> Iterator[pathlib.Path]:
    for session in sorted(_ray_folder().glob("session_2*")):
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
