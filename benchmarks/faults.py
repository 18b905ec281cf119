"""Kills every part of a search, one after the other, and checks that nothing finished is lost and nothing is left.

    python benchmarks/faults.py [--only parts,driver,ddp,nodes,clock]

Every course is one real search in a process of its own (searching.py); its faults come one after the other, each once
training has gone on from the one before. At its end the study must be that of a search that nothing disturbed, bit for
bit: the same proposals, the same epochs, the same curves, the same ends. Nothing may be left: no process, no placement
group, no lock, no scratch file, no shared memory.

  parts    SIGKILL of a Train worker, a slot (Train's controller), the pool and the Tune actor; one worker a trial
  driver   ctrl-C, SIGTERM, a closed terminal, SIGKILL, ctrl-C twice; after each the run is resumed
  ddp      SIGKILL of the first and of the second of two workers of a trial
  nodes    SIGKILL of a raylet of three, and of the driver, on a cluster that goes on living
  clock    the machine's clock set back an hour under a running search, and before its resume; by a shim that every
           process preloads (clock.c, needs a C compiler), the true clock stays

Recovery is the time from the fault, or from the start of the resume, to the next epoch in the study; what was on its
way when a process was killed does not count.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import common
import searching
from searching import Search, check_same, check_whole, essence, undisturbed

Row = tuple[str, str, float]  # fault, what it came to, s until training went on
ONE_SLOT = ["--max-concurrent", "1"]


@contextlib.contextmanager
def search(folder: pathlib.Path, arguments: list[str], always: Sequence[str] = ONE_SLOT,
           environment: dict[str, str] | None = None) -> Iterator[Search]:
    """A search for the block; whatever it leaves is killed where the block fails."""
    made = Search(folder / "run", arguments, always, environment)
    try:
        yield made
    finally:
        made.stop()


def parts(folder: pathlib.Path, epochs: int = 24, trials: int = 4) -> Iterator[Row]:
    arguments = searching.given(folder, epochs)
    with search(folder, [*arguments, "--trials", str(trials)]) as run:
        run.start()
        for role in ("worker", "slot", "pool", "Tune actor"):
            run.wait_for_epochs(3)
            run.kill(role)
            yield f"SIGKILL of the {role}", "the search goes on", run.recovered()
        assert run.end() == 0, run.said[-3000:]
        check(run, undisturbed(folder / "undisturbed", arguments, {"search.trials": trials}))


def driver(folder: pathlib.Path, epochs: int = 48, trials: int = 10, only: Sequence[str] = ()) -> Iterator[Row]:
    arguments = searching.given(folder, epochs)
    with search(folder, [*arguments, "--trials", str(trials)]) as run:
        run.start()
        for name, end, status in [e for e in ENDS if e[0] in only or not only]:
            run.wait_for_epochs(3)
            before = {t.number: essence(t) for t in run.trials() if t.state.is_finished()}
            end(run)
            found = run.end()
            assert found == status, f"{name}: status {found}, not {status}; it said\n{run.said[-3000:]}"
            outcome = check_ended(run, name)
            run.start()
            yield name, outcome, run.recovered()
            after = {t.number: essence(t) for t in run.trials()}
            assert all(after[number] == before[number] for number in before), "a finished trial changed"
        assert run.end() == 0, run.said[-3000:]
        check(run, undisturbed(folder / "undisturbed", arguments, {"search.trials": trials}))


def _twice(run: Search) -> None:
    run.press(b"\x03")
    time.sleep(0.3)
    run.press(b"\x03")


ENDS: list[tuple[str, Callable[[Search], Any], int]] = [
    ("ctrl-C", lambda run: run.press(b"\x03"), 128 + signal.SIGINT),
    ("SIGTERM", lambda run: run.driver.terminate(), 128 + signal.SIGTERM),
    ("terminal closed", Search.close_terminal, 128 + signal.SIGHUP),
    ("SIGKILL of the driver", lambda run: run.driver.kill(), -signal.SIGKILL),
    ("ctrl-C twice", _twice, 128 + signal.SIGINT)]


def check_ended(run: Search, name: str) -> str:
    """Check what a driver leaves between its end and the resume; return that in words."""
    from raycal.training import checkpoint

    running = [t for t in run.trials() if t.state.name == "RUNNING"]
    if name == "SIGKILL of the driver":
        return "resumed from the last checkpoint"
    assert not running, f"{name}: trial {running[0].number} is still RUNNING in the study"
    assert not run.left(), f"{name}: left {run.left(0)}"
    if name != "terminal closed":
        assert f"--resume {run.folder}" in run.said, run.said[-2000:]
    if name == "ctrl-C twice":
        return "stopped at once, says how to resume"
    waiting = [t for t in run.trials() if t.state.name == "WAITING" and t.intermediate_values]
    for trial in waiting:
        saved = checkpoint.load(run.folder / "trials" / f"{trial.number:04d}" / "checkpoint.pt")["epoch"]
        reported = max(trial.intermediate_values)
        assert saved == reported, f"{name}: trial {trial.number} reported epoch {reported}, saved {saved}"
    return "epoch finished and saved" + (", says how to resume" if name != "terminal closed" else "")


def ddp(folder: pathlib.Path, epochs: int = 16) -> Iterator[Row]:
    arguments = [*searching.given(folder, epochs), "--trials", "2", "--workers-per-trial", "2"]
    with search(folder, arguments) as run:
        run.start()
        for rank in (0, 1):
            run.wait_for_epochs(3)
            # the first worker is the one that started first
            run.kill("worker", lambda found: sorted(found, key=lambda p: p.create_time())[rank])
            yield f"SIGKILL of worker {rank + 1} of 2 (DDP)", "the search goes on", run.recovered()
        assert run.end() == 0, run.said[-3000:]
        with search(_made(folder / "u"), arguments) as reference:
            assert reference.start().end() == 0, reference.said[-3000:]
            check(run, reference.trials())


def nodes(folder: pathlib.Path, epochs: int = 24, trials: int = 4) -> Iterator[Row]:
    from ray.cluster_utils import Cluster

    arguments = [*searching.given(folder, epochs), "--sampler", "random", "--pruner", "none", "--trials", str(trials)]
    os.environ["RAY_TMPDIR"] = str(_made(folder / "r"))
    _made(folder / "r" / "ray")  # where Ray notes the cluster that it started last; it does not make it
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        others = [cluster.add_node(num_cpus=1) for _ in range(2)]
        with search(folder, arguments, ["--address", cluster.address]) as run:
            run.start()
            run.wait_for_epochs(6)
            cluster.remove_node(others[0], allow_graceful=False)
            yield "SIGKILL of a raylet of 3", "the search goes on", run.wait_for_epochs(2)
            run.driver.kill()
            run.end()
            free(cluster.address)
            run.start()
            yield "SIGKILL of a cluster's driver", "resumed, the cluster was free", run.recovered()
            assert run.end() == 0, run.said[-3000:]
            free(cluster.address)
            settings = {"search.trials": trials, "search.sampler": "random", "search.pruner": "none"}
            check(run, undisturbed(folder / "undisturbed", arguments, settings))
    finally:
        cluster.shutdown()
        del os.environ["RAY_TMPDIR"]


FREE = """
import sys, time
import ray
from ray.util.placement_group import placement_group_table
ray.init(address=sys.argv[1], logging_level="ERROR")
for _ in range(240):
    groups = [f for f in placement_group_table().values() if f["state"] != "REMOVED"]
    have, left = ray.cluster_resources(), ray.available_resources()
    taken = {k: v - left.get(k, 0.0) for k, v in have.items() if k in ("CPU", "GPU") and v - left.get(k, 0.0) > 1e-6}
    if not groups and not taken:
        sys.exit(0)
    time.sleep(0.5)
sys.exit(f"not free: placement groups {groups}, taken {taken}")
"""


def free(address: str) -> None:
    """Raise AssertionError unless every placement group of a cluster is gone and every CPU is free again."""
    import sys

    done = subprocess.run([sys.executable, "-c", FREE, address], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def clock(folder: pathlib.Path, epochs: int = 24, trials: int = 3) -> Iterator[Row]:
    library, hours = folder / "clock.so", folder / "shift"
    if not shutil.which("cc"):
        print("clock: there is no C compiler (cc), so the clock was not set back")
        return
    source = pathlib.Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    hours.write_bytes(struct.pack("l", 0))
    arguments = searching.given(folder, epochs)
    with search(folder, [*arguments, "--trials", str(trials)],
                environment={"LD_PRELOAD": str(library), "RAYCAL_CLOCK": str(hours)}) as run:
        run.start()
        run.wait_for_epochs(3)
        with open(hours, "r+b") as f:
            f.write(struct.pack("l", -3600))
        yield "clock set back 1 h", "the search goes on", run.wait_for_epochs(1)
        run.wait_for_epochs(1)
        run.driver.kill()
        run.end()
        with open(hours, "r+b") as f:
            f.write(struct.pack("l", -7200))
        run.start()
        yield "clock set back 1 h, resumed", "goes on from the checkpoint", run.recovered()
        assert run.end() == 0, run.said[-3000:]
        check(run, undisturbed(folder / "undisturbed", arguments, {"search.trials": trials}))


def check(run: Search, reference: list[Any]) -> None:
    """Check what a search that reached its end leaves: the undisturbed study, a file for every trial, nothing else."""
    check_whole(run.trials())
    check_same(run.trials(), reference)
    for trial in run.trials():
        if "objective_by_epoch" in trial.user_attrs:
            missing = [n for n in ("config.yaml", "metrics.json")
                       if not (run.folder / "trials" / f"{trial.number:04d}" / n).is_file()]
            assert not missing, f"trial {trial.number} has no {missing}"
    assert not list(run.folder.glob("trials/*/checkpoint.pt")), "checkpoints of finished trials are left"
    assert not run.left(), f"left: {run.left(0)}"


def _made(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    return folder


COURSES = {"parts": parts, "driver": driver, "ddp": ddp, "nodes": nodes, "clock": clock}


def main() -> int:
    from raycal.search import connection

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(COURSES), help="courses, comma-separated")
    args = parser.parse_args()
    connection.hush()
    print(common.machine(), flush=True)
    print(f"{'fault':32s}{'what it came to':48s}{'recovery':>10s}", flush=True)
    seconds, broken = {}, []
    for name in args.only.split(","):
        with common.scratch() as folder:
            try:
                for fault, outcome, recovery in COURSES[name](folder):
                    seconds[fault] = recovery
                    print(f"{fault:32s}{outcome:48s}{recovery:8.1f} s", flush=True)
                print(f"  {name}: the study is that of an undisturbed search, nothing is left", flush=True)
            except AssertionError as e:
                broken.append(name)
                print(f"  {name}: BROKEN: {e}", flush=True)
    common.finish({"recovery_s": {k: round(v, 1) for k, v in seconds.items()}, "broken": broken,
                   "load": os.getloadavg()[0]})
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
