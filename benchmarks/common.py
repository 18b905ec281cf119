"""What the benchmarks share: a local Ray of their own, and the last line that a program reads."""
from __future__ import annotations

import contextlib
import json
import os
import pathlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # a checkout need not be installed
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (sys.path[0], os.environ.get("PYTHONPATH"))))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Ray sets it for its workers
os.environ.pop("RAY_ADDRESS", None)  # never measure somebody's cluster


@contextlib.contextmanager
def scratch() -> Iterator[pathlib.Path]:
    """A folder for the block, with a short name: the path of a Ray socket holds 107 bytes."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="rcb", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def local_ray() -> Iterator[pathlib.Path]:
    """A new local Ray for the block, started as a search starts it; gives a scratch folder."""
    import ray

    from raycal.config import Config
    from raycal.search import connection

    with scratch() as path:
        connection.connect(Config(), temp_dir=str(path / "ray"))
        try:
            yield path
        finally:
            ray.shutdown()


def machine() -> str:
    """Return one line on where the numbers come from."""
    import ray
    import torch

    load = os.getloadavg()[0]
    return (f"{os.cpu_count()} cores, load {load:.1f} at the start; Python {platform.python_version()}, "
            f"torch {torch.__version__}, ray {ray.__version__}")


def finish(result: dict[str, Any]) -> None:
    """Print the result as one JSON object, the last line of stdout; numbers to 4 digits."""
    print(json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in result.items()}), flush=True)
