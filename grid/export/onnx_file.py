"""A trained model as one ONNX file, written by PyTorch and run by ONNX Runtime."""

import copy
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semigrid.data.errors import InputError

if TYPE_CHECKING:
    from torch import nn

ONNX = "model.onnx"
ONNX_DATA = "model.onnx.data"  # the weights of a model above the format's limit of 2 GB
INPUT, OUTPUTS = "images", ("logits", "probabilities")
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_onnx() -> None:
    """Raises ``InputError`` where packages for ONNX files are missing."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"an ONNX file needs {', '.join(missing)}: pip install 'semigrid[onnx]', or leave the "
            "file out with --no-onnx"
        )


def write_onnx(
    path: Path, model: "nn.Module", img_size: int, backbone: str, metadata: Mapping[str, str]
) -> None:
    """Writes a model in eval mode, for batches of any size (N, 3, H, W).

    ``metadata`` becomes the file's ``metadata_props``. Raises ``InputError`` for a model that
    PyTorch's exporter cannot express.
    """
    import torch
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from torch import nn

    class WithProbabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(model)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.model(images)
            return logits, logits.softmax(dim=1)

    plain: Any = WithProbabilities().eval()
    for module in plain.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False  # the exporter fails on its strides in BEiT and MaxViT
    try:
        program = torch.onnx.export(
            plain,
            (torch.zeros(2, 3, img_size, img_size),),
            dynamo=True,
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(
            f"{backbone} cannot be exported to ONNX: {reason}; leave the file out with --no-onnx"
        ) from error
    assert program is not None  # dynamo's
    # remove the stack of each node, which has paths of this machine
    ClearMetadataAndDocStringPass()(program.model)
    program.model.metadata_props.clear()
    program.model.metadata_props.update(metadata)
    program.save(path)


def run_onnx(path: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities (N, K) of normalised float32 images (N, 3, H, W), N > 1.

    The first image is a batch of its own, since a file may turn out to take batches of one size
    only. Raises ``InputError`` where ONNX Runtime cannot run the file.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    failures = (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NotImplemented,
        errors.RuntimeException,
    )
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        runs = [session.run(OUTPUTS, {INPUT: part}) for part in (images[:1], images[1:])]
    except failures as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"ONNX Runtime cannot run what was exported: {reason}; leave the file out with "
            "--no-onnx"
        ) from error
    logits, probabilities = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    return logits, probabilities
