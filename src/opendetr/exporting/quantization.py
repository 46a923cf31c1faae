"""Eight-bit integers: NNCF measures the range of every activation on real pictures and rounds to 256 steps of it."""

import logging
from typing import Any

import numpy as np
import torch

from opendetr.checkpoints.native import Checkpoint
from opendetr.data.index import DatasetIndex
from opendetr.data.loader import DetectionDataset
from opendetr.errors import UserError
from opendetr.progress import console
from opendetr.wording import counted

USUAL_SMOOTHING, NO_SMOOTHING = 0.95, -1.0  # of activations before matrix products; the first is NNCF's own
MOST_PICTURES = 128  # the ranges do not change with more


def quantize(graph: Any, checkpoint: Checkpoint, index: DatasetIndex) -> Any:
    """The graph (of ONNX or OpenVINO) with int8 weights and activations, where NNCF finds them accurate enough.

    It is calibrated on the pictures of the index, which should be like those the model will get.

    Raises:
        UserError: NNCF is missing.
    """
    try:
        import nncf
    except ImportError:
        raise UserError("--precision int8 needs the package nncf: pip install 'opendetr[export]'") from None
    nncf.set_log_level(logging.ERROR)
    dataset = DetectionDataset(
        index, checkpoint.preprocessing.transform(), white_level=checkpoint.preprocessing.white_level
    )
    positions = np.linspace(0, len(index) - 1, min(MOST_PICTURES, len(index))).round().astype(int).tolist()
    console.print(f"int8: calibrating on {counted(len(positions), 'picture')} of {index.source}")

    def inputs(position: int) -> dict[str, np.ndarray]:
        image = dataset[position][0]
        mask = torch.zeros(1, *image.shape[1:], dtype=torch.bool)
        return {"images": image[None].numpy(), "padding_mask": mask.numpy()}

    def quantized(smooth: float) -> Any:
        alphas = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=smooth)
        return nncf.quantize(
            graph, nncf.Dataset(positions, inputs), subset_size=len(positions), model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas),
        )  # fmt: skip

    try:
        return quantized(USUAL_SMOOTHING)
    except AttributeError:  # NNCF 3.4 finds no weights in some matrix products of ONNX, and goes on to smooth them
        return quantized(NO_SMOOTHING)
