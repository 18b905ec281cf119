"""A copy of the run on remote storage: written whole by the driver, read back before a resume.

The driver alone writes, after each finished trial and at most every 30 s, so that nobody ever
appends to an object store.
"""
from __future__ import annotations

import pathlib
import time
from collections.abc import Callable

from raycal.errors import UserError
from raycal.search.folder import write_atomically

EVERY = 30.0  # s between uploads
SKIPPED = ("lock",)


def filesystem(uri: str):
    """Return (pyarrow file system, path) of a URI; raise UserError when it cannot be used."""
    import pyarrow.fs

    try:
        return pyarrow.fs.FileSystem.from_uri(uri)
    except Exception as e:
        raise UserError(f"--storage {uri}: not a storage raycal can write ({str(e).splitlines()[0]}); "
                        "give s3://bucket/folder or file:///folder") from None


class Mirror:
    """Uploads the changed files of a run folder to uri/NAME."""

    def __init__(self, folder: pathlib.Path, uri: str, say: Callable[[str], None] = print):
        self._folder, self._uri, self._say = folder, uri, say
        self._fs, root = filesystem(uri)
        self._root = f"{root.rstrip('/')}/{folder.name}"
        self._sent: dict[pathlib.Path, tuple[int, int]] = {}
        self._last = -EVERY
        try:
            self._fs.create_dir(self._root, recursive=True)
        except OSError as e:
            raise UserError(f"--storage {uri}: cannot be written ({str(e).splitlines()[0]}); "
                            "check the bucket and the credentials") from None

    def upload(self, force: bool = False) -> int:
        """Send what changed since the last upload, journal last; return the number of files sent.

        A storage that fails is said, and tried again at the next upload: the search goes on without it.
        """
        if not force and time.monotonic() - self._last < EVERY:
            return 0
        self._last = time.monotonic()
        files = [p for p in self._folder.rglob("*") if p.is_file() and p.name not in SKIPPED
                 and not p.name.startswith(".") and ".lock" not in p.name]
        sent = 0
        for path in sorted(files, key=lambda p: p.name == "study.journal"):
            try:
                stat = path.stat()
                mark = (stat.st_mtime_ns, stat.st_size)
                if self._sent.get(path) != mark:
                    self._send(path)
                    self._sent[path] = mark
                    sent += 1
            except FileNotFoundError:
                continue  # a checkpoint that was dropped meanwhile
            except OSError as e:
                self._say(f"--storage {self._uri}: {path.name} could not be copied ({str(e).splitlines()[0]}); "
                          + ("the copy is not complete, the run folder is" if force else "tried again later"))
                return sent
        return sent

    def _send(self, path: pathlib.Path) -> None:
        target = f"{self._root}/{path.relative_to(self._folder).as_posix()}"
        self._fs.create_dir(target.rsplit("/", 1)[0], recursive=True)
        with self._fs.open_output_stream(target) as out:
            out.write(path.read_bytes())


def fetch(uri: str, into: pathlib.Path) -> pathlib.Path:
    """Download the run at uri into a folder of its name below `into`; files there that are newer stay."""
    import pyarrow.fs

    fs, root = filesystem(uri)
    root = root.rstrip("/")
    files = [i for i in fs.get_file_info(pyarrow.fs.FileSelector(root, recursive=True, allow_not_found=True))
             if i.is_file]
    if not files:
        raise UserError(f"--resume {uri}: nothing is stored there; give the folder of a run, "
                        "such as s3://bucket/runs/NAME")
    folder = into / root.rsplit("/", 1)[-1]
    for info in files:
        target = folder / info.path[len(root):].lstrip("/")
        if target.exists() and info.mtime and target.stat().st_mtime >= info.mtime.timestamp():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with fs.open_input_stream(info.path) as source:
            write_atomically(target, source.read())
    return folder
