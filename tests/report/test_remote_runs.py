"""Runs that lie on an S3 are read from anywhere, and nothing of them is changed."""
from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile

import pytest

from raycal import api, cli
from raycal.errors import UserError
from raycal.report.record import Run
from raycal.search.storage import Mirror, filesystem


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty current folder, in which temporary folders are made too."""
    path = tmp_path / "elsewhere"
    path.mkdir()
    monkeypatch.chdir(path)
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def stored(s3, made, elsewhere):
    """Two confirmed runs whose folders are only on the S3; returns (their URIs, the file system, its root)."""
    uri = s3[1]
    for name in ("one", "two"):
        one = made(name, trials=6, seed=len(name)).confirm()
        Mirror(one.path, uri).upload(force=True)
        one.path.rename(one.path.with_name(f"gone-{name}"))
    fs, root = filesystem(uri)
    return [f"{uri}/one", f"{uri}/two"], fs, root


def objects(fs, root):
    import pyarrow.fs

    return {i.path: (i.size, i.mtime) for i in fs.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))}


def test_report_export_and_compare_read_a_run_where_it_is_stored(stored, capsys):
    uris, fs, root = stored
    before = objects(fs, root)
    assert cli.main(["report", uris[0]]) == 0
    assert capsys.readouterr().out == "report.html\n"
    page = pathlib.Path("report.html").read_text()
    assert uris[0] in page and f"raycal test {uris[0]}" in page and "raycal-run-" not in page
    assert cli.main(["report", *uris, "--out", "both.html"]) == 0
    assert cli.main(["export", uris[1], "--format", "csv"]) == 0
    assert capsys.readouterr().out.count("complete") == 5
    assert cli.main(["compare", *uris]) == 0
    assert "3 common seeds, confirmed" in capsys.readouterr().out
    assert objects(fs, root) == before


def test_a_download_goes_with_the_process_that_read_it(stored, elsewhere):
    code = "import sys; from raycal.cli import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, "export", stored[0][0]], check=True, capture_output=True)
    assert not list(elsewhere.iterdir())


def test_a_downloaded_run_says_what_its_folder_said(stored, tmp_path):
    there, here = Run.read(stored[0][0]), Run.read(str(tmp_path / "gone-one"))
    assert there.summary == here.summary and there.winner.number == here.winner.number
    assert (there.name, there.place, here.place) == ("one", stored[0][0], str(tmp_path / "gone-one"))


def test_confirm_and_test_take_a_uri_and_go_on_with_the_copy_there(stored):
    from raycal.search.folder import config_of

    uri = stored[0][0]
    path, storage = api.local_run(f"{uri}/", "")
    assert (path, storage) == (str(pathlib.Path("runs/one")), uri.rsplit("/", 1)[0])
    assert pathlib.Path(config_of(path, "")).is_file()


@pytest.mark.parametrize("argv", [["report"], ["export"], ["confirm"], ["test"], ["compare"]])
def test_a_uri_without_a_run_is_refused_by_name(s3, elsewhere, argv, capsys):
    nothing = s3[1] + "/nothing"
    assert cli.main([*argv, nothing, *([nothing] if argv == ["compare"] else [])]) == 2
    assert capsys.readouterr().err.startswith(
        f"raycal: {nothing}: nothing is stored there; give the folder of a run")
    assert not list(elsewhere.iterdir())


def test_what_is_stored_without_being_a_run_is_refused_and_leaves_nothing(s3, elsewhere, tmp_path):
    uri = s3[1]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no run")
    Mirror(tmp_path / "notes", uri).upload(force=True)
    with pytest.raises(UserError, match="no run there"):
        Run.read(uri)
    assert not list(elsewhere.iterdir())


def test_tensorboard_reads_the_events_where_they_are_stored(s3, tmp_path):
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "one" / "trials" / "0000")) as writer:
        writer.add_scalar("val/nmse", 0.25, 3)
    Mirror(tmp_path / "one", s3[1]).upload(force=True)
    read = EventMultiplexer().AddRunsFromDirectory(f"{s3[1]}/one").Reload()
    events = read.Tensors("trials/0000", "val/nmse")
    assert [(e.step, e.tensor_proto.float_val[0]) for e in events] == [(3, 0.25)]
