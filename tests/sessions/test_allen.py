from __future__ import annotations

import http.server
import importlib.util
import json
import pathlib
import sys
import threading
import urllib.parse

import numpy as np
import pytest

from raycal.errors import UserError
from raycal.sessions import allen
from raycal.sessions.readers import read, read_one

ID = 501940850
needs_sdk = pytest.mark.skipif(importlib.util.find_spec("allensdk") is None or sys.version_info >= (3, 12),
                               reason="AllenSDK is not installed: fetching by id was not tested")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYCAL_ALLEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(write_allen, tmp_path):
    """Serve the two requests of a download as Allen's server does; yields its address and what was asked."""
    body, asked = write_allen(tmp_path / "served.nwb").read_bytes(), []
    state = {"found": True, "share": 1.0}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(urllib.parse.unquote_plus(self.path))
            if self.path.startswith("/file"):
                answer, declared = body[:int(len(body) * state["share"])], len(body)
            else:
                rows = [{"download_link": "/file"}] if state["found"] else []
                answer = json.dumps({"success": True, "num_rows": len(rows), "total_rows": len(rows), "start_row": 0,
                                     "msg": rows}).encode()
                declared = len(answer)
            self.send_response(200)
            self.send_header("Content-Length", str(declared))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", asked, state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.mark.parametrize("bad", ["", "abc", "-5", "1.5", "../x"])
def test_ids_are_numbers(bad):
    with pytest.raises(UserError, match="give an ophys experiment id"):
        allen.fetch(bad)


def test_python_too_new_says_which_works(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    with pytest.raises(UserError, match=r'3.12.*Python 3.11 with pip install -c constraints.txt -e ".\[allen\]".*NWB'):
        allen.fetch(str(ID))


def test_without_the_sdk_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'not installed.*Python 3.11 with pip install .*NWB file'):
        read(f"allen:{ID}")


def test_cache_folder_has_a_default(monkeypatch):
    monkeypatch.delenv("RAYCAL_ALLEN_CACHE", raising=False)
    assert allen.cache_folder() == pathlib.Path.home() / ".cache" / "raycal" / "allen"


@pytest.mark.allen
@needs_sdk
def test_fetches_once_and_then_reads_the_cache(server, cache):
    address, asked, _ = server
    s = allen.fetch(str(ID), base_uri=address)
    assert s.id == str(ID) and s.traces.shape == (300, 6) and len(asked) == 2
    assert allen.fetch(str(ID), base_uri="http://127.0.0.1:9").fingerprint == s.fingerprint
    assert not list(cache.rglob("*.part")) and (cache / "manifest.json").is_file()


@pytest.mark.allen
@needs_sdk
def test_a_cached_session_needs_no_network(write_allen, cache):
    path = cache / "ophys_experiment_data" / f"{ID}.nwb"
    path.parent.mkdir(parents=True)
    expected = read_one(write_allen(path))
    assert read(f"allen:{ID}")[0].fingerprint == expected.fingerprint


@pytest.mark.allen
@needs_sdk
def test_unknown_id_is_said(server, cache):
    address, _, state = server
    state["found"] = False
    with pytest.raises(UserError, match=f"allen:{ID}: the Allen Institute has no session"):
        allen.fetch(str(ID), base_uri=address)


@pytest.mark.allen
@needs_sdk
def test_network_failure_says_what_to_do(cache):
    with pytest.raises(UserError, match=f"download failed.*check the network.*{ID}.nwb"):
        allen.fetch(str(ID), base_uri="http://127.0.0.1:9")  # the discard port: nothing listens
    assert not list(cache.rglob("*.nwb"))


@pytest.mark.allen
@needs_sdk
def test_a_download_cut_short_never_enters_the_cache(server, cache):
    address, _, state = server
    state["share"] = 0.5
    with pytest.raises(UserError, match="download"):
        allen.fetch(str(ID), base_uri=address)
    assert not list(cache.rglob("*.nwb")) and not list(cache.rglob("*.part"))
    state["share"] = 1.0
    assert allen.fetch(str(ID), base_uri=address).n_neurons == 6


@pytest.mark.allen
@needs_sdk
@pytest.mark.parametrize("text", ["{oops", '{"manifest": [{"type": "manifest_version", "value": "0.1"}]}'])
def test_a_damaged_or_foreign_manifest_is_named(cache, text):
    cache.mkdir()
    (cache / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="manifest.json.*delete that file"):
        allen.fetch(str(ID))


@pytest.mark.allen
@needs_sdk
def test_an_unusable_cache_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYCAL_ALLEN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="RAYCAL_ALLEN_CACHE"):
        allen.fetch(str(ID))


@pytest.mark.allen
@needs_sdk
def test_the_sdk_reads_the_same_numbers(write_allen, tmp_path):
    from allensdk.core.brain_observatory_nwb_data_set import BrainObservatoryNwbDataSet

    path = write_allen(tmp_path / f"{ID}.nwb")
    s, sdk = read_one(path), BrainObservatoryNwbDataSet(str(path))
    times, traces = sdk.get_dff_traces()
    np.testing.assert_array_equal(s.traces.T, traces)
    np.testing.assert_array_equal(s.times, times)
    np.testing.assert_array_equal(s.behavior[:, 0], sdk.get_running_speed()[0])
    assert s.neurons == tuple(map(str, sdk.get_cell_specimen_ids()))
    assert s.metadata["cre"] == sdk.get_metadata()["cre_line"] and s.metadata["area"] == "VISp"
