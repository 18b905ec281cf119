"""One training in a slot of a cluster, a line of JSON an epoch; run by test_apart.py: python torn.py ADDRESS FOLDER."""
from __future__ import annotations

import functools
import json
import os
import pathlib
import sys
import time

from ray import cloudpickle

from raycal.config import Config
from raycal.search import connection, jobs
from raycal.search.nodes import Slots
from raycal.sessions import store
from raycal.sessions.prepare import prepare
from raycal.sessions.simulate import simulate
from raycal.training import loop

EPOCHS = 16


def told(config, dataset, *, train, resume=None, **options):
    """Train as always, half a second an epoch, saying from which epoch it resumed and on which node."""
    for epoch in train(config, dataset, resume=resume, **options):
        time.sleep(0.5)
        yield epoch._replace(extras={"from": resume["epoch"] if resume else 0, "node": int(os.environ["APART"])})


def main(address: str, folder: pathlib.Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    config = Config().replace({
        "quantizer.codebook_size": 16, "model.width": 16, "model.residual_blocks": 0, "windows.length": 16,
        "windows.min_steps": 2, "windows.stride": 32, "training.epochs": EPOCHS, "training.save_every": 0.0})
    session = simulate(n_neurons=6, n_frames=1500, rate=5.0, seed=1).session
    connection.connect(config, address)
    place = folder / "run" / "trials" / "0000"
    place.mkdir(parents=True)
    cluster = connection.Cluster(Slots(1, 1, {"CPU": 1.0}, False), str(folder / "train"), 60.0)
    cluster.grow(1)
    cluster.hand_over(store.put(prepare([session], Config().sessions, 16)))
    payload = {"config": config.flat(), "folder": str(place), "trainer": functools.partial(told, train=loop.train)}
    for _, event in jobs.complete(cluster, [("one", payload)], heard=lambda key, event: say(event)):
        print(json.dumps({"ended": event["kind"], "files": sorted(p.name for p in place.iterdir())}), flush=True)
    cluster.close(gently=True)


def say(event) -> None:
    print(json.dumps({"epoch": event["epoch"], **event["extras"]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
