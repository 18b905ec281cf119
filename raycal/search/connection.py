"""Ray for a search: a local instance of its own or a cluster by address, quiet, with the slots that fit."""
from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from raycal.config import Config
from raycal.errors import UserError
from raycal.search import interruption, leftovers, nodes
from raycal.search.nodes import Slots, slots
from raycal.search.standing import WAITING, Standing

# Train's defaults cost seconds a slot: a 2 s controller poll, a preemption watcher, metrics, a patched print.
TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
                     "RAY_TRAIN_METRICS_ENABLED": "0", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
                     "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
                     "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0"}
RETURN = 120.0  # s that a pool which died has to come back
DRIVER_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
                      "RAY_AIR_NEW_OUTPUT": "0", "TUNE_RESULT_BUFFER_LENGTH": "1", "RAY_DEDUP_LOGS": "0",
                      "TUNE_WARN_THRESHOLD_S": "30", "TUNE_GLOBAL_CHECKPOINT_S": "3600",
                      "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1",
                      # a task that failed is said once, by who waits for it; its other results would be said again
                      "RAY_IGNORE_UNHANDLED_ERRORS": "1"}


def connect(config: Config, address: str | None = None, verbose: bool = False, temp_dir: str | None = None) -> bool:
    """Start or join Ray; return True when this process started it and is to end it."""
    import ray

    if not verbose:
        hush()
    if ray.is_initialized():
        return False
    environment = {**DRIVER_ENVIRONMENT, **TRAIN_ENVIRONMENT}
    for key, value in environment.items():
        os.environ.setdefault(key, value)
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        check_listening(address)
        try:
            with interruption.around_ray():
                ray.init(address=address, runtime_env={"env_vars": TRAIN_ENVIRONMENT}, **quiet)
        except (ConnectionError, ValueError) as e:
            raise UserError(f"--address {address}: no Ray cluster answers there ({str(e).splitlines()[0]}); "
                            "start one with ray up, or leave --address out for a local one") from None
        return True
    workers = config.training.workers
    cores = os.cpu_count() or 1
    # "local": a Ray that somebody else started on this machine stays theirs. A slot may have more workers than there
    # are cores (num_cpus is logical); the pool itself takes none.
    with interruption.around_ray():
        started = ray.init("local", num_cpus=max(cores, workers) + 1, include_dashboard=False, _temp_dir=temp_dir,
                           **quiet)
    leftovers.mark(started.address_info["session_dir"])
    keep_private(pathlib.Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser())
    return True


def keep_private(token: pathlib.Path) -> None:
    """Let nobody else read the token that Ray made for its processes: it lets in whoever shows it."""
    with contextlib.suppress(OSError):  # there is none where the user turned tokens off
        token.chmod(token.stat().st_mode & ~0o077)


def check_listening(address: str) -> None:
    """Refuse a HOST:PORT where nothing listens: Ray itself looks for more than a minute and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # auto, or a form that Ray itself refuses
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except (OSError, OverflowError) as e:
        raise UserError(f"--address {address}: no Ray cluster answers there ({e}); start one with ray up, or leave "
                        "--address out for a local one") from None


@dataclass
class Cluster:
    """Ray as a run has it: what fits, and the pool once it is started."""

    slots: Slots
    scratch: str  # folder for what Train and Tune insist on writing
    limit: float  # s an epoch may take
    most: int = 0  # slots where nodes join; 0: as many as there are
    pool: Any = None
    _settings: dict[str, Any] = field(default_factory=dict)  # of the pool
    _count: int = 0
    _refs: list = field(default_factory=list)
    _standing: Standing | None = None
    _lacked: str = ""  # why no slot could start when the search began

    def announce(self, say: Callable[[str], None]) -> None:
        """Say at once why no slot can start, where none can: to start the pool takes its time."""
        self._lacked = nodes.lacking(self.slots.resources, self.slots.workers)
        if self._lacked:
            say(WAITING + self._lacked)

    def grow(self, count: int) -> None:
        """Start slots until there are count; the first call makes the pool."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from raycal.search import groups
        from raycal.search.slots import SlotPool

        if self.pool is None:
            threads = max(1, (os.cpu_count() or 1) // self.slots.count) if self.slots.use_gpu else 1
            self._settings = {"workers": self.slots.workers, "resources": self.slots.resources, "limit": self.limit,
                              "use_gpu": self.slots.use_gpu, "storage": self.scratch, "threads": threads}
            self._settings["others"] = groups.of_slots(self._settings)
            # on the node of the driver, without which there is no search and where the run folder is; asked for softly,
            # Ray puts it on a node that has CPUs where the head has none
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self.pool = SlotPool.options(scheduling_strategy=here).remote(self._settings)
            self._standing = Standing(self.pool, self.slots.resources, self.slots.workers,
                                      lambda: groups.placed(self._settings), self._lacked)
        self._count = count
        ray.get(self.pool.grow.remote(count))

    def bound(self, worker: int, slot: int) -> int:
        """Take no more slots than the memory holds, and return how many that is; bytes as Slots.within takes them."""
        self.slots, fitting = self.slots.within(worker, slot)
        self.most = min(self.most, fitting)
        return fitting

    def room(self, say: Callable[[str], None] = print) -> int:
        """Return how many trials may run now, at least one: each needs a slot whose nodes are there.

        Slots are added where nodes joined. Say why where none stands; raise UserError when that lasts too long.
        """
        standing = self._standing(say)
        if standing.looked and self.most > self.slots.count == self._count:
            fit = min(self.most, nodes.workers_on(self.slots.resources, nodes.present()) // self.slots.workers)
            if fit > self.slots.count:
                say(f"nodes joined: {fit} trials at a time")
                self.slots = dataclasses.replace(self.slots, count=fit)
                self.grow(fit)
        return max(1, min(standing.slots, self.slots.count))

    def hand_over(self, refs: list) -> None:
        """Give the pool the references to the data that every later job trains on."""
        import ray

        self._refs = refs
        ray.get(self.pool.set_dataset.remote(refs))

    def mend(self) -> None:
        """Bring a pool that died, and came back empty, to where it was; one that lives stays as it is."""
        _insist(lambda: self.pool.grow.remote(self._count))
        if self._refs:
            _insist(lambda: self.pool.set_dataset.remote(self._refs))

    def wind_up(self, say: Callable[[str], None]) -> None:
        """End every job after the epoch it is in, with its state saved; the pool takes no other."""
        say("stopping: running epochs are finished and saved (ctrl-C once more stops at once)")
        self.pool.wind_up.remote()

    def close(self, gently: bool) -> None:
        """End the pool and remove the placement groups of its workers; gently: let the workers end by themselves."""
        import ray

        from raycal.search import groups

        if self.pool is None:
            return
        if gently:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self.pool.close.remote(), timeout=30)
        ray.kill(self.pool)
        groups.remove(groups.of_slots(self._settings))


def _insist(call: Callable[[], Any]) -> Any:
    """Return what a call of the pool answers, though it dies meanwhile and has to come back first."""
    import ray

    deadline = time.monotonic() + RETURN
    while True:
        try:
            return ray.get(call(), timeout=RETURN)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as e:
            if time.monotonic() > deadline:
                raise UserError(f"the pool of slots died and does not come back within {RETURN:.0f} s ({e}); what was "
                                "recorded stands, go on with --resume") from None
            time.sleep(0.5)


@contextlib.contextmanager
def cluster(config: Config, trials: int, max_concurrent: int = 0, address: str | None = None, verbose: bool = False,
            temp_dir: str | None = None, say: Callable[[str], None] = print) -> Iterator[Cluster]:
    """Connect to Ray, find what fits, and give everything back at the end; raise UserError when nothing fits."""
    import ray

    own = connect(config, address, verbose, temp_dir)
    leftovers.sweep()
    scratch = tempfile.mkdtemp(prefix=f"{leftovers.SCRATCH}{socket.gethostname()}-{os.getpid()}-")
    try:
        most = min(trials, max_concurrent or trials) if address else 0
        found = Cluster(slots(config, trials, max_concurrent, not address), scratch, config.training.epoch_limit, most)
        if address:
            found.announce(say)
        gently = False
        try:
            yield found
            gently = bool(address) or not own  # a local Ray of our own takes its workers along
        finally:
            with contextlib.suppress(ray.exceptions.RayError):  # a pool that died has nothing to give back
                found.close(gently)
    finally:
        if own:
            ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def hush() -> None:
    """Keep Ray's, Tune's and Optuna's chatter off the console."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")
    with contextlib.suppress(ImportError, AttributeError):  # a patch release may move it: noise, no failure
        _without_startup_warning()


def _without_startup_warning() -> None:
    """Drop the raylet's warning about many worker processes: slots are actors without a CPU, so they are meant.

    Ray has no setting for it: what the raylet publishes is printed even with log_to_driver=False.
    """
    from ray._private import worker

    original = worker.print_to_stdstream
    if getattr(original, "raycal", False):
        return

    def filtered(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not any("PYTHON worker processes have been started" in line for line in data["lines"]):
            original(data, ignore_prefix)

    filtered.raycal = True
    worker.print_to_stdstream = filtered
