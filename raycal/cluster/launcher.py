"""Checks of a file that `ray up` takes, whatever the cloud."""
from __future__ import annotations

import contextlib
import io
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from raycal.cluster import aws, exposure, gcp
from raycal.doctor import Finding
from raycal.errors import nearest

# What Ray's node providers read; its schema takes any key here.
PROVIDER = {"aws": ("region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "security_group",
                    "key_pair", "cloudwatch", "aws_credentials"),
            "gcp": ("region", "availability_zone", "project_id", "cache_stopped_nodes", "use_internal_ips",
                    "gcp_credentials"),
            "local": ("head_ip", "worker_ips", "external_head_ip", "coordinator_address", "use_internal_ips")}
START = ("head_start_ray_commands", "worker_start_ray_commands")
SETUP = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")


def examine(config: dict[str, Any], text: str) -> Iterator[Finding]:
    """Yield the findings; those after a broken schema would be about something else, so it ends there."""
    yield from exposure.credentials(text)
    wrong = list(schema(config))
    yield from wrong or [Finding("schema", "Ray takes it")]
    if wrong:
        return
    kind = config["provider"]["type"]
    yield from provider(config["provider"])
    yield from mounts(config.get("file_mounts") or {})
    yield from version(config)
    yield from token(config)
    for key in START:
        yield from exposure.of_start(key, config.get(key) or [])
    if kind == "local":
        yield from local(config)
    elif kind in ("aws", "gcp"):
        yield from (aws if kind == "aws" else gcp).examine(config)
    else:
        yield Finding("provider", f"type: {kind}: images, instance types and rights are not checked", "note")


def schema(config: dict[str, Any]) -> Iterator[Finding]:
    """Ask Ray itself, the way `ray up` does."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            validate_config(prepare_config(config))
    except jsonschema.ValidationError as e:
        where = e.json_path.removeprefix("$.").removeprefix("$") or "the file"
        unknown = re.search(r"\('(\w+)' was unexpected\)", e.message)
        meant = nearest(unknown[1], e.schema.get("properties", ())).removeprefix("; ") if unknown else ""
        yield Finding("schema", f"{where}: {e.message.splitlines()[0]}", "bad",
                      meant or "see docs.ray.io, Cluster YAML Configuration Options")
    except (Exception, SystemExit) as e:  # Ray ends the process where a provider is incomplete
        lines = [*str(e).splitlines(), *said.getvalue().splitlines()]
        yield Finding("schema", f"Ray refuses it ({next((s.strip() for s in lines if len(s) > 3), type(e).__name__)})",
                      "bad", "see docs.ray.io, Cluster YAML Configuration Options")


def provider(settings: dict[str, Any]) -> Iterator[Finding]:
    known = PROVIDER.get(settings["type"])
    for key in set(settings) - {"type", "disable_node_updaters", *(known or settings)}:
        yield Finding("provider", f"provider.{key}: {settings[key]} is read by nobody", "bad",
                      nearest(key, known).removeprefix("; ") or f"one of {', '.join(known)}")
    for key in {"aws_credentials", "gcp_credentials"} & set(settings):
        yield Finding("credentials", f"provider.{key} holds credentials", "bad",
                      "take it out: Ray finds those of your command line, and the head has its role")
    region, zones = str(settings.get("region", "")), str(settings.get("availability_zone") or "")
    for zone in (z.strip() for z in zones.split(",") if z.strip()):
        if region and not zone.startswith(region):
            yield Finding("provider", f"provider.availability_zone: {zone} is not in provider.region: {region}", "bad",
                          f"a zone of {region}")
    group = settings.get("security_group")
    yield from exposure.of_group(group.get("IpPermissions", []) if isinstance(group, dict) else [])
    if settings["type"] == "aws" and settings.get("cache_stopped_nodes", True):
        yield Finding("provider", "provider.cache_stopped_nodes: true: ray down stops machines, whose disks go on "
                      "costing", "note", "cache_stopped_nodes: false")


def mounts(file_mounts: dict[str, Any]) -> Iterator[Finding]:
    """Look for what is to be copied; Ray itself ends with a bare AssertionError, once the head runs."""
    for remote, local_path in file_mounts.items():
        source = pathlib.Path(str(local_path)).expanduser()
        if not source.exists():
            yield Finding("mounts", f"file_mounts {remote}: {local_path} does not exist in {pathlib.Path.cwd()}", "bad",
                          "run it from the root of the checkout, or mend the path")
        elif source.is_dir() and str(local_path) == "." and not (source / "run_search.py").is_file():
            yield Finding("mounts", f"file_mounts {remote}: {source.resolve()} holds no run_search.py", "bad",
                          "run it from the root of the checkout")
    yield from exposure.mounted(file_mounts)


def version(config: dict[str, Any]) -> Iterator[Finding]:
    """Compare the Ray that the machines install with the one here: they must be the same."""
    import ray

    commands = [c for key in SETUP for c in config.get(key) or []]
    images = [v for k, v in (config.get("docker") or {}).items() if k.endswith("image") and v]
    pinned = [found for c in commands for found in re.findall(r"\bray(?:\[[\w,]*\])?==([\w.*]+)", c)]
    pinned += [found for image in images for found in re.findall(r"/ray(?:-ml)?:(\d[\w.]*)", str(image))]
    if not pinned:
        yield Finding("ray", "setup_commands install no stated version of Ray", "bad",
                      f'pip install "ray[default,tune,train]=={ray.__version__}"')
    for other in sorted(set(pinned) - {ray.__version__}):
        yield Finding("ray", f"setup_commands: ray=={other}, but {ray.__version__} is installed here", "bad",
                      f"ray=={ray.__version__}, or install {other} here")
    if set(pinned) == {ray.__version__}:
        yield Finding("ray", f"{ray.__version__} here and there")


def token(config: dict[str, Any]) -> Iterator[Finding]:
    """Find out whether the nodes get the token that they must show one another."""
    if not any("RAY_AUTH_MODE=token" in c for key in START for c in config.get(key) or []):
        return
    synced = [*(config.get("cluster_synced_files") or []), *(config.get("file_mounts") or {})]
    if not any(str(path).endswith(".ray/auth_token") for path in synced):
        yield Finding("token", "RAY_AUTH_MODE=token, but the workers get no token and cannot join", "bad",
                      "cluster_synced_files: ['~/.ray/auth_token'], made by ray get-auth-token in head_setup_commands")


def local(config: dict[str, Any]) -> Iterator[Finding]:
    """Machines of one's own: Ray's second autoscaler takes the head for a worker that died, and starts one too few."""
    starts = [c for c in config.get("head_start_ray_commands") or [] if "ray start" in c]
    if not any("RAY_enable_autoscaler_v2=0" in c for c in starts):
        yield Finding("autoscaler", "head_start_ray_commands: with provider.type: local the last worker never joins",
                      "bad", "RAY_enable_autoscaler_v2=0 ray start --head ...")
    workers = config["provider"].get("worker_ips") or []
    if config["provider"].get("head_ip") in workers:
        yield Finding("provider", f"provider.worker_ips holds the head, {config['provider']['head_ip']}", "bad",
                      "take it out: the head works too")
    if len(set(workers)) < len(workers):
        yield Finding("provider", f"provider.worker_ips: {', '.join(map(str, workers))} names a machine twice", "bad",
                      "name each once")
