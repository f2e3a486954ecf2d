"""Arrays that lie on the disk, not in memory."""

import math
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike


def mapped(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An array of zeros in a file of ``TMPDIR`` that has no name and goes with the array.

    Raises ``OSError`` where the disk has no room. Were the room not taken at once, a full disk
    would end the process (SIGBUS) when the array is written.
    """
    with tempfile.TemporaryFile() as file:  # its pages stay as long as they are mapped
        os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(dtype).itemsize)
        opened: Any = file
        return np.memmap(opened, dtype, "r+", shape=shape)
