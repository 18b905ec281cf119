"""Sessions by their Allen id, fetched by AllenSDK once and kept: `allen:501940850`.

The folder RAYCAL_ALLEN_CACHE, else ~/.cache/raycal/allen, is an ordinary AllenSDK cache.
"""
from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import socket
import sys
import warnings

from raycal.errors import UserError
from raycal.sessions.session import Session

TIMEOUT = 60.0  # s without an answer; AllenSDK's queries would wait for ever
INSTALL = ('use Python 3.11 with pip install -c constraints.txt -e ".[allen]", or download the session\'s NWB file '
           "and give its path")


def fetch(identifier: str, base_uri: str | None = None) -> Session:
    """Return a Visual Coding session, from the cache or over the network; base_uri replaces Allen's server.

    Raise UserError at once without AllenSDK, and when the id is unknown or the network fails.
    """
    identifier = identifier.strip()
    if not identifier.isdecimal():
        raise UserError(f"allen:{identifier}: give an ophys experiment id, a number such as allen:501940850")
    if sys.version_info >= (3, 12):
        raise UserError(f"allen:{identifier}: AllenSDK does not run on Python {sys.version_info[0]}."
                        f"{sys.version_info[1]}; {INSTALL}")
    if importlib.util.find_spec("allensdk") is None:
        raise UserError(f"allen:{identifier}: AllenSDK is not installed; {INSTALL}")
    from raycal.sessions.readers import read_one

    return read_one(_file(int(identifier), base_uri))


def cache_folder() -> pathlib.Path:
    """Return the folder that downloaded sessions are kept in."""
    chosen = os.environ.get("RAYCAL_ALLEN_CACHE")
    return pathlib.Path(chosen or "~/.cache/raycal/allen").expanduser()


def _file(identifier: int, base_uri: str | None) -> pathlib.Path:
    cache = _open_cache(identifier, base_uri)
    path = pathlib.Path(cache.get_cache_path(None, cache.EXPERIMENT_DATA_KEY, identifier))
    if not path.exists():
        _download(cache, identifier, path)
    return path


def _open_cache(identifier: int, base_uri: str | None):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import alone gives dozens, all about its own code
            from allensdk.core.brain_observatory_cache import BrainObservatoryCache
    except ImportError as e:  # its own pins leave combinations that cannot be imported
        raise UserError(f"allen:{identifier}: AllenSDK cannot be imported ({e}); {INSTALL}") from e
    manifest = cache_folder() / "manifest.json"
    try:
        return BrainObservatoryCache(manifest_file=str(manifest), base_uri=base_uri)
    except OSError as e:
        raise UserError(f"allen:{identifier}: the cache folder {manifest.parent} cannot be used ({e.strerror or e}); "
                        "set RAYCAL_ALLEN_CACHE to a folder that you may write to") from e
    except Exception as e:  # a damaged manifest, or one of another version: AllenSDK raises what it finds
        raise UserError(f"allen:{identifier}: AllenSDK cannot use {manifest} ({_reason(e)}); delete that file, it is "
                        "made anew") from e


def _download(cache, identifier: int, path: pathlib.Path) -> None:
    """Fetch into a temporary file, so that a broken download never passes for a cached session."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _timeout(TIMEOUT):
            cache.api.save_ophys_experiment_data(identifier, str(part))
        os.replace(part, path)
    except Exception as e:  # urllib, requests, simplejson and bare Exceptions, by what went wrong and where
        if "has no data file" in str(e):
            raise UserError(f"allen:{identifier}: the Allen Institute has no session with this ophys experiment id; "
                            "look it up at https://observatory.brain-map.org/visualcoding") from e
        raise UserError(f"allen:{identifier}: the download failed ({_reason(e)}); check the network and try again, or "
                        f"put the session's NWB file at {path}") from e
    finally:
        part.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


@contextlib.contextmanager
def _timeout(seconds: float):
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
