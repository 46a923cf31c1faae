"""Eight-bit integers: NNCF measures the range of every activation on real pictures and rounds to 256 steps of it."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from opendetr.checkpoints.native import Checkpoint
from opendetr.data.datasets import DatasetIndex
from opendetr.data.loader import DetectionDataset
from opendetr.errors import UserError
from opendetr.progress import console

MOST_PICTURES = 128  # more change nothing in the ranges that can be measured


def quantize(graph: Any, checkpoint: Checkpoint, index: DatasetIndex) -> Any:
    """The graph with int8 weights and activations, where NNCF finds that they serve.

    Args:
        graph: an ONNX or OpenVINO model.
        checkpoint: what it was made of.
        index: pictures to calibrate on, as the model will meet them.

    Raises:
        UserError: NNCF is missing.
    """
    try:
        import nncf
    except ImportError:
        raise UserError("--precision int8 needs the package nncf: pip install 'opendetr[export]'") from None
    nncf.set_log_level(logging.ERROR)
    dataset = DetectionDataset(index, checkpoint.preprocessing.transform())
    positions = np.linspace(0, len(index) - 1, min(MOST_PICTURES, len(index))).round().astype(int).tolist()
    console.print(f"int8: calibrating on {len(positions)} pictures of {index.source}")

    class Calibration:
        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            for position in positions:
                image = dataset[position][0]
                mask = torch.zeros(1, *image.shape[1:], dtype=torch.bool)
                yield {"images": image[None].numpy(), "padding_mask": mask.numpy()}

    return nncf.quantize(
        graph, nncf.Dataset(Calibration()), subset_size=len(positions), model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
    )  # fmt: skip
