"""Every shipped cluster file passes `raycal cluster check`; a copy with one mistake is refused, naming it."""
from __future__ import annotations

import copy
import pathlib
import re

import pytest
import yaml

import raycal
from raycal import cli, cluster

ROOT = pathlib.Path(raycal.__file__).parents[1]
SHIPPED = ("gpu.yaml", "onprem.yaml", "gcp.yaml", "kuberay.yaml", "slurm.sh")
FAKE_KEY = "AKIA" + "IOSFODNN7EXAMPLE"  # AWS's own example, in two parts for scanners of this repository


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def changed(tmp_path):
    """Write a copy of a shipped file with one change; return the findings that are not ok."""
    def change(name, mistake):
        config = copy.deepcopy(yaml.safe_load((ROOT / "cluster" / name).read_text()))
        mistake(config)
        path = tmp_path / name
        path.write_text(yaml.safe_dump(config))
        return [f for f in cluster.examine(str(path)) if f.state != "ok"]

    return change


def put(value, *keys):
    """A mistake: set what keys lead to."""
    def change(config):
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


def drop(*keys):
    def change(config):
        for key in keys[:-1]:
            config = config[key]
        del config[keys[-1]]

    return change


def swap(old, new, *keys):
    """A mistake: another word in a list of commands."""
    def change(config):
        for key in keys:
            commands = config[key]
            assert any(old in c for c in commands), (old, key)
            config[key] = [c.replace(old, new) for c in commands]

    return change


WORKER = ("available_node_types", "gpu1_spot")
NODE = (*WORKER, "node_config")
START = ("head_start_ray_commands", "worker_start_ray_commands")
OPEN = [{"FromPort": 8265, "ToPort": 8265, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]

MISTAKES = [
    # (file, mistake, name of the finding, what it names, how it says to mend it)
    ("gpu.yaml", put(3, "max_worker"), "schema", "max_worker", "did you mean 'max_workers'?"),
    ("gpu.yaml", put(1, *WORKER, "min_worker"), "schema", "gpu1_spot: .*min_worker", "did you mean 'min_workers'?"),
    ("gpu.yaml", put("nope", "head_node_type"), "schema", "head_node_type", "docs.ray.io"),
    ("gpu.yaml", put(9, *WORKER, "min_workers"), "schema", "max_workers", "docs.ray.io"),
    ("gpu.yaml", put("echo", "setup_commands"), "schema", "refuses it", "docs.ray.io"),
    ("gpu.yaml", put("g5.2xlarge", *NODE, "InstanceTyp"), "node_config",
     "gpu1_spot.node_config.InstanceTyp: g5.2xlarge",
     "did you mean 'InstanceType'?"),
    ("gpu.yaml", put("g5.2xlage", *NODE, "InstanceType"), "node_config", "InstanceType: g5.2xlage is none of EC2's",
     "did you mean 'g5.2xlarge'"),
    ("gpu.yaml", put("Spot", *NODE, "InstanceMarketOptions", "MarketType"), "node_config", "MarketType: Spot",
     "did you mean 'spot'?"),
    ("gpu.yaml", put("150GB", *NODE, "BlockDeviceMappings", 0, "Ebs", "VolumeSize"), "node_config",
     r"BlockDeviceMappings\[0\].Ebs.VolumeSize: '150GB'", "integer"),
    ("gpu.yaml", put(150, *NODE, "BlockDeviceMappings", 0, "Ebs", "VolumeSiz"), "node_config", "Ebs.VolumeSiz: 150",
     "did you mean 'VolumeSize'?"),
    ("gpu.yaml", put("us-west-2", "provider", "regionn"), "provider", "provider.regionn: us-west-2",
     "did you mean 'region'?"),
    ("gpu.yaml", put("us-east-1a", "provider", "availability_zone"), "provider", "us-east-1a is not in .*us-west-2",
     "a zone of us-west-2"),
    ("gpu.yaml", put("./nowhere", "file_mounts", "/home/ubuntu/data"), "mounts", "/home/ubuntu/data: ./nowhere",
     "root of the checkout"),
    ("gpu.yaml", drop(*NODE, "ImageId"), "image", "gpu1_spot.node_config.ImageId is missing", "look one up"),
    ("gpu.yaml", put("latest_dlami", *NODE, "ImageId"), "image", "latest_dlami is Ubuntu 18.04", "look one up"),
    ("gpu.yaml", put("ami-0a2b85e15b7c0ac34", *NODE, "ImageId"), "image", "ami-0a2b85e15b7c0ac34 is Ubuntu 18.04",
     "look one up"),
    ("gpu.yaml", put("ami-YOURS", *NODE, "ImageId"), "image", "ami-YOURS", "ami-..."),
    ("gpu.yaml", swap("==2.60.0", "==2.9.3", "setup_commands"), "ray", "ray==2.9.3, but 2.60.0", "ray==2.60.0"),
    ("gpu.yaml", drop("setup_commands"), "ray", "no stated version", "==2.60.0"),
    ("gpu.yaml", put({"image": "rayproject/ray:2.9.3-gpu", "container_name": "ray"}, "docker"), "ray", "2.9.3",
     "ray==2.60.0"),
    ("gpu.yaml", drop(*NODE, "IamInstanceProfile"), "storage", "gpu1_spot.node_config.IamInstanceProfile is missing",
     "raycal-worker"),
    ("gpu.yaml", drop("available_node_types", "head", "node_config", "IamInstanceProfile"), "storage", "may not pass",
     "raycal-head"),
    ("gpu.yaml", put(4, *WORKER, "resources", "GPU"), "resources", "gpu1_spot.resources.GPU: 4, but g5.2xlarge has 1",
     "GPU: 1"),
    ("gpu.yaml", put({"CPU": 8}, *WORKER, "resources"), "resources", "GPU: 0, but g5.2xlarge has 1", "GPU: 1"),
    ("gpu.yaml", put(96, "available_node_types", "gpu8_spot", "resources", "CPU"), "resources",
     "CPU: 96, but g5.48xlarge has 192", "CPU: 192"),
    ("gpu.yaml", swap("127.0.0.1", "0.0.0.0", "head_start_ray_commands"), "ports", "--dashboard-host=0.0.0.0",
     "tunnel"),
    ("gpu.yaml", put({"IpPermissions": OPEN}, "provider", "security_group"), "ports", "8265 to 8265", "tunnel"),
    ("gpu.yaml", swap("RAY_AUTH_MODE=token ", "", START[0]), "token", "head_start.*no RAY_AUTH_MODE",
     "RAY_AUTH_MODE=token"),
    ("gpu.yaml", swap("=token", "=disabled", START[1]), "token", "worker_start.*RAY_AUTH_MODE=disabled", "=token"),
    ("gpu.yaml", drop("cluster_synced_files"), "token", "workers get no token", "cluster_synced_files"),
    ("gpu.yaml", put({"aws_access_key_id": "x"}, "provider", "aws_credentials"), "credentials",
     "provider.aws_credentials", "take it out"),
    ("gpu.yaml", put(["echo " + FAKE_KEY], "initialization_commands"), "credentials", "line .* an AWS access key",
     "role"),
    ("gpu.yaml", put(["RAY_AUTH_TOKEN=0123456789abcdef0123 true"], "initialization_commands"), "credentials",
     "a Ray token", "role"),
    ("onprem.yaml", swap("RAY_enable_autoscaler_v2=0 ", "", START[0]), "autoscaler", "last worker never joins",
     "RAY_enable_autoscaler_v2=0"),
    ("onprem.yaml", put(["192.168.1.10"], "provider", "worker_ips"), "provider",
     "worker_ips holds the head, 192.168.1.10",
     "take it out"),
    ("onprem.yaml", put("192.168.1.10", "provider", "head_up"), "provider", "provider.head_up",
     "did you mean 'head_ip'?"),
    ("onprem.yaml", drop("provider", "worker_ips"), "schema", "worker_ips", "docs.ray.io"),
    ("gcp.yaml", put("n1", *NODE, "machineTyp"), "node_config", "machineTyp: n1", "did you mean 'machineType'?"),
    ("gcp.yaml", drop(*NODE, "serviceAccounts"), "storage", "gpu1_spot.node_config.serviceAccounts", "objectAdmin"),
    ("gcp.yaml", put(2, *WORKER, "resources", "GPU"), "resources", "GPU: 2, but g2-standard-8 has 1", "GPU: 1"),
    ("gcp.yaml", put([], *NODE, "disks"), "image", "no sourceImage", "gcloud compute images list"),
    ("kuberay.yaml", put("2.9.3", "spec", "rayClusterSpec", "rayVersion"), "ray", "rayVersion: 2.9.3",
     "rayVersion: 2.60.0"),
    ("kuberay.yaml", drop("spec", "rayClusterSpec", "authOptions"), "token", "authOptions.mode", "mode: token"),
    ("kuberay.yaml", put(1, "spec", "entrypoints"), "schema", "spec.entrypoints: 1", "did you mean 'entrypoint'?"),
    ("kuberay.yaml", put("LoadBalancer", "spec", "rayClusterSpec", "headGroupSpec", "serviceType"), "ports",
     "dashboard",
     "port-forward"),
    ("kuberay.yaml", drop("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "serviceAccountName"),
     "storage", "gpu1.template", "may write the bucket"),
    ("kuberay.yaml", put("rayproject/ray:latest", "spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec",
                         "containers", 0, "image"), "image", "rayproject/ray:latest", "names Ray's version"),
]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_has_nothing_against_it(name):
    found = list(cluster.examine(str(ROOT / "cluster" / name)))
    assert found and {f.state for f in found} == {"ok"}, [str(f) for f in found]


@pytest.mark.parametrize("name, mistake, finding, words, fix", MISTAKES,
                         ids=[f"{m[0]}-{m[2]}-{i}" for i, m in enumerate(MISTAKES)])
def test_one_mistake_is_found_and_named(changed, name, mistake, finding, words, fix):
    found = changed(name, mistake)
    assert any(f.state == "bad" and f.name == finding and re.search(words, f.found) and re.search(fix, f.fix)
               for f in found), [str(f) for f in found]
    assert {f.name for f in found if f.state == "bad"} == {finding}, "one mistake is not said to be another"
    assert all("\n" not in str(f) for f in found)


def test_a_folder_of_credentials_is_not_copied_to_the_machines(changed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    found, = changed("gpu.yaml", put("~/.aws", "file_mounts", "/home/ubuntu/.aws"))
    assert (found.name, found.state) == ("credentials", "bad") and "~/.aws" in found.found


def test_a_credential_is_named_and_never_printed(changed):
    for finding in changed("gpu.yaml", put(["echo " + FAKE_KEY], "initialization_commands")):
        assert FAKE_KEY not in str(finding)


@pytest.mark.parametrize("line, finding, words", [
    ("#SBATCH --exclusive", "slurm", "--exclusive"), ("#SBATCH --nodes=2", "slurm", "--nodes"),
    ("#SBATCH --ntasks-per-node=1", "slurm", "ntasks"), ("export RAY_AUTH_MODE=token", "token", "no RAY_AUTH_MODE"),
    ("ray symmetric-run --address", "slurm", "symmetric-run is not called"), ("set -euo pipefail", "slurm",
     "bash refuses")])
def test_a_script_for_slurm_without_what_it_needs(tmp_path, line, finding, words):
    text = (ROOT / "cluster" / "slurm.sh").read_text()
    assert line in text
    (tmp_path / "slurm.sh").write_text(text.replace(line, "if (" if line.startswith("set ") else "true", 1))
    found = [f for f in cluster.examine(str(tmp_path / "slurm.sh")) if f.state == "bad"]
    assert [f.name for f in found] == [finding] and words in found[0].found and found[0].fix


def test_the_verb_prints_a_line_a_finding_and_ends_with_1_when_one_is_bad(tmp_path, capsys):
    good, bad = str(ROOT / "cluster" / "gpu.yaml"), tmp_path / "bad.yaml"
    bad.write_text(pathlib.Path(good).read_text().replace("InstanceType: g5.48xlarge", "InstanceType: g5.12xlarge"))
    assert cli.main(["cluster", "check", good]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert {line[:6] for line in lines} == {"ok    "} and last == "nothing found that stands in the way"
    assert cli.main(["cluster", "check", good, str(bad)]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    told = [line for line in lines if line.startswith("bad")]
    assert told and all("g5.12xlarge" in line and "; fix: " in line for line in told)
    assert last.startswith(str(len(told)))


@pytest.mark.parametrize("text, words", [
    ("cluster_name: [", "line 1"), ("- a\n", "holds list"), ("hello: 1\n", "neither what ray up takes")])
def test_what_is_no_cluster_file_is_bad_input(tmp_path, capsys, text, words):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert cli.main(["cluster", "check", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"raycal: {path}") and words in error and "Traceback" not in error


def test_a_file_that_is_not_there(capsys):
    assert cli.main(["cluster", "check", "cluster/gpu.yml"]) == 2
    assert "cluster/gpu.yml: cannot be read (No such file" in capsys.readouterr().err


def test_what_instance_types_have_is_what_the_catalogue_says():
    """moto carries AWS's own DescribeInstanceTypes."""
    from raycal.cluster import aws

    types = pytest.importorskip("moto.ec2.models.instance_types").INSTANCE_TYPES
    known = {t: aws.capacity(t) for t in types}
    compared = {t: c for t, c in known.items() if c}
    for name, has in compared.items():
        gpus = sum(g.get("Count", 0) for g in types[name].get("GpuInfo", {}).get("Gpus", []))
        assert has == (types[name]["VCpuInfo"]["DefaultVCpus"], gpus), name
    assert {"m5.xlarge", "g5.2xlarge", "g5.48xlarge", "p4d.24xlarge"} <= set(compared) and len(compared) > 100


def test_the_files_pin_what_the_constraints_pin():
    pins = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert len(pins) == 1
    for name in ("gpu.yaml", "onprem.yaml", "gcp.yaml"):
        text = (ROOT / "cluster" / name).read_text()
        assert "==" + pins[0] in text and "-c ~/checkout/constraints.txt" in text and "latest_dlami\n" not in text
