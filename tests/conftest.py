"""Fixtures all tests share: real recordings where there are any, one Ray for all tests, an S3 on loopback."""
from __future__ import annotations

import logging
import os
import pathlib
import shutil
import tempfile
import threading
import time
import uuid

import pytest


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real recordings; without it the tests that read them say what they did not test."""
    folder = os.environ.get("RAYCAL_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("RAYCAL_DATA names no folder: real recordings were not tested")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
    """The folder of a small VAE that was trained for a second, and the recordings it was trained on."""
    import torch

    from raycal.config import Config
    from raycal.sessions.prepare import prepare
    from raycal.sessions.simulate import simulate
    from raycal.training import checkpoint
    from raycal.training.loop import train

    torch.set_num_threads(1)
    folder, state = tmp_path_factory.mktemp("vae"), {}
    sessions = [simulate(n_neurons=n, n_frames=1501, rate=5.0, seed=n, n_latents=2, noise=0.1, id=f"s{n}").session
                for n in (12, 9)]
    config = Config().replace({
        "model.family": "vae", "model.downsample": 1, "search.objective": "cosmoothing_r2", "model.width": 16,
        "windows.length": 17, "windows.batch": 16, "windows.min_steps": 8, "windows.stride": 32, "vae.latents": 3,
        "vae.window_latents": 2, "vae.identity": 8, "optimizer.lr": 3e-3, "training.epochs": 3,
        "training.device": "cpu"})
    for _ in train(config, prepare(sessions, config.sessions, 17, log=lambda _: None), save=state.update):
        pass
    checkpoint.save(folder / "model.pt", checkpoint.export(state))
    return folder, sessions


@pytest.fixture(scope="session")
def ray_session():
    """One local Ray, ended with everything it started."""
    ray = pytest.importorskip("ray")
    from raycal.config import Config
    from raycal.search import connection

    temp_dir = tempfile.mkdtemp(prefix="rc", dir="/tmp")  # short: a socket's path holds 107 bytes
    os.environ.pop("RAY_ADDRESS", None)
    connection.connect(Config().replace({"training.workers": 3}), temp_dir=temp_dir)
    yield ray
    ray.shutdown()
    shutil.rmtree(temp_dir, ignore_errors=True)


@pytest.fixture
def space_file(tmp_path):
    """Write a search space of a few seconds and return its path."""
    path = tmp_path / "tiny.py"
    path.write_text('''
from raycal.config import Config

BASE = Config().replace({"quantizer.codebook_size": 16, "quantizer.code_dim": 8, "model.width": 16,
                         "model.residual_blocks": 0, "model.residual_width": 8, "windows.length": 16,
                         "training.epochs": 3, "windows.min_steps": 4, "windows.stride": 32})


def propose(trial, base):
    trial.suggest_categorical("quantizer.type", ["ema", "vq"])
    trial.suggest_int("quantizer.codebook_size", 8, 64, log=True)
    trial.suggest_float("optimizer.lr", 1e-3, 1e-2, log=True)
    return base.replace(trial.params)
''')
    return str(path)


class Faults:
    """What stands between a client and the S3 server: errors, delays, a count of requests."""

    def __init__(self, app):
        self._app, self.status, self.delay, self.every = app, "", 0.0, 1
        self.served = self.refused = 0

    def __call__(self, environ, start_response):
        time.sleep(self.delay)
        if self.status and (self.served + self.refused) % self.every == 0:
            self.refused += 1
            start_response(self.status, [("Content-Type", "application/xml"), ("Connection", "close")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        self.served += 1
        return self._app(environ, start_response)


@pytest.fixture
def s3(monkeypatch):
    """A bucket on loopback behind faults; yields them and the URI."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    from werkzeug.serving import make_server

    faults = Faults(moto.DomainDispatcherApplication(moto.create_backend_app))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for key, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
                       "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}.items():
        monkeypatch.setenv(key, value)
    bucket = f"lab-{uuid.uuid4()}"  # moto keeps its buckets as long as the process lives
    boto3.client("s3").create_bucket(Bucket=bucket)
    yield faults, f"s3://{bucket}/runs"
    server.shutdown()
    thread.join()
    server.server_close()
