"""Over which network the workers of a group speak: by the address that Ray has of their node.

Gloo takes the address that the machine's own name stands for, which the installers of Debian and Ubuntu make 127.0.1.1:
workers on two such machines would look for each other at home.
"""
from __future__ import annotations

import os
from typing import Any

from ray.train.torch import TorchConfig


class OwnAddress(TorchConfig):
    """A process group of torch whose workers are reached at their nodes' addresses."""

    @property
    def backend_cls(self) -> type:
        class Backend(super().backend_cls):
            def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                worker_group.execute(name_interface)
                super().on_start(worker_group, backend_config)

        return Backend


def name_interface() -> None:
    """Tell Gloo, in this process, the interface of the node's address, unless the user named one."""
    import ray

    if found := interface(ray.util.get_node_ip_address()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", found)


def interface(address: str) -> str | None:
    """Return the name of the interface that has the address; None where none has, as behind a translated one."""
    import ray  # noqa: F401  it brings psutil along
    import psutil

    return next((name for name, has in psutil.net_if_addrs().items() if any(a.address == address for a in has)), None)
