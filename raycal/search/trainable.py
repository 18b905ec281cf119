"""The Tune trainable: borrows a slot of the pool for a trial, and owns nothing.

Were it to own its slot, every exception would rebuild it (measured: 13 set-ups where 2 are needed).
So nothing is raised from `step`: whatever ends a job comes back as a result with done=True.
"""
from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray import tune

from raycal.search.parcel import Parcel
from raycal.search.slots import Empty, NoSlot


class BorrowedSlot(tune.Trainable):
    """Class trainable without a CPU, with reuse_actors; its config is {"number", "payload": Parcel}."""

    def setup(self, config: dict[str, Any], pool=None) -> None:
        self._pool, self._seq = pool, None
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._return()
        self._take(new_config)
        return True

    def _take(self, job: dict[str, Any]) -> None:
        """Take a job out of what Tune would send back with every result."""
        self._number, self._payload, self.config = job["number"], job["payload"].content, {}

    def step(self) -> dict[str, Any]:
        try:
            event = self._next()
        except NoSlot as e:
            event = {"kind": "no slot", "message": str(e)}
        except (Empty, ray.exceptions.RayActorError) as e:
            event = {"kind": "lost", "message": f"the pool of slots died: {e}"}
        done = event["kind"] not in ("epoch", "paused") or event.get("done", False)
        if done:
            self._return()
        return {"number": self._number, "event": Parcel(event), "done": done}

    def _next(self) -> dict[str, Any]:
        if self._seq is None:
            self._seq = ray.get(self._pool.borrow.remote(self._number, self._payload))
        return ray.get(self._pool.step.remote(self._seq))

    def _return(self) -> None:
        if self._seq is not None:
            with contextlib.suppress(ray.exceptions.RayActorError):  # a pool that died has forgotten the job
                ray.get(self._pool.release.remote(self._seq))
            self._seq = None

    def cleanup(self) -> None:
        self._return()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}  # the worker writes the state of its trial; a trainable has none

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None: ...
