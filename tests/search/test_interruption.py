"""A terminal that closes while the main thread computes: the wish to end is heard, and nothing is printed into it."""
from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

BUSY = """
import hashlib, pathlib, sys
from raycal import terminal
from raycal.search import interruption

with terminal.outlived(), interruption.{block}():
    print("begun", flush=True)
    try:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)  # no signal is heard before it returns
        print("on", flush=True)
    except KeyboardInterrupt:
        print("ends", flush=True)
pathlib.Path(sys.argv[1]).write_text("cleaned up")
"""


def closed_while_busy(block: str, path) -> int:
    """Return the status of a program whose terminal closes while it computes in C."""
    outer, inner = pty.openpty()
    program = subprocess.Popen([sys.executable, "-c", BUSY.format(block=block), str(path)], stdin=inner, stdout=inner,
                               stderr=inner, start_new_session=True)
    os.close(inner)
    assert b"begun" in os.read(outer, 100)
    time.sleep(0.3)
    program.send_signal(signal.SIGHUP)
    time.sleep(0.05)
    os.close(outer)
    return program.wait(60)


def test_a_search_hears_of_a_terminal_that_closed_while_it_computed(tmp_path):
    assert closed_while_busy("heard", tmp_path / "end") == 0 and (tmp_path / "end").exists()


def test_a_terminal_that_closes_before_a_search_has_begun_lets_it_clean_up(tmp_path):
    assert closed_while_busy("unwinding", tmp_path / "end") == 0 and (tmp_path / "end").exists()
