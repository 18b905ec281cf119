"""Whether a cluster file does what it is meant to: what Ray's schema lets through is found before machines cost.

    raycal cluster check cluster/gpu.yaml
"""
from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import yaml

from raycal.cluster import kuberay, launcher, slurm
from raycal.doctor import Finding
from raycal.errors import UserError


def examine(path: str) -> Iterator[Finding]:
    """Yield what was found in a cluster file, nothing of it by asking a cloud.

    path: what `ray up` takes, a KubeRay resource, or a script for sbatch. Raise UserError when the
    file is none of these.
    """
    try:
        text = pathlib.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e}); give a cluster file, such as "
                        "cluster/gpu.yaml") from None
    if text.startswith("#!"):
        yield from slurm.examine(path, text)
        return
    config = _parsed(path, text)
    if str(config.get("apiVersion", "")).startswith("ray.io/"):
        yield from kuberay.examine(config, text)
    elif "cluster_name" in config or "provider" in config:
        yield from launcher.examine(config, text)
    else:
        raise UserError(f"{path}: neither what ray up takes (cluster_name, provider), nor a KubeRay resource "
                        "(apiVersion: ray.io/v1), nor a script for sbatch (#!)")


def _parsed(path: str, text: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as e:
        where = f"line {e.problem_mark.line + 1}: " if getattr(e, "problem_mark", None) else ""
        raise UserError(f"{path}: {where}not YAML ({getattr(e, 'problem', None) or e}); mend it there") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: holds {type(config).__name__}, not keys with values; give a cluster file, such as "
                        "cluster/gpu.yaml")
    return config
