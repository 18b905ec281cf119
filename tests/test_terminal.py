"""A program that is kept when its terminal closes, as nohup and disown do, goes on and prints into nothing."""
from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from raycal import terminal

KEPT = """
import pathlib, signal, sys
from raycal import terminal

signal.signal(signal.SIGHUP, signal.SIG_IGN)
with terminal.outlived():
    print("begun", flush=True)
    sys.stdin.read()
    for n in range(100):
        print("line", n, flush=True)
        print("line", n, file=sys.stderr)
pathlib.Path(sys.argv[1]).write_text("done")
"""


def test_it_goes_on_when_the_terminal_closes(tmp_path):
    outer, inner = pty.openpty()
    program = subprocess.Popen([sys.executable, "-c", KEPT, str(tmp_path / "end")], stdin=subprocess.PIPE, stdout=inner,
                               stderr=inner, start_new_session=True)
    os.close(inner)
    assert b"begun" in os.read(outer, 100)
    os.close(outer)
    program.stdin.close()
    assert program.wait(60) == 0 and (tmp_path / "end").read_text() == "done"


def test_other_errors_of_a_stream_are_heard(capsys):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

    sys.stdout, before = Full(), sys.stdout
    try:
        with terminal.outlived(), pytest.raises(OSError, match="No space left"):
            print("a line")
    finally:
        sys.stdout = before
