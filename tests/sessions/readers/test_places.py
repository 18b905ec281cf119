from __future__ import annotations

import pathlib

import pytest

from raycal.errors import UserError
from raycal.sessions.readers.places import anchored, expand, is_url


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.npz", "a.npz", "c[1],d.npz"):
        (tmp_path / name).write_bytes(b"\0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text, expected", [
    ("a.npz", ["a.npz"]), ("b.npz, a.npz", ["b.npz", "a.npz"]), ("?.npz", ["a.npz", "b.npz"]),
    ("c[1],d.npz", ["c[1],d.npz"]), ("allen:1,2, a.npz", ["allen:1", "allen:2", "a.npz"]),
    ("allen:best3", ["allen:best3"]), ("s3://bucket/x.nwb,https://host/y.nwb", ["s3://bucket/x.nwb", "https://host/y.nwb"]),
    ("gone.npz", ["gone.npz"])])
def test_what_an_argument_stands_for(folder, text, expected):
    found = expand(text)
    assert [str(p) for p in found] == expected
    assert [isinstance(p, pathlib.Path) for p in found] == [not is_url(p) and "allen:" not in p for p in expected]


def test_a_list_may_hold_every_kind_of_place(folder):
    (folder / "list.txt").write_text("# mine\nallen:501940850\ns3://bucket/x.nwb\n?.npz\n\nlater.npz\n")
    assert [str(p) for p in expand("list.txt")] == [
        "allen:501940850", "s3://bucket/x.nwb", "a.npz", "b.npz", "later.npz"]


@pytest.mark.parametrize("text", ["cell,frame\n1,2\n", "", "\0\n", "list.txt\n", "some words\n"],
                         ids=["table", "empty", "null", "itself", "words"])
def test_a_text_file_that_names_nothing_is_no_list(folder, text):
    (folder / "list.txt").write_text(text)
    assert expand("list.txt") == [pathlib.Path("list.txt")]


def test_a_pattern_without_a_match_and_nothing_at_all_are_said(folder):
    with pytest.raises(UserError, match=r"\*.h5: no file matches; patterns are read from"):
        expand("*.h5")
    with pytest.raises(UserError, match="no session in ' , '"):
        expand(" , ")


def test_a_very_long_or_impossible_name_is_a_path(folder):
    assert expand("x" * 5000) == [pathlib.Path("x" * 5000)]
    assert expand(["a\0b"]) == [pathlib.Path("a\0b")]


def test_an_anchored_argument_means_the_same_from_everywhere(folder, monkeypatch):
    texts = ["a.npz", "?.npz,b.npz", "c[1],d.npz", "allen:1,2", "s3://bucket/x.nwb"]
    fixed = [anchored(text) for text in texts]
    before = [[str(pathlib.Path(p).absolute()) if isinstance(p, pathlib.Path) else p for p in expand(t)] for t in texts]
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert [[str(p) for p in expand(text)] for text in fixed] == before
