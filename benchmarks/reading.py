"""Memory that the driver of a search takes to read many Allen-size sessions, against one of them.

    python benchmarks/reading.py [--recordings 16] [--frames 115459] [--cells 150]

Writes stand-in Visual Coding sessions (NWB 1), then reads and prepares them as a search does, once the first alone,
once all, each in a driver process of its own with a local Ray of its own. Memory is what a process alone holds
(Private_Clean + Private_Dirty of /proc/PID/smaps_rollup), sampled every 20 ms; "driver" is the peak above what the
driver held when Ray had started, "task" the highest peak of a process that reads. share is the driver's peak for all over
the bytes of one recording (goal: below 1); "held" is what the driver would hold if it read them itself.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import threading
import time
from typing import Any

import common


def private_bytes(pid: int | str = "self") -> int:
    """Return what a process alone holds in memory, 0 when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as f:
        return 1024 * sum(int(line.split()[1]) for line in f if line.startswith("Private_"))
    return 0


class Peak:
    """The highest private memory of this process and of any process that runs a task, while the block runs."""

    def __enter__(self) -> Peak:
        self.driver, self.task, self._over = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.driver = max(self.driver, private_bytes())
            for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if path.read_bytes().startswith((b"ray::_read", b"ray::_record")):
                        self.task = max(self.task, private_bytes(path.parent.name))


def drive(paths: list[str]) -> dict[str, Any]:
    """Read and prepare as a search does."""
    import ray

    from raycal.config import Config
    from raycal.search import recordings
    from raycal.sessions.agreement import agree
    from raycal.sessions.readers import local_places  # noqa: F401  imported before the baseline is taken

    settings = Config().sessions
    with common.local_ray():
        ray.get(ray.remote(num_cpus=0)(lambda: None).remote())
        before = private_bytes()
        with Peak() as peak:
            began = time.perf_counter()
            found = recordings.read(paths, settings, lambda items, total: items)
            read = time.perf_counter()
            prepared = recordings.prepare(found, settings, agree(found.sketches, settings, 64), say=lambda line: None)
            done = time.perf_counter()
        raw = sum(s.n_frames * s.n_neurons * 4 for s in found.sketches)
        return {"driver": peak.driver - before, "task": peak.task, "read_s": read - began, "prepare_s": done - read,
                "raw": raw, "prepared": prepared.n_bytes}


def measured(paths: list[str]) -> dict[str, Any]:
    """Return what `drive` finds in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--drive", *paths], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{len(paths):3d} recordings: driver + {found['driver'] / 2**20:.1f} MiB, reading task "
          f"{found['task'] / 2**20:.0f} MiB; read in {found['read_s']:.1f} s, prepared in {found['prepare_s']:.1f} s; "
          f"raw {found['raw'] / 2**20:.0f} MiB, prepared {found['prepared'] / 2**20:.0f} MiB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=int, default=16)
    parser.add_argument("--frames", type=int, default=115_459)
    parser.add_argument("--cells", type=int, default=150)
    parser.add_argument("--drive", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        common.finish(drive(args.drive))
        return
    from raycal.sessions import standin

    print(common.machine(), flush=True)
    with common.scratch() as folder:
        began = time.perf_counter()
        standin.write(folder, [(args.cells, args.frames)] * args.recordings, seed=0)
        print(f"{args.recordings} stand-in sessions written in {time.perf_counter() - began:.0f} s", flush=True)
        paths = sorted(map(str, (folder / "ophys_experiment_data").glob("*.nwb")))
        one, many = measured(paths[:1]), measured(paths)
    common.finish({"share": many["driver"] / one["raw"], "driver_one_mib": one["driver"] / 2**20,
                   "driver_many_mib": many["driver"] / 2**20, "held_mib": many["raw"] / 2**20,
                   "task_mib": many["task"] / 2**20, "read_s": many["read_s"], "prepare_s": many["prepare_s"],
                   "recordings": args.recordings})


if __name__ == "__main__":
    main()
