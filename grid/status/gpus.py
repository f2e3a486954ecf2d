"""GPUs by the names that their driver gives them, and what they compute at most."""

from semigrid.trainers.options import Precision

# Peaks in FLOP/s, from NVIDIA's data sheets: float32 without TF32, half precision on dense tensor
# cores.
_PEAKS = {
    "NVIDIA A10G": (31.2e12, 70e12),
    "NVIDIA L4": (30.3e12, 121e12),
    "NVIDIA A100-SXM4-80GB": (19.5e12, 312e12),
    "NVIDIA H100 80GB HBM3": (67e12, 989e12),
    "NVIDIA H200": (67e12, 989e12),
}
NAMES = tuple(_PEAKS)


def peak(name: str, precision: Precision) -> float:
    """The peak of a GPU in ``NAMES``, in FLOP/s."""
    full, half = _PEAKS[name]
    return full if precision == "fp32" else half
