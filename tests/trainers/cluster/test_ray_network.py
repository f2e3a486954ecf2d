"""The device that the workers of a group talk over."""

import socket

from semigrid.trainers.cluster.ray_network import device_of, talk_over


def test_the_loopback_holds_its_address_and_no_device_holds_anothers() -> None:
    loopback = device_of("127.0.0.1")
    assert loopback in {name for _, name in socket.if_nameindex()}
    assert device_of("192.0.2.1") is None  # kept for documentation
    assert device_of("2001:db8::1") is None


def test_gloo_and_nccl_are_told_unless_the_user_did() -> None:
    environment = {"NCCL_SOCKET_IFNAME": "ib0"}
    talk_over("127.0.0.1", environment)
    assert environment == {
        "NCCL_SOCKET_IFNAME": "ib0",
        "GLOO_SOCKET_IFNAME": device_of("127.0.0.1"),
    }
    nothing: dict[str, str] = {}
    talk_over("192.0.2.1", nothing)
    assert nothing == {}
