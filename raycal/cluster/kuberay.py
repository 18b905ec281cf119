"""Checks of a KubeRay resource by its form; the operator and Kubernetes have the last word."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raycal.cluster import exposure
from raycal.doctor import Finding
from raycal.errors import nearest

# https://ray-project.github.io/kuberay/reference/api/
JOB = ("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionPolicy", "deletionStrategy", "entrypoint",
       "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata",
       "preRunningDeadlineSeconds", "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode",
       "submitterConfig", "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished")
CLUSTER = ("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
           "headGroupSpec", "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "upgradeStrategy",
           "workerGroupSpecs")
GROUP = ("groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams",
         "replicas", "resources", "scaleStrategy", "suspend", "template")
HEAD = ("enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template")
IMAGE = "an image with a tag that names Ray's version and raycal in it; cluster/README.md has its three lines"


def examine(config: dict[str, Any], text: str) -> Iterator[Finding]:
    """Yield the findings on a RayJob or a RayCluster."""
    import ray

    yield from exposure.credentials(text)
    spec = config.get("spec") or {}
    found = []
    if config.get("kind") == "RayJob":
        found += _unknown("spec", spec, JOB)
        spec = spec.get("rayClusterSpec") or {}
    found += _unknown("rayClusterSpec", spec, CLUSTER)
    head, workers = spec.get("headGroupSpec") or {}, spec.get("workerGroupSpecs") or []
    found += _unknown("headGroupSpec", head, HEAD)
    if str(spec.get("rayVersion")) != ray.__version__:
        found.append(Finding("ray", f"rayVersion: {spec.get('rayVersion')}, but {ray.__version__} is installed here",
                             "bad", f"rayVersion: {ray.__version__}"))
    if (spec.get("authOptions") or {}).get("mode") != "token":
        found.append(Finding("token", "authOptions.mode is not token: every pod that reaches Ray's ports may run code",
                             "bad", "authOptions: {mode: token}"))
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
        found.append(Finding("ports", "headGroupSpec opens the dashboard to outside the cluster", "bad",
                             "serviceType: ClusterIP, without enableIngress; kubectl port-forward makes a tunnel"))
    for name, group in [("head", head), *((str(w.get("groupName")), w) for w in workers)]:
        found += _pods(name, group, ray.__version__)
        found += _unknown(name, group, GROUP) if group is not head else []
    found += [Finding("schema", "workerGroupSpecs is empty", "bad", "a group of GPU workers")] if not workers else []
    yield from found or [Finding("schema", f"a {config.get('kind')} by its form")]


def _unknown(where: str, given: dict[str, Any], known: tuple[str, ...]) -> list[Finding]:
    return [Finding("schema", f"{where}.{key}: {given[key]} is no key of KubeRay's", "bad",
                    nearest(key, known).removeprefix("; ") or f"one of {', '.join(known)}")
            for key in given if key not in known]


def _pods(name: str, group: dict[str, Any], version: str) -> Iterator[Finding]:
    pod = (group.get("template") or {}).get("spec") or {}
    containers = pod.get("containers") or []
    if not containers:
        yield Finding("schema", f"{name}.template.spec.containers is empty", "bad", "a container with an image")
    for image in (str(c.get("image", "")) for c in containers[:1]):
        if version not in image.rpartition(":")[2]:
            yield Finding("image", f"{name}: image {image or 'missing'} does not name Ray {version}", "bad", IMAGE)
    if not pod.get("serviceAccountName"):
        yield Finding("storage", f"{name}.template.spec.serviceAccountName is missing: its trials cannot write storage",
                      "bad", "an account that may write the bucket, as in cluster/kuberay.yaml")
