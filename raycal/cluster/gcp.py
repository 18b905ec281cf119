"""Checks of what goes to Google's Compute Engine, as far as they need no description of it."""
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from raycal.doctor import Finding
from raycal.errors import nearest

# https://cloud.google.com/compute/docs/reference/rest/v1/instances/insert
KEYS = ("advancedMachineFeatures", "canIpForward", "confidentialInstanceConfig", "deletionProtection", "description",
        "disks", "displayDevice", "guestAccelerators", "hostname", "labels", "machineType", "metadata",
        "minCpuPlatform", "name", "networkInterfaces", "networkPerformanceConfig", "params",
        "reservationAffinity", "resourcePolicies", "scheduling", "serviceAccounts", "shieldedInstanceConfig",
        "sourceMachineImage", "tags")
L4S = {4: 1, 8: 1, 12: 1, 16: 1, 24: 2, 32: 1, 48: 4, 96: 8}  # GPUs of g2-standard-N
A100S = {1: 12, 2: 24, 4: 48, 8: 96, 16: 96}  # CPUs of a2-highgpu-Ng


def examine(config: dict[str, Any]) -> Iterator[Finding]:
    """Yield the findings on every node type."""
    types, head = config["available_node_types"], config["head_node_type"]
    found = [f for name, node in types.items() for f in _of_type(name, node, name == head)]
    if not config["provider"].get("project_id"):
        found.append(Finding("provider", "provider.project_id is missing", "bad", "the ID of your project"))
    yield from found
    if not any(f.state == "bad" for f in found):
        yield Finding("node types", f"{', '.join(types)}: keys, images, resources and accounts agree")


def _of_type(name: str, node: dict[str, Any], is_head: bool) -> Iterator[Finding]:
    settings, where = node["node_config"], f"{name}.node_config"
    for key in set(settings) - set(KEYS):
        yield Finding("node_config", f"{where}.{key}: {settings[key]} is no key of Compute Engine's", "bad",
                      nearest(key, KEYS).removeprefix("; ") or "see instances.insert in its API")
    boot = [d for d in settings.get("disks") or [] if isinstance(d, dict) and d.get("boot")]
    if not any((d.get("initializeParams") or {}).get("sourceImage") for d in boot):
        yield Finding("image", f"{where}.disks names no sourceImage", "bad",
                      "gcloud compute images list --project deeplearning-platform-release --no-standard-images")
    if not is_head and not settings.get("serviceAccounts"):
        yield Finding("storage", f"{where}.serviceAccounts is missing: its trials cannot write gs://", "bad",
                      "an account with roles/storage.objectAdmin on the bucket, as in cluster/gcp.yaml")
    yield from _resources(name, node, is_head)


def capacity(machine_type: str) -> tuple[int, int] | None:
    """Return (CPUs, GPUs) of a machine type, or None for one that is not known here."""
    if found := re.fullmatch(r"g2-standard-(\d+)", machine_type):
        return (int(found[1]), L4S[int(found[1])]) if int(found[1]) in L4S else None
    if found := re.fullmatch(r"a2-(?:high|mega)gpu-(\d+)g", machine_type):
        return (A100S[int(found[1])], int(found[1])) if int(found[1]) in A100S else None
    if found := re.fullmatch(r"[nec]\w+-(?:standard|highmem|highcpu)-(\d+)", machine_type):
        return int(found[1]), 0
    return None


def _resources(name: str, node: dict[str, Any], is_head: bool) -> Iterator[Finding]:
    machine_type, given = str(node["node_config"].get("machineType", "")), node.get("resources") or {}
    has = capacity(machine_type)
    if has is None or node["node_config"].get("guestAccelerators"):
        yield Finding("resources", f"{name}: {machine_type or 'no machineType'} is not compared: not known here",
                      "note")
        return
    for what, there in zip(("CPU", "GPU"), has, strict=True):
        said = given.get(what, there if not given else 0)
        if said != there and not (is_head and said == 0):
            yield Finding("resources", f"{name}.resources.{what}: {said}, but {machine_type} has {there}", "bad",
                          f"{what}: {there}")
