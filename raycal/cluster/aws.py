"""Checks of what goes to EC2: keys of RunInstances, images, profiles, and what an instance type has."""
from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from raycal.doctor import Finding
from raycal.errors import nearest

IMAGE = r"ami-[0-9a-f]{8}(?:[0-9a-f]{9})?|resolve:ssm:/\S+"
LOOK_UP = "an image of your own choice; the comment in cluster/gpu.yaml says how to look one up"
PLAIN = r"[cmr][5-8][a-z]*"  # families without a GPU whose sizes say their CPUs
CPUS = {"large": 2, "xlarge": 4}  # and N times 4 for Nxlarge
# GPUs of the sizes that have more than one; what AWS's pages of instance types say.
GPUS = {"g4dn": {"12xlarge": 4, "metal": 8}, "g5": {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
        "g6": {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}, "g6e": {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
        "gr6": {}, "p3": {"8xlarge": 4, "16xlarge": 8}, "p3dn": {"24xlarge": 8}, "p4d": {"24xlarge": 8},
        "p4de": {"24xlarge": 8}, "p5": {"48xlarge": 8}, "p5e": {"48xlarge": 8}, "p5en": {"48xlarge": 8}}
KINDS = {"string": str, "integer": int, "long": int, "float": (int, float), "double": (int, float), "boolean": bool,
         "list": list, "structure": dict, "map": dict}


def examine(config: dict[str, Any]) -> Iterator[Finding]:
    """Yield the findings on every node type; checks that found nothing are one line."""
    types, head = config["available_node_types"], config["head_node_type"]
    found = [f for name, node in types.items() for f in _of_type(name, node, name == head)]
    found += profiles(types, head)
    yield from found
    if not any(f.state == "bad" for f in found):
        yield Finding("node types", f"{', '.join(types)}: keys, images, resources and profiles agree")


def _of_type(name: str, node: dict[str, Any], is_head: bool) -> Iterator[Finding]:
    where = f"{name}.node_config"
    yield from keys(where, node["node_config"])
    yield from image(where, node["node_config"].get("ImageId"))
    yield from resources(name, node, is_head)


def keys(where: str, node_config: dict[str, Any]) -> Iterator[Finding]:
    """Compare a node_config with what RunInstances takes; EC2 itself would refuse it only once the head is paid for."""
    try:
        shape = _request()
    except ImportError:
        yield Finding("node_config", f"{where}: keys not checked, boto3 is not installed", "note", "pip install boto3")
        return
    own = {k: v for k, v in node_config.items() if k != "SubnetIds"}  # Ray's own: it takes one of them
    yield from _compare(shape, own, where)


@functools.cache
def _request() -> Any:
    """Return the description of RunInstances: half a second to read."""
    from botocore.session import get_session

    return get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _compare(shape: Any, value: Any, where: str) -> Iterator[Finding]:
    """Walk down a value beside the shape that the service's description gives it."""
    wanted = KINDS.get(shape.type_name, object)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted in (int, (int, float))):
        yield Finding("node_config", f"{where}: {value!r} is not a value for it", "bad", f"give a {shape.type_name}")
    elif shape.type_name == "structure":
        for key, inner in value.items():
            if key in shape.members:
                yield from _compare(shape.members[key], inner, f"{where}.{key}")
            else:
                yield Finding("node_config", f"{where}.{key}: {inner} is no key of EC2's", "bad",
                              nearest(key, shape.members).removeprefix("; ") or "see RunInstances in EC2's API")
    elif shape.type_name == "list":
        for i, inner in enumerate(value):
            yield from _compare(shape.member, inner, f"{where}[{i}]")
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield Finding("node_config", f"{where}: {value} is none of EC2's", "bad",
                      nearest(value, shape.enum).removeprefix("; ") or f"one of {', '.join(shape.enum[:8])}")


def image(where: str, given: Any) -> Iterator[Finding]:
    """Refuse the images that Ray chooses: Ubuntu 18.04 with CUDA 11.2, which today's torch does not run on."""
    old = "Ubuntu 18.04 with CUDA 11.2, too old for torch"
    if not given:
        yield Finding("image", f"{where}.ImageId is missing: Ray takes {old}", "bad", LOOK_UP)
    elif str(given).lower() == "latest_dlami" or given in _tabled():
        yield Finding("image", f"{where}.ImageId: {given} is {old}", "bad", LOOK_UP)
    elif not re.fullmatch(IMAGE, str(given)):
        yield Finding("image", f"{where}.ImageId: {given} is not the form of an image", "bad",
                      "ami-... or resolve:ssm:/aws/service/...")


def _tabled() -> set[str]:
    """Return the images of the table in Ray."""
    try:
        from ray.autoscaler._private.aws.config import DEFAULT_AMI
    except ImportError:  # without boto3
        return set()
    return set(DEFAULT_AMI.values())


def capacity(instance_type: str) -> tuple[int, int] | None:
    """Return (CPUs, GPUs) of an instance type, or None for one that is not known here.

    Size says the CPUs: https://docs.aws.amazon.com/ec2/latest/instancetypes/instance-type-names.html
    """
    family, _, size = instance_type.partition(".")
    times = re.fullmatch(r"(\d+)xlarge", size)
    cpus = 4 * int(times[1]) if times else CPUS.get(size)
    if cpus is None or not (family in GPUS or re.fullmatch(PLAIN, family)):
        return None
    return cpus, GPUS[family].get(size, 1) if family in GPUS else 0


def resources(name: str, node: dict[str, Any], is_head: bool) -> Iterator[Finding]:
    """Compare what a type says it has with what its machine has; a wrong promise is one that no trial ever fits."""
    given, instance_type = node.get("resources") or {}, str(node["node_config"].get("InstanceType", ""))
    has = capacity(instance_type)
    if has is None:
        yield Finding("resources", f"{name}: {instance_type or 'no InstanceType'} is not compared: not known here",
                      "note")
        return
    for what, there in zip(("CPU", "GPU"), has, strict=True):
        said = given.get(what, there if not given else 0)
        if said != there and not (is_head and said == 0):
            yield Finding("resources", f"{name}.resources.{what}: {said}, but {instance_type} has {there}", "bad",
                          f"{what}: {there}")
    if is_head and (given.get("CPU") or given.get("GPU") or not given):
        yield Finding("resources", f"{name}.resources: {given}: trials run on the head, beside driver and study",
                      "note", "resources: {CPU: 0}")


def profiles(types: dict[str, Any], head: str) -> Iterator[Finding]:
    """Find workers that cannot write s3://: Ray itself gives a profile to the head alone."""
    having = {name: node["node_config"].get("IamInstanceProfile") for name, node in types.items()}
    for name in (n for n in types if n != head and not having[n]):
        yield Finding("storage", f"{name}.node_config.IamInstanceProfile is missing: its trials cannot write s3://",
                      "bad", "IamInstanceProfile: {Name: raycal-worker}, of cluster/aws_roles.yaml")
    if not having[head] and any(having[n] for n in types if n != head):
        yield Finding("storage", f"{head}.node_config.IamInstanceProfile is missing: the role that Ray makes for the "
                      "head may not pass the workers theirs", "bad",
                      "IamInstanceProfile: {Name: raycal-head}, of cluster/aws_roles.yaml")
