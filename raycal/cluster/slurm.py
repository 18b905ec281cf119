"""Checks of a script for sbatch: that it is one, and that it starts Ray on every node once and for itself."""
from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

from raycal.cluster import exposure
from raycal.doctor import Finding

WANTED = {"--nodes": "how many nodes", "--ntasks-per-node=1": "one Ray a node",
          "--exclusive": "at its end symmetric-run ends every Ray process of yours on the node",
          "--time": "SLURM's default may be minutes"}


def examine(path: str, text: str) -> Iterator[Finding]:
    yield from exposure.credentials(text)
    found = [*_syntax(path), *_asked(text), *_started(text)]
    yield from found or [Finding("slurm", "bash takes it; Ray starts once on every node")]


def _syntax(path: str) -> Iterator[Finding]:
    if shutil.which("bash") is None:
        yield Finding("slurm", "syntax not checked: no bash here", "note")
        return
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    if done.returncode:
        yield Finding("slurm", f"bash refuses it ({done.stderr.strip().splitlines()[0]})", "bad", "mend that line")


def _asked(text: str) -> Iterator[Finding]:
    asked = re.findall(r"^#SBATCH +(\S+)", text, re.M)
    for option, why in WANTED.items():
        if not any(a == option or a.startswith(f"{option}=") for a in asked):
            yield Finding("slurm", f"#SBATCH {option} is missing ({why})", "bad", f"#SBATCH {option}")


def _started(text: str) -> Iterator[Finding]:
    code = "\n".join(line for line in text.replace("\\\n", " ").splitlines() if not line.startswith("#"))
    if "ray symmetric-run" not in code:
        yield Finding("slurm", "ray symmetric-run is not called, so no Ray spans the nodes", "bad",
                      "srun ... ray symmetric-run, as in cluster/slurm.sh")
        return
    mode = re.search(r"RAY_AUTH_MODE=\w+", code)
    command = next(line for line in code.splitlines() if "ray symmetric-run" in line)
    yield from exposure.of_start("ray symmetric-run", [f"{mode[0] if mode else ''} {command}"])
