"""Seeds of a training: each random number is a function of the seed, the step and a purpose."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def step_seed(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed for one purpose in one step."""
    name = f"{seed}/{step}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def step_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """A generator on the CPU for one purpose in one step."""
    return torch.Generator().manual_seed(step_seed(seed, step, purpose))


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within it torch's random numbers depend on the seed alone; after it they are as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
