"""`ray up` against a stand-in for AWS, as far as the machines are asked for: none boots, so SSH is a stand-in too."""
from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml

import raycal

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(raycal.__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text())
REGION = CONFIG["provider"]["region"]
RAY = pathlib.Path(sys.executable).with_name("ray")


@pytest.fixture
def aws(tmp_path, monkeypatch):
    """An AWS on loopback that has the roles, a home of its own, and an ssh to nobody."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    (programs / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (programs / "ssh").chmod(0o755)
    for key, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "testing",
                       "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION, "HOME": str(home),
                       "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{programs}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(ROOT)
    boto3.client("cloudformation", REGION).create_stack(
        StackName="raycal-roles", Capabilities=["CAPABILITY_NAMED_IAM"],
        TemplateBody=(ROOT / "cluster" / "aws_roles.yaml").read_text(),
        Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "lab"}])
    yield boto3
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    server.stop()


def instances(boto3):
    return list(boto3.resource("ec2", REGION).instances.all())


def tags_of(instance):
    return {t["Key"]: t["Value"] for t in instance.tags or []}


def test_the_head_is_asked_for_as_the_file_says(aws, tmp_path):
    with (tmp_path / "said").open("w") as said:
        up = subprocess.Popen([RAY, "up", "-y", "--no-config-cache", "cluster/gpu.yaml"], stdout=said,
                              stderr=subprocess.STDOUT, start_new_session=True)
        try:
            deadline = time.monotonic() + 240
            while not instances(aws) and up.poll() is None and time.monotonic() < deadline:
                time.sleep(0.5)
        finally:
            os.killpg(up.pid, signal.SIGKILL)
            up.wait()
    started = instances(aws)
    assert len(started) == 1, (tmp_path / "said").read_text()
    head, = started
    assert (head.instance_type, head.instance_lifecycle) == ("m5.xlarge", None)
    assert head.iam_instance_profile["Arn"].endswith("instance-profile/raycal-head")
    tags = tags_of(head)
    assert {"ray-cluster-name": "raycal-gpu", "ray-node-type": "head", "ray-user-node-type": "head",
            "project": "raycal"}.items() <= tags.items()
    group, = head.security_groups
    opened = aws.resource("ec2", REGION).SecurityGroup(group["GroupId"]).ip_permissions
    assert {p["FromPort"] for p in opened if p["IpRanges"]} == {22}, "SSH alone is open to the world"


def test_each_worker_is_asked_for_as_the_file_says(aws):
    """By the calls that the autoscaler makes on the head."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    config = bootstrap_aws(prepare_config(CONFIG))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    workers = [name for name in config["available_node_types"] if name != "head"]
    for name in workers:
        provider.create_node(config["available_node_types"][name]["node_config"],
                             {"ray-node-type": "worker", "ray-user-node-type": name}, 1)
    asked = {tags_of(i)["ray-user-node-type"]: i for i in instances(aws)}
    assert {n: (i.instance_type, i.instance_lifecycle) for n, i in asked.items()} == {
        "gpu1_spot": ("g5.2xlarge", "spot"), "gpu1_ondemand": ("g5.2xlarge", None),
        "gpu8_spot": ("g5.48xlarge", "spot"), "gpu8_ondemand": ("g5.48xlarge", None)}
    for instance in asked.values():
        assert instance.iam_instance_profile["Arn"].endswith("instance-profile/raycal-worker")
        assert tags_of(instance)["project"] == "raycal" and tags_of(instance)["ray-cluster-name"] == "raycal-gpu"


def test_workers_may_write_the_bucket_and_nothing_else(aws):
    iam = aws.resource("iam", REGION)
    worker, head = iam.Role("raycal-worker"), iam.Role("raycal-head")
    assert not list(worker.policies.all())
    policy, = worker.attached_policies.all()
    allowed = policy.default_version.document["Statement"]
    assert {s["Resource"] for s in allowed} == {"arn:aws:s3:::lab", "arn:aws:s3:::lab/*"}
    assert all(action.startswith("s3:") for s in allowed for action in s["Action"])
    inline, = head.policies.all()
    document = inline.policy_document
    if isinstance(document, str):  # moto gives back text, of JSON or of Python
        document = yaml.safe_load(document)
    passed, = [s["Resource"] for s in document["Statement"] if s["Action"] == "iam:PassRole"]
    assert passed == worker.arn
