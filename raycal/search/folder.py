"""The run folder: where everything of a run lives, written whole or not at all.

    study.journal  config.yaml  leaderboard.csv  summary.json  best/  trials/0007/  lock
"""
from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import shutil
import socket

from raycal.errors import UserError
from raycal.search.patience import Patience

VERSION = 1  # of the folder's layout; an older or newer one is refused by name


def write_atomically(path: pathlib.Path, data: bytes | str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as f:
            f.write(data.encode() if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # there is one only where writing failed


class RunFolder:
    """A run folder held by this process: one driver at a time, by a lock that dies with it."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.patiently = Patience(path)  # a search that runs puts one here that waits
        self._lock = None
        self._found = False  # an empty folder that the user had made

    @classmethod
    def create(cls, out: str | None, space: str) -> RunFolder:
        """Make a new folder: OUT itself, or runs/SPACE-DATE-N; raise UserError if it is used or unwritable."""
        if out is None:
            stem = f"{space}-{datetime.date.today():%Y%m%d}"
            root = pathlib.Path("runs")
            _make(root)
            path = next(p for n in range(1, 100_000) if _claim(p := root / f"{stem}-{n}"))
        else:
            path = pathlib.Path(out)
            found = path.exists()
            if found and (not path.is_dir() or any(path.iterdir())):
                raise UserError(f"--out {path}: already used; give an empty folder, or go on with --resume {path}")
            _make(path)
        folder = cls(path.resolve())
        folder._found = out is not None and found
        folder._write_identity()
        return folder

    @classmethod
    def existing(cls, path: str, flag: str = "--resume ") -> RunFolder:
        """Open the folder of an earlier run, which `flag` named; raise UserError when it is none."""
        folder = cls(pathlib.Path(path).resolve())
        if not folder.journal.is_file():
            raise UserError(f"{flag}{path}: no run there (it has no study.journal); give the folder of a run, "
                            "such as runs/grvq-20260101-1")
        version = folder._version()
        if version != VERSION:
            raise UserError(f"{flag}{path}: written in format {version}, this raycal reads format {VERSION}; "
                            "use the raycal version that wrote it")
        return folder

    def _write_identity(self) -> None:
        (self.path / "trials").mkdir(exist_ok=True)
        write_atomically(self.path / "format.json", json.dumps({"version": VERSION}))

    def _version(self) -> int:
        try:
            return json.loads((self.path / "format.json").read_text())["version"]
        except (OSError, ValueError, LookupError, TypeError):
            return 0

    @property
    def journal(self) -> pathlib.Path:
        return self.path / "study.journal"

    def probe(self) -> None:
        """Write a file into it and remove it; raise OSError when that cannot be done."""
        probe = self.path / "trials" / f".probe{os.getpid()}"
        try:
            probe.write_bytes(b"\0" * 65536)
        finally:
            probe.unlink(missing_ok=True)

    def trial(self, number: int) -> pathlib.Path:
        return self.path / "trials" / f"{number:04d}"

    def lock(self) -> None:
        """Take the run's lock; raise UserError naming the live driver that holds it."""
        self.patiently(lambda: (self.path / "trials").mkdir(exist_ok=True))
        handle = self.patiently(lambda: open(self.path / "lock", "a+"))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            owner = handle.read().strip() or "another process"
            handle.close()
            raise UserError(f"{self.path}: a live search holds this run ({owner}); wait for it, or stop it first"
                            ) from None
        if not os.path.exists(handle.name) or not os.path.samestat(os.fstat(handle.fileno()), os.stat(handle.name)):
            handle.close()  # its owner removed the file while we opened it: what we hold is not the run's lock
            return self.lock()
        handle.truncate(0)
        handle.write(f"host {socket.gethostname()}, pid {os.getpid()}")
        handle.flush()
        self._lock = handle

    def unlock(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):  # a lock whose holder closes it locks no one out
                (self.path / "lock").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def repair_journal(self) -> None:
        """Cut a journal torn by a crash to its last full line and drop its dead owner's lock files."""
        for stale in self.path.glob("study.journal*.lock*"):
            stale.unlink(missing_ok=True)
        if self.journal.is_file():
            with open(self.journal, "rb+") as f:
                data = f.read()
                whole = data.rfind(b"\n") + 1
                if whole < len(data):
                    f.truncate(whole)

    def discard(self) -> None:
        """Remove a folder that `create` made, unless a trial left something in it, or its disk is gone."""
        trials = self.path / "trials"
        if trials.is_dir() and not any(trials.iterdir()):
            shutil.rmtree(self.path)
            if self._found:
                self.path.mkdir()

    def replace_folder(self, source: pathlib.Path, name: str) -> None:
        """Make `name` a copy of source by one rename, so that a reader never finds half of it."""
        target = self.path / name
        fresh, old = (target.with_name(f".{target.name}.{age}") for age in ("new", "old"))
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(source, fresh, ignore=shutil.ignore_patterns("events.*", "checkpoint.pt", ".*"))
        if target.exists():
            os.replace(target, old)
        os.replace(fresh, target)
        shutil.rmtree(old, ignore_errors=True)


def config_of(path: str, flag: str = "--resume ") -> str:
    """Return the config.yaml of a run folder; raise UserError when the folder is none."""
    settings = RunFolder.existing(path, flag).path / "config.yaml"
    if not settings.is_file():
        raise UserError(f"{flag}{path}: has no config.yaml, so it ended before its first trial; start a new run")
    return str(settings)


def _claim(path: pathlib.Path) -> bool:
    try:
        path.mkdir()
        return True
    except FileExistsError:
        return False


def _make(path: pathlib.Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as e:
        raise UserError(f"run folder {path}: cannot be written ({e.strerror or e}); give another with --out DIR"
                        ) from None
