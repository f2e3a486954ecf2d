"""Torch's process group over the network by which Ray's nodes know each other."""

import os
from collections.abc import MutableMapping
from typing import Any

import ray
from ray.train.torch import TorchConfig

from semigrid.trainers.cluster.ray_private import TorchBackend

# Environment variables that tell gloo and NCCL the network device; the user's own values stay.
VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class GroupNetwork(TorchConfig):  # type: ignore[misc]  # Ray is untyped
    """Ray Train's set-up of a process group, after each worker was told its network device."""

    @property
    def backend_cls(self) -> type[TorchBackend]:
        return _GroupNetworkBackend


class _GroupNetworkBackend(TorchBackend):  # type: ignore[misc]  # Ray is untyped
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(lambda: talk_over(ray.util.get_node_ip_address()))
        super().on_start(worker_group, backend_config)


def talk_over(address: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes gloo and NCCL use the device that holds the address by which Ray knows this node.

    By default they take the device that the host's name resolves to, or the first one. The other
    nodes cannot reach it on machines with several networks, or whose name is the loopback's.
    """
    device = device_of(address)
    if device is not None:
        for variable in VARIABLES:
            environment.setdefault(variable, device)


def device_of(address: str) -> str | None:
    """The network device that holds an IPv4 or IPv6 address of this machine; None if none does."""
    import psutil  # bundled with Ray

    for device, addresses in psutil.net_if_addrs().items():
        if any(known.address.partition("%")[0] == address for known in addresses):
            return str(device)
    return None
