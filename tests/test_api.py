"""What Python and the command line share: the space of a run, of which no file in the run folder is executed unasked."""
from __future__ import annotations

import pytest
import yaml

from raycal import cli
from raycal.api import space_of
from raycal.config import Config
from raycal.errors import UserError
from raycal.search.folder import RunFolder

SPACE = "import pathlib\npathlib.Path('{trace}').touch()\nraise SystemExit('executed')\n"


@pytest.fixture
def run(tmp_path):
    """A run folder that holds a copy of its space, which leaves a trace where it is executed."""
    made = RunFolder.create(str(tmp_path / "run"), "mine")
    made.unlock()
    folder = made.path
    (folder / "study.journal").write_text("")
    (folder / "mine.py").write_text(SPACE.format(trace=tmp_path / "trace"))
    return folder


def named(run, space):
    (run / "config.yaml").write_text(yaml.safe_dump({"run": {"space": str(space)}}) + Config().to_yaml())
    return run


def test_an_installed_space_and_a_file_beside_the_run_are_what_is_named(run, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("")
    assert space_of("grvq", str(run)) == "grvq" and space_of(str(mine), str(run)) == str(mine)
    assert space_of("mine.py", None) == "mine.py"


def test_a_file_that_is_gone_is_named_with_its_copy(run, tmp_path):
    with pytest.raises(UserError, match="gone/mine.py, which is not here.*--space .*run/mine.py"):
        space_of(str(tmp_path / "gone" / "mine.py"), str(run))
    with pytest.raises(UserError, match="--space FILE"):
        space_of(str(tmp_path / "gone" / "other.py"), str(run))


@pytest.mark.parametrize("path", ["{run}/mine.py", "run/mine.py", "{link}"])
def test_a_file_in_the_run_folder_is_refused_however_it_is_named(run, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    link = tmp_path / "link.py"
    link.symlink_to(run / "mine.py")
    with pytest.raises(UserError, match="lies in the run folder"):
        space_of(path.format(run=run, link=link), str(run))


@pytest.mark.parametrize("command", [["--resume", "{run}"], ["confirm", "{run}"], ["test", "{run}"],
                                     ["reproduce", "{run}", "--trial", "0"], ["--config", "{run}/config.yaml"]])
def test_no_verb_executes_it_unasked(run, tmp_path, capsys, command):
    named(run, run / "mine.py")
    assert cli.main([word.format(run=run) for word in command]) == 2
    assert "nothing in a run folder is executed unasked" in capsys.readouterr().err
    assert not (tmp_path / "trace").exists()


def test_it_is_executed_where_it_is_asked_for(run, tmp_path, capsys):
    named(run, run / "mine.py")
    assert cli.main(["confirm", str(run), "--space", str(run / "mine.py")]) == 2
    assert "executed" in capsys.readouterr().err and (tmp_path / "trace").exists()
