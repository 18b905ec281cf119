"""Worker groups of Ray Train: how a slot runs one, and the placement groups that are left when it is killed.

Train leaves that to an actor of its own for every slot, which asks a dashboard that a local Ray lacks, repeats that it
cannot, and outlives the search. The pool knows when a slot falls, so it does it itself.
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.train import UserCallback

from raycal.search.worker import worker_loop


MARKS = 2**24  # bytes of memory, which no worker lacks, that a group asks for besides: they say whose it is


def new_mark() -> int:
    return 1 + int.from_bytes(os.urandom(3), "big")


def fit(pool: Any, index: int, rebuild: int, mark: int, settings: Mapping[str, Any]) -> None:
    """Run one slot: a TorchTrainer whose workers loop over jobs until the pool closes; its groups bear the mark."""
    import torch
    from ray import train
    from ray.train.torch import TorchTrainer

    from raycal.search.network import OwnAddress

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [c for c in callbacks if type(c).__name__ != "PlacementGroupCleanerCallback"]

    Trainer(
        worker_loop,
        train_loop_config={"pool": pool, "slot": index, "threads": settings["threads"]},
        scaling_config=train.ScalingConfig(num_workers=settings["workers"], use_gpu=settings["use_gpu"],
                                           resources_per_worker={**settings["resources"], "memory": mark}),
        torch_config=OwnAddress(
            backend="nccl" if settings["use_gpu"] and torch.distributed.is_nccl_available() else "gloo"),
        run_config=train.RunConfig(name=f"slot-{index}-{rebuild}", storage_path=settings["storage"],
                                   failure_config=train.FailureConfig(max_failures=-1, controller_failure_limit=0),
                                   callbacks=[_Witness(pool, index)]),
    ).fit()


class _Witness(UserCallback):
    """Tells the pool what Train saw of a worker that died: it cannot say itself that Ray ended it for its memory."""

    def __init__(self, pool: Any, index: int):
        self._pool, self._index = pool, index

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            cause = getattr(error, "health_check_failure", error)
            memory = isinstance(cause, ray.exceptions.OutOfMemoryError)
            ray.get(self._pool.witness.remote(self._index, "oom" if memory else "died", str(cause)))


def waited(error: BaseException | None) -> bool:
    """Say whether fit() ended because no nodes were free for its group in the time that Train waits for them."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def of_slots(settings: Mapping[str, Any]) -> dict[str, int]:
    """Return {placement group: mark} of this Ray job's groups that are slots', but for settings["others"].

    Train gives groups no name, and a controller that is killed before its workers say where they are leaves one that
    nobody knows of: what it holds would be missing until the search ends.
    """
    from ray.util.placement_group import placement_group_table

    job, found = ray.get_runtime_context().get_job_id(), {}
    for id, facts in placement_group_table().items():
        bundles = [dict(b) for b in facts["bundles"].values()]
        mark = int(bundles[0].get("memory", 0)) if bundles else 0
        if id.endswith(job) and facts["state"] != "REMOVED" and id not in settings.get("others", ()) \
                and 0 < mark <= MARKS and bundles == [{**settings["resources"], "memory": mark}] * settings["workers"]:
            found[id] = mark
    return found


def placed(settings: Mapping[str, Any]) -> bool:
    """Say whether some slot's group has its place on nodes."""
    from ray.util.placement_group import placement_group_table

    table = placement_group_table()
    return any(table.get(id, {}).get("state") == "CREATED" for id in of_slots(settings))


def remove(ids: Iterable[str | None]) -> None:
    """Remove placement groups by id, those that are still there."""
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    table = placement_group_table()
    for id in ids:
        if table.get(id, {}).get("state") not in (None, "REMOVED"):
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(id))))
