"""How the workers of a group talk: NCCL on GPUs, gloo elsewhere, over Ray's own network."""

import fcntl
import os
import socket
import struct
from collections.abc import MutableMapping

# What gloo and NCCL are told the device by; what the user set stays.
VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
SIOCGIFADDR = 0x8915
IPV6_DEVICES = "/proc/net/if_inet6"


def backend_for(gpus_per_worker: float) -> str:
    return "nccl" if gpus_per_worker else "gloo"


def talk_over(address: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets gloo and NCCL use the device that holds the address by which Ray knows this node.

    Left to themselves they take what the host's name resolves to, or the first device: on machines
    with several networks, or whose name is that of the loopback, the others are not reached there.
    """
    device = device_of(address)
    if device is not None:
        for variable in VARIABLES:
            environment.setdefault(variable, device)


def device_of(address: str) -> str | None:
    """The network device that holds an address of this machine; None if none does."""
    if ":" in address:
        return _device_of_ipv6(address)
    for _, name in socket.if_nameindex():
        if _ipv4_of(name) == address:
            return name
    return None


def _ipv4_of(device: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("256s", device.encode())
        try:
            answer = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, request)
        except OSError:  # it has none
            return None
    return socket.inet_ntoa(answer[20:24])


def _device_of_ipv6(address: str) -> str | None:
    wanted = socket.inet_pton(socket.AF_INET6, address.partition("%")[0]).hex()
    try:
        with open(IPV6_DEVICES, encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    return next((words[-1] for words in lines if words[0] == wanted), None)
