"""A copy of the run on remote storage: written whole by the driver, read back before a resume.

The driver alone writes, after each finished trial and at most every 30 s, so that nobody ever
appends to an object store. Files that the run drops are dropped there too.
"""
from __future__ import annotations

import fnmatch
import os
import pathlib
import threading
import time
from collections.abc import Callable, Sequence

from raycal.errors import UserError
from raycal.search.folder import write_atomically
from raycal.sessions.remote import without_secrets

EVERY = 30.0  # s between uploads
ATTEMPTS = 3  # of the last upload, and of reading a file, each with the retries of the storage's client
SKIPPED = ("lock",)
RUNNING = ("checkpoint.pt", "events.*")  # what a reader of a run has no use for


def is_uri(run: str) -> bool:
    return "://" in run


def filesystem(uri: str, flag: str = "--storage "):
    """Return (pyarrow file system, path) of a URI; raise UserError when it cannot be used, naming what gave it."""
    import pyarrow.fs

    public = without_secrets(uri)
    if public != uri:
        raise UserError(f"{flag}{public}: holds a credential, which would stand in the files of the run; give it by the "
                        "environment (AWS_PROFILE, AWS_ACCESS_KEY_ID) or a role of the machine")
    try:
        return pyarrow.fs.FileSystem.from_uri(uri)
    except Exception as e:
        raise UserError(f"{flag}{uri}: not a storage raycal can use ({str(e).splitlines()[0]}); "
                        "give s3://bucket/folder or file:///folder") from None


def try_out(uri: str) -> float | None:
    """Write, read and delete a small file at a URI; return how many s this clock is ahead of the one there.

    Raise UserError saying what does not work.
    """
    fs, root = filesystem(uri)
    path, data, now = f"{root.rstrip('/')}/.raycal-{os.getpid()}", os.urandom(1024), time.time()
    try:
        fs.create_dir(root, recursive=True)
        with fs.open_output_stream(path) as out:
            out.write(data)
        with fs.open_input_stream(path) as source:
            same = source.read() == data
        written = fs.get_file_info(path).mtime
        fs.delete_file(path)
    except OSError as e:
        raise UserError(f"{uri}: cannot be used ({_why(e)})") from None
    if not same:
        raise UserError(f"{uri}: does not give back what was written")
    return now - written.timestamp() if written else None


class Mirror:
    """Uploads the changed files of a run folder to uri/NAME, in a thread: a slow storage holds up no trial.

    A storage that fails is said once, and once when it takes files again; the search goes on without it.
    """

    def __init__(self, folder: pathlib.Path, uri: str, say: Callable[[str], None] = print):
        self._folder, self._uri, self._say = folder, uri, say
        self._fs, root = filesystem(uri)
        self._root = f"{root.rstrip('/')}/{folder.name}"
        self._sent: dict[pathlib.Path, tuple[int, int]] = {}
        self._last = -EVERY
        self._failing = False
        self._thread: threading.Thread | None = None
        try:
            self._fs.create_dir(self._root, recursive=True)
        except OSError as e:
            raise UserError(f"--storage {uri}: cannot be written ({_why(e)}); check the bucket, the credentials and the "
                            "network") from None

    def upload(self, force: bool = False) -> None:
        """Begin to send what changed since the last upload, at most every 30 s; force: send it, and wait for that."""
        if force:
            self._join()
            attempts = (self._send_all() for _ in range(ATTEMPTS))
            if not any(attempts):
                self._say(f"--storage {self._uri}: the copy there is not complete, the run folder {self._folder} is; "
                          f"--resume {self._folder} --storage {self._uri} copies it")
        elif time.monotonic() - self._last >= EVERY and not (self._thread and self._thread.is_alive()):
            self._last = time.monotonic()
            self._thread = threading.Thread(target=self._send_all, name="mirror", daemon=True)
            self._thread.start()

    def _join(self) -> None:
        if self._thread:
            self._thread.join()

    def _send_all(self) -> bool:
        """Send new and changed files, the journal last, and remove those that are gone; True when all that worked."""
        try:
            for path in self._files():
                self._send(path)
            self._drop()
        except OSError as e:
            if not self._failing:
                self._say(f"--storage {self._uri}: cannot be written ({_why(e)}); the search goes on without the copy "
                          f"and tries again every {EVERY:.0f} s")
            self._failing = True
            return False
        if self._failing:
            self._say(f"--storage {self._uri}: can be written again; the copy is complete")
        self._failing = False
        return True

    def _drop(self) -> None:
        """Remove there what the run removed here; a run folder that is gone as a whole has removed nothing."""
        gone = [p for p in self._sent if not p.exists()]
        for path in gone if (self._folder / "study.journal").is_file() else ():
            self._fs.delete_file(self._target(path))
            del self._sent[path]

    def _files(self) -> list[pathlib.Path]:
        files = [p for p in self._folder.rglob("*") if p.is_file() and p.name not in SKIPPED
                 and not p.name.startswith(".") and ".lock" not in p.name]
        return sorted(files, key=lambda p: p.name == "study.journal")

    def _send(self, path: pathlib.Path) -> None:
        try:
            stat = path.stat()
            data = None if self._sent.get(path) == (stat.st_mtime_ns, stat.st_size) else path.read_bytes()
        except FileNotFoundError:
            return  # a checkpoint that was dropped meanwhile
        if data is None:
            return
        target = self._target(path)
        self._fs.create_dir(target.rsplit("/", 1)[0], recursive=True)
        with self._fs.open_output_stream(target) as out:
            out.write(data)
        self._sent[path] = (stat.st_mtime_ns, stat.st_size)

    def _target(self, path: pathlib.Path) -> str:
        return f"{self._root}/{path.relative_to(self._folder).as_posix()}"


def _why(error: BaseException) -> str:
    """Return the part of a storage's error that a reader understands: AWS puts it last."""
    return str(error).splitlines()[0].split("operation: ")[-1].split("; Details")[0]


def parent(uri: str) -> str:
    """Return where the run at uri is stored; options after a question mark stay."""
    path, mark, options = uri.partition("?")
    return path.rstrip("/").rsplit("/", 1)[0] + mark + options


def fetch(uri: str, into: pathlib.Path, flag: str = "--resume ", without: Sequence[str] = ()) -> pathlib.Path:
    """Download the run at uri into a folder of its name below `into`; files there that are newer stay.

    without: patterns of file names that are left there. Raise UserError naming the URI and the flag that gave it.
    """
    try:
        return _fetch(uri, into, flag, without)
    except OSError as e:
        raise UserError(f"{flag}{uri}: cannot be read ({_why(e)}); check the network and the credentials, then try "
                        "again: what is here already stays") from None


def _fetch(uri: str, into: pathlib.Path, flag: str, without: Sequence[str]) -> pathlib.Path:
    import pyarrow.fs

    fs, root = filesystem(uri, flag)
    root = root.rstrip("/")
    files = [i for i in fs.get_file_info(pyarrow.fs.FileSelector(root, recursive=True, allow_not_found=True))
             if i.is_file]
    if not files:
        raise UserError(f"{flag}{uri}: nothing is stored there; give the folder of a run, "
                        "such as s3://bucket/runs/NAME")
    folder = into / root.rsplit("/", 1)[-1]
    for info in files:
        target = folder / info.path[len(root):].lstrip("/")
        newer = target.exists() and info.mtime and target.stat().st_mtime >= info.mtime.timestamp()
        if newer or any(fnmatch.fnmatch(target.name, pattern) for pattern in without):
            continue
        try:
            data = _read(fs, info.path)
        except FileNotFoundError:
            continue  # a live search dropped it since
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data)
    return folder


def _read(fs, path: str) -> bytes:
    """Return the bytes of a file; pyarrow cannot use the second answer of a server whose first was an error."""
    for left in reversed(range(ATTEMPTS)):
        try:
            with fs.open_input_stream(path) as source:
                return source.read()
        except FileNotFoundError:
            raise
        except OSError:
            if not left:
                raise
            time.sleep(1.0)
