"""Commands of a shell that take minutes: what they say by the second, and how long each step took."""
from __future__ import annotations

import pathlib
import re
import subprocess
import threading
import time


CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")  # what moves and colours a terminal


class Steps:
    """Says what happens and how long each step took."""

    def __init__(self):
        self._began = self._last = time.monotonic()
        self.took: dict[str, float] = {}

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {line}", flush=True)

    def done(self, step: str) -> None:
        self.took[step] = time.monotonic() - self._last
        self._last = time.monotonic()
        self.say(f"{step}: took {self.took[step]:.1f} s")

    def __str__(self) -> str:
        return "\n".join(f"{seconds:8.1f} s  {step}" for step, seconds in self.took.items())


class Command:
    """A command of the shell and what it says."""

    def __init__(self, steps: Steps, *command: str, cwd: pathlib.Path):
        self.lines: list[str] = []
        self.process = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True, errors="replace")
        self._steps, self._thread = steps, threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.lines.append(CONTROL.sub("", line).strip())
            if not self.lines[-1].startswith(("running ", "about ")):  # of a line that a terminal shows again and again
                self._steps.say(f"| {self.lines[-1]}")

    def hears(self, pattern: str, timeout: float) -> re.Match:
        return until(lambda: next(filter(None, (re.search(pattern, line) for line in list(self.lines))), None), timeout,
                     f"{pattern!r} was not said", lambda: self.process.poll() is None)

    def ends(self, timeout: float) -> None:
        self.process.wait(timeout)
        self._thread.join()
        self.process.stdout.close()
        assert self.process.returncode == 0


def until(answer, timeout: float, failure: str, going=lambda: True):
    """Return answer() once it is true."""
    deadline = time.monotonic() + timeout
    while not (found := answer()):
        assert going() and time.monotonic() < deadline, failure
        time.sleep(1.0)
    return found
