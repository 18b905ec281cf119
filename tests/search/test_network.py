from __future__ import annotations

import os
import socket

import pytest

pytest.importorskip("ray")

from raycal.search import network  # noqa: E402


def test_the_interface_of_an_address_is_found():
    loopback = network.interface("127.0.0.1")
    assert loopback in {name for _, name in socket.if_nameindex()}
    assert network.interface("203.0.113.7") is None, "an address of documentation, which nothing has"


def test_what_the_user_named_stands(monkeypatch):
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    network.name_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    network.name_interface()
    assert os.environ.pop("GLOO_SOCKET_IFNAME") == network.interface("127.0.0.1")


def test_the_workers_of_a_group_are_told_before_they_meet():
    told = []

    class Group:
        def execute(self, function, *args, **options):
            told.append(function)
            raise StopIteration

    config = network.OwnAddress(backend="gloo")
    with pytest.raises(StopIteration):
        config.backend_cls().on_start(Group(), config)
    assert told == [network.name_interface]
