"""cluster/slurm.sh on one machine: srun, scontrol and ray are stand-ins that write down how they were called."""
from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

import raycal

SCRIPT = pathlib.Path(raycal.__file__).parents[1] / "cluster" / "slurm.sh"
SRUN = """#!/bin/bash
echo "srun $*" >> "$CALLS"
while [[ $1 == --* ]]; do shift; done
if [ "$1" = hostname ]; then echo "10.0.0.7 fe80::1"; exit; fi
"$@"
exit 1  # as when the worker, which outlives the head, says so
"""
RAY = """#!/bin/bash
echo "ray $* mode=$RAY_AUTH_MODE" >> "$CALLS"
if [ "$1" = get-auth-token ]; then mkdir -p ~/.ray; echo secret-token | tee ~/.ray/auth_token; exit; fi
while [ "$1" != -- ]; do shift; done
shift
"$@"
"""
PROGRAMS = {"srun": SRUN, "ray": RAY, "scontrol": '#!/bin/bash\necho node1\necho node2\n',
            "python": '#!/bin/bash\nprintf "%s|" python "$@" >> "$CALLS"\nexit "$ENDS_WITH"\n'}


def submit(tmp_path, *flags, ends_with=0):
    """Run the script as sbatch would; return it, and what was called."""
    for folder in ("bin", "home", "checkout"):
        (tmp_path / folder).mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOME": f"{tmp_path}/home", "SLURM_JOB_ID": "41234",
                   "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "32",
                   "SLURM_GPUS_ON_NODE": "4", "CALLS": f"{tmp_path}/calls", "ENDS_WITH": str(ends_with)}
    done = subprocess.run(["bash", SCRIPT, *flags], cwd=tmp_path / "checkout", env=environment, capture_output=True,
                          text=True)
    return done, (tmp_path / "calls").read_text()


@pytest.fixture(autouse=True)
def bash():
    if shutil.which("bash") is None:
        pytest.skip("no bash: cluster/slurm.sh was not run")


@pytest.mark.parametrize("ends_with", [0, 2, 143])
def test_the_job_ends_as_the_search_does_whatever_the_workers_say(tmp_path, ends_with):
    done, _ = submit(tmp_path, "--space", "grvq", ends_with=ends_with)
    assert done.returncode == ends_with, done.stderr
    assert not list((tmp_path / "checkout").iterdir()), "it leaves nothing"


def test_one_ray_spans_the_nodes_and_the_search_joins_it(tmp_path):
    _, calls = submit(tmp_path, "--space", "grvq", "--sessions", "a file.npz")
    on_all = next(line for line in calls.splitlines() if "symmetric-run" in line and line.startswith("srun"))
    assert "--nodes=2 --ntasks-per-node=1" in on_all and "--address 10.0.0.7:21234 --min-nodes 2" in on_all
    assert "--num-cpus=32 --num-gpus=4 --dashboard-host=127.0.0.1" in on_all
    assert calls.endswith("python|run_search.py|--address|auto|--space|grvq|--sessions|a file.npz|")


def test_the_token_is_kept_to_its_owner_and_out_of_the_log(tmp_path):
    done, calls = submit(tmp_path)
    assert "mode=token" in next(line for line in calls.splitlines() if line.startswith("ray symmetric-run"))
    assert "secret-token" not in done.stdout + done.stderr + calls
    assert (tmp_path / "home/.ray/auth_token").stat().st_mode & 0o777 == 0o600
