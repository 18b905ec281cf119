"""Sessions by their Allen id, fetched through AllenSDK once and kept: `allen:501940850`.

The folder RAYCAL_ALLEN_CACHE, else ~/.cache/raycal/allen, is an ordinary AllenSDK cache, in which everything but what
it lacks works without a network. RAYCAL_ALLEN_API replaces Allen's server, by a mirror or a stand-in.
"""
from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any

from raycal.errors import UserError
from raycal.sessions import remote

TIMEOUT = 60.0  # s without an answer; AllenSDK's queries would wait for ever
INSTALL = ('use Python 3.11 with pip install -c constraints.txt -e ".[allen]", or download the session\'s NWB file '
           "and give its path")
QUERIES = "brain_observatory_queries"
EYE_FILES = "all_eye_mapping_files"


class NoFile(UserError):
    """Allen has no NWB file for this id."""


def file(identifier: str, base_uri: str | None = None) -> pathlib.Path:
    """Return the session's NWB file in the cache, downloaded first where it is not there; a broken download goes on.

    base_uri replaces Allen's server. Raise UserError at once without AllenSDK, and when the id is unknown or the network
    fails.
    """
    identifier = identifier.strip()
    if not identifier.isdecimal():
        raise UserError(f"allen:{identifier}: give an ophys experiment id, a number such as allen:501940850, or "
                        "allen:best3 for the three best")
    cache = open_cache(identifier, base_uri)
    path = pathlib.Path(cache.get_cache_path(None, cache.EXPERIMENT_DATA_KEY, int(identifier)))
    if not path.exists():
        _download(cache, identifier, path)
    return path


def cache_folder() -> pathlib.Path:
    """Return the folder that downloaded sessions are kept in."""
    chosen = os.environ.get("RAYCAL_ALLEN_CACHE")
    return pathlib.Path(chosen or "~/.cache/raycal/allen").expanduser()


def open_cache(item: str, base_uri: str | None = None) -> Any:
    """Return AllenSDK's BrainObservatoryCache; raise UserError naming `allen:item` where that cannot be."""
    if sys.version_info >= (3, 12):
        raise UserError(f"allen:{item}: AllenSDK does not run on Python {sys.version_info[0]}."
                        f"{sys.version_info[1]}; {INSTALL}")
    if importlib.util.find_spec("allensdk") is None:
        raise UserError(f"allen:{item}: AllenSDK is not installed; {INSTALL}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import alone gives dozens, all about its own code
            from allensdk.core.brain_observatory_cache import BrainObservatoryCache
    except ImportError as e:  # its own pins leave combinations that cannot be imported
        raise UserError(f"allen:{item}: AllenSDK cannot be imported ({e}); {INSTALL}") from e
    manifest = cache_folder() / "manifest.json"
    try:
        return BrainObservatoryCache(manifest_file=str(manifest), api=_api(base_uri))
    except OSError as e:
        raise UserError(f"allen:{item}: the cache folder {manifest.parent} cannot be used ({e.strerror or e}); "
                        "set RAYCAL_ALLEN_CACHE to a folder that you may write to") from e
    except Exception as e:  # a damaged manifest, or one of another version: AllenSDK raises what it finds
        raise UserError(f"allen:{item}: AllenSDK cannot use {manifest} ({_reason(e)}); delete that file, it is "
                        "made anew") from e


def asked(item: str, query: Callable[[], Any], fix: str) -> Any:
    """Return what a query of AllenSDK's gives; raise UserError naming `allen:item`, the reason and the fix."""
    try:
        with _timeout(TIMEOUT):
            return query()
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"allen:{item}: Allen's lists cannot be used ({_reason(e)}); delete the .json files in "
                        f"{cache_folder()} but manifest.json, and try again") from e
    except Exception as e:  # urllib, requests and bare Exceptions, by what went wrong and where
        raise UserError(f"allen:{item}: the query of Allen's server failed ({_reason(e)}); {fix}") from e


def _api(base_uri: str | None) -> Any:
    """Return AllenSDK's API, but with the list of eye-tracking files kept like the others.

    AllenSDK asks for it with every list of experiments: without a network none could be made, and the choice of the
    best sessions would change with it.
    """
    from allensdk.api.queries.brain_observatory_api import BrainObservatoryApi
    from allensdk.api.warehouse_cache.cache import Cache

    class Api(BrainObservatoryApi):
        def template_query(self, template: str, entry: str, **kwargs: Any) -> Any:
            def query() -> Any:
                return super(Api, self).template_query(template, entry, **kwargs)
            if entry != EYE_FILES:
                return query()
            try:
                return Cache.cacher(query, path=str(cache_folder() / "eye_mapping_files.json"), strategy="lazy",
                                    **Cache.cache_json())
            except (OSError, ValueError):  # without it no experiment counts as eye-tracked
                return []

    return Api(base_uri=base_uri or os.environ.get("RAYCAL_ALLEN_API") or None)


def _download(cache: Any, identifier: str, path: pathlib.Path) -> None:
    fix = f"check the network and try again, or put the session's NWB file at {path}"
    files = asked(identifier, lambda: cache.api.template_query(QUERIES, "ophys_experiment_data",
                                                               ophys_experiment_id=int(identifier)), fix)
    link = files[0].get("download_link") if files else None
    if not link:
        raise NoFile(f"allen:{identifier}: the Allen Institute has no session with this ophys experiment id; look it "
                     "up at https://observatory.brain-map.org/visualcoding")
    try:
        remote.save(cache.api.api_url + link, path, remote.printed(f"allen:{identifier}"))
    except UserError as e:
        raise UserError(f"allen:{identifier}: the download failed ({e}); {fix}") from e


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
