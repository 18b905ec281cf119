"""Files at URLs, fetched once and kept: s3:// and gs:// through pyarrow, every other scheme through fsspec.

    path = fetch("https://host/mouse.nwb")

The folder RAYCAL_CACHE, else ~/.cache/raycal/files, keeps a file as VERSION/NAME, where VERSION is a hash of the URL
and of what the server says that changes with the file (size, date, tag).
"""
from __future__ import annotations

import errno
import hashlib
import os
import pathlib
import re
import shutil
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from raycal.errors import UserError

Progress = Callable[[int, int], None]  # (bytes there, bytes in all; 0 where the server does not say)
BLOCK = 2**23  # bytes of one read
CONNECT, READ = 30.0, 60.0  # s without an answer
MARKS = ("size", "mtime", "created", "LastModified", "Last-Modified", "ETag", "etag", "Content-MD5", "md5Hash")
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s,'\"]+")
SECRET = re.compile("sig|token|key|secret|password|credential", re.IGNORECASE)  # names in a query that signs
CHOOSE = "choose another folder by RAYCAL_CACHE (for Allen's files RAYCAL_ALLEN_CACHE)"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class _Source:
    fs: Any  # an fsspec file system
    path: str
    size: int  # bytes, 0 = not stated
    version: str


def fetch(url: str, folder: pathlib.Path | None = None, progress: Progress | None = None) -> pathlib.Path:
    """Return the local copy of the file at url, downloaded where this version of it is not there yet.

    A download that broke off goes on where it stopped, also after another start. Where the server states neither
    size nor date nor tag, the copy once fetched serves. Raise UserError naming the URL, the reason and the fix.
    """
    source = _look_up(url)
    target = (cache_folder() if folder is None else folder) / source.version / file_name(url)
    _save(url, source, target, progress)
    return target


def save(url: str, target: pathlib.Path, progress: Progress | None = None) -> None:
    """Download url to target as `fetch` does: resumed after a break, there whole or not at all."""
    _save(url, _look_up(url), target, progress)


def cache_folder() -> pathlib.Path:
    """Return the folder that fetched files are kept in."""
    return pathlib.Path(os.environ.get("RAYCAL_CACHE") or "~/.cache/raycal/files").expanduser()


def shown(url: str) -> str:
    """Return the URL without user, password and query: those may be secrets."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def without_secrets(text: str) -> str:
    """Return a text whose URLs with a password, or a query that signs them, are as `shown`: files of a run are read by
    others."""
    def public(found: re.Match) -> str:
        parts = urllib.parse.urlsplit(found.group())
        signed = any(SECRET.search(name) for name, _ in urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        return shown(found.group()) if "@" in parts.netloc or signed else found.group()

    return URL.sub(public, text)


def file_name(url: str) -> str:
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rstrip("/").rsplit("/", 1)[-1]
    return name.replace("\0", "")[-200:] or "file"  # 255 bytes at most, with the ending of a part


def printed(name: str) -> Progress:
    """Return a progress callback that keeps one line on a terminal, and prints nothing elsewhere."""
    last = [0.0]

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty() and (time.monotonic() - last[0] > 0.5 or done == total):
            last[0] = time.monotonic()
            of = f" of {total / 1e6:.1f}" if total else ""
            print(f"\r{name}: {done / 1e6:.1f}{of} MB", end="\n" if done == total else "", file=sys.stderr, flush=True)
    return show


def _look_up(url: str) -> _Source:
    try:
        fs, path = _file_system(url)
        info = fs.info(path)
    except Exception as e:  # aiohttp, pyarrow, botocore, ImportError, ValueError: each scheme has its own
        raise _failure(url, e) from e
    if info.get("type") == "directory":
        raise UserError(f"{shown(url)}: is a folder; give the files in it")
    marks = [f"{key}={info[key]}" for key in MARKS if info.get(key) is not None]
    version = hashlib.sha256("\n".join([url, *marks]).encode()).hexdigest()[:10]
    return _Source(fs, path, info.get("size") or 0, version)


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0].lower()
    if scheme in ("s3", "gs", "gcs"):
        import pyarrow.fs
        from fsspec.implementations.arrow import ArrowFSWrapper

        if scheme != "s3" and "retry_limit_seconds" not in url:  # else it tries for 15 min to get a token
            url += f"{'&' if '?' in url else '?'}retry_limit_seconds={CONNECT:.0f}"
        fs, path = pyarrow.fs.FileSystem.from_uri(url)
        return ArrowFSWrapper(fs), path
    if scheme in ("http", "https"):
        import aiohttp

        patience = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=READ)
        return url_to_fs(url, headers={"Accept-Encoding": "identity"},  # sizes and ranges are those of the file
                         client_kwargs={"timeout": patience, "trust_env": True})
    return url_to_fs(url)


def _save(url: str, source: _Source, target: pathlib.Path, progress: Progress | None) -> None:
    """Download behind a lock: a second process waits, and then finds the file."""
    from filelock import FileLock

    if target.exists():
        return
    part = target.with_name(f".{target.name}.{source.version}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(part.with_suffix(".lock")):
            if target.exists():
                return
            _check_space(url, source.size, part)
            _download(url, source, part, progress or (lambda done, total: None))
            os.replace(part, target)
    except OSError as e:
        raise _unwritable(url, target.parent, e) from e


def _check_space(url: str, size: int, part: pathlib.Path) -> None:
    free = shutil.disk_usage(part.parent).free
    if size - _length(part) > free:
        raise UserError(f"{shown(url)}: takes {size / 1e6:.0f} MB, {part.parent} has {free / 1e6:.0f} MB free; make "
                        f"room or {CHOOSE}")


class _Broken(Exception):
    """Reading failed there, for its cause; writing fails here, with OSError."""


def _download(url: str, source: _Source, part: pathlib.Path, progress: Progress) -> None:
    """Fill part; after a break try again for as long as each try brings something."""
    reached = -1
    while True:
        try:
            with open(part, "ab") as out:
                for start, block in _blocks(source, out.tell()):
                    out.truncate(start)
                    out.write(block)
                    progress(start + len(block), source.size)
            return
        except _Broken as e:
            before, reached = reached, _length(part)
            if reached <= before:
                raise _failure(url, e.__cause__, kept=reached) from e


def _blocks(source: _Source, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield (position, bytes) from byte `start`, from 0 where the server cannot begin elsewhere."""
    try:
        if start > source.size > 0:
            start = 0
        try:
            stream = _opened(source, start)
            block = stream.read(BLOCK)
        except ValueError:  # fsspec's word for a server without ranges
            start, stream = 0, _opened(source, 0)
            block = stream.read(BLOCK)
        with stream:
            while block:
                yield start, block
                start += len(block)
                block = stream.read(BLOCK)
        if source.size and start != source.size:
            raise OSError(f"it ended after {start} of {source.size} bytes")
    except Exception as e:
        raise _Broken from e


def _opened(source: _Source, start: int) -> Any:
    """Open at byte `start`: one stream from the beginning, ranges of BLOCK bytes only after a break."""
    stream = source.fs.open(source.path, "rb", block_size=BLOCK if start else 0, cache_type="none",
                            size=source.size or None)
    if start:
        stream.seek(start)
    return stream


def _length(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unwritable(url: str, folder: pathlib.Path, error: OSError) -> UserError:
    fix = "make room or " if error.errno in FULL else ""
    return UserError(f"{shown(url)}: cannot be written to {folder} ({error.strerror or error}); {fix}{CHOOSE}")


def _failure(url: str, error: Exception, kept: int = 0) -> UserError:
    """Say what went wrong there and what to do; fsspec hides an HTTP status in the cause of a FileNotFoundError."""
    cause = error.__cause__ or error
    status = getattr(cause, "status", 0)
    reason = " ".join(str(cause).split()).replace(url, shown(url))[:200] or type(cause).__name__
    if isinstance(error, PermissionError) or status in (401, 403) or "ACCESS_DENIED" in reason:
        return UserError(f"{shown(url)}: access is refused ({reason}); check your credentials, or that the link is "
                         "public")
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and cause is error):
        return UserError(f"{shown(url)}: no such file; check the address")
    if isinstance(error, (ValueError, ImportError)):
        return UserError(f"{shown(url)}: not an address raycal can read ({reason}); give s3://, gs:// or https://, or "
                         "download the file and give its path")
    again = f"; {kept / 1e6:.1f} MB are kept, the next try goes on from there" if kept else ""
    return UserError(f"{shown(url)}: cannot be fetched ({reason}); check the network and try again{again}")
