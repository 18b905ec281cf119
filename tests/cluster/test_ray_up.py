"""`ray up` of cluster/gpu.yaml as it is, on a cloud of machines on this box, with a search that loses a spot node.

    pytest -m cloud -s tests/cluster/test_ray_up.py          # root on Linux; minutes; prints how long each step took

EC2, IAM and S3 are moto's; what EC2 starts is a machine of machines.py, with this Python environment for an image. GPUs
are claimed, not there: trials train on the CPU. RAYCAL_IDLE_MINUTES shortens the wait of the last step, the only
change of the file that is made, and only where it is set. Not tested: AWS's rights, quotas, images and drivers.
"""
from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import time

import pytest
import yaml

import raycal

pytestmark = [pytest.mark.cloud, pytest.mark.root, pytest.mark.timeout(3600)]
ROOT = pathlib.Path(raycal.__file__).parents[1]
BIN = pathlib.Path(sys.executable).parent
REGION, BUCKET, GATEWAY = "us-west-2", "raycal-lab", "172.31.0.1"
SEARCH = ("--space", "checkout/tests/tiny.py", "--address", "auto", "--storage", f"s3://{BUCKET}/runs",
          "--max-concurrent", "2", "--trials", "4", "--epochs", "150", "--pruner", "none", "--sampler", "random",
          "--no-confirm", "--set", "training.save_every=1")


@pytest.fixture
def cloud(machines, tmp_path, monkeypatch):
    """An AWS whose instances are machines on this box; yields (cloud, boto3)."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    if machines.lacking():
        pytest.skip(f"{machines.lacking()}: ray up of cluster/gpu.yaml was not tested")
    home = tmp_path / "home"
    home.mkdir()
    server = moto.ThreadedMotoServer(ip_address="0.0.0.0", port=0)
    server.start()
    aws = {"AWS_ENDPOINT_URL": f"http://{GATEWAY}:{server.get_host_and_port()[1]}", "AWS_ACCESS_KEY_ID": "testing",
           "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION}
    for key, value in {**aws, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT),
                       "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1",
                       "TERM": "dumb"}.items():
        monkeypatch.setenv(key, value)
    for key in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(key, raising=False)

    def key() -> str:
        made = home / ".ssh" / f"ray-autoscaler_{REGION}.pem"
        return subprocess.run(["ssh-keygen", "-y", "-f", made], check=True, capture_output=True, text=True).stdout

    found = machines.Machines(tmp_path / "machines", f"{GATEWAY}/16", "rcup0", key, environment=aws)
    boto3.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    boto3.client("cloudformation").create_stack(
        StackName="raycal-roles", Capabilities=["CAPABILITY_NAMED_IAM"],
        TemplateBody=(ROOT / "cluster" / "aws_roles.yaml").read_text(),
        Parameters=[{"ParameterKey": "Bucket", "ParameterValue": BUCKET}])
    started = machines.Cloud(boto3.resource("ec2"), found, lambda line: print(f"           cloud {line}", flush=True))
    yield started, boto3
    started.end()
    server.stop()


def cluster_file(tmp_path: pathlib.Path) -> str:
    minutes = os.environ.get("RAYCAL_IDLE_MINUTES")
    if not minutes:
        return "cluster/gpu.yaml"
    config = yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text())
    (tmp_path / "gpu.yaml").write_text(yaml.safe_dump({**config, "idle_timeout_minutes": float(minutes)}))
    return str(tmp_path / "gpu.yaml")


def test_a_search_on_a_cluster_that_grows_loses_a_node_and_shrinks(cloud, shell, tmp_path):
    started, boto3 = cloud
    steps, until, file = shell.Steps(), shell.until, cluster_file(tmp_path)

    def workers() -> list[str]:
        return [i for i, kind in started.live().items() if kind.startswith("gpu1")]

    def ray(verb: str, *rest: str):
        return shell.Command(steps, "ray", verb, *rest, cwd=ROOT)

    def raycal(*rest: str):
        return shell.Command(steps, sys.executable, "-m", "raycal.cli", *rest, cwd=tmp_path)

    def stored(pattern: str) -> list[str]:
        keys = [o.key for o in boto3.resource("s3").Bucket(BUCKET).objects.all()]
        return [k for k in keys if re.search(pattern, k)]

    ray("up", "-y", "--no-config-cache", file).ends(1200)
    assert list(started.live().values()) == ["head"]
    steps.done("ray up")

    search = ray("submit", "--no-config-cache", file, "run_search.py", "--", *SEARCH)
    search.hears(r"waiting: a slot takes 1 CPU \+ 1 GPU, and no node is up", 300)
    until(lambda: len(workers()) == 2, 600, "two GPU nodes were not started")
    steps.done("0 to 2 GPU nodes asked for")
    search.hears(r"trial +\d+ +nmse ", 1200)
    time.sleep(5)  # both slots are in the middle of a trial, which takes longer
    steps.done("the first trial")

    lost = workers()[0]
    boto3.client("ec2").terminate_instances(InstanceIds=[lost])
    search.ends(1800)
    assert any(re.search(r"4 trials complete, 0 stopped early, 0 failed", line) for line in search.lines)
    steps.done("a node lost, the search ended")
    run = f"s3://{BUCKET}/runs/" + stored("study.journal")[0].split("/")[1]

    ray("exec", "--no-config-cache", file, "rm -rf ~/runs").ends(300)
    again = ray("submit", "--no-config-cache", file, "run_search.py", "--", "--resume", run, "--more", "1", "--address",
                "auto", "--max-concurrent", "1")
    again.ends(1800)
    steps.done("a lost run resumed from S3 with a trial more")

    raycal("report", run).ends(600)
    table = raycal("export", run)
    table.ends(300)
    assert sum("complete" in line for line in table.lines) == 5 and run in (tmp_path / "report.html").read_text()
    steps.done("report read back from S3")

    until(lambda: not workers(), 1200, "idle nodes stayed")
    steps.done("idle nodes ended")
    ray("down", "-y", file).ends(600)
    until(lambda: not started.live(), 120, "something is left")
    steps.done("ray down")
    assert {i.state["Name"] for i in boto3.resource("ec2").instances.all()} <= {"terminated", "shutting-down"}
    print(steps)
