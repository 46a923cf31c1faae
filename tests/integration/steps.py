"""What every step of a tiny training reports; as a program, in one of several processes: `steps.py RUNS DATA FOLDER`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from opendetr import api
from opendetr.data.loader import DetectionDataset
from opendetr.model.denoising import make_denoising
from opendetr.structures import Denoising, Targets
from opendetr.training import speed, step
from opendetr.training.step import TrainingStep

MOST_OBJECTS = 8  # in a picture: then every picture has the same number of denoising queries, whatever is beside it


def given_denoising(targets: Targets, num_classes: int, num_queries: int) -> Denoising | None:
    """The denoising queries of each picture, which depend on its objects alone."""
    if num_queries == 0:
        return None
    made = []
    for labels, boxes, count in zip(*targets):
        one = Targets(
            torch.nn.functional.pad(labels, (0, MOST_OBJECTS - len(labels)))[None],
            torch.nn.functional.pad(boxes, (0, 0, 0, MOST_OBJECTS - len(boxes)), value=0.5)[None],
            count[None],
        )
        with torch.random.fork_rng():
            torch.manual_seed(int(boxes[:count].double().sum() * 1e6))
            made.append(make_denoising(one, num_classes, num_queries))
    return Denoising(*(torch.cat(parts) for parts in zip(*made)))


def steps_of(data: Path, folder: Path, options: Mapping[str, Any], *, double: bool, given: bool) -> list[dict[str, float]]:
    """The figures of every step; with `double` everything is computed in float64, with `given` nothing is drawn."""
    figures, update, read = [], TrainingStep.__call__, DetectionDataset.__getitem__

    def record(one_step, micro_batches):
        figures.append(update(one_step, micro_batches))
        return figures[-1]

    def in_double(dataset, key):
        image, target, record = read(dataset, key)
        return image.double(), target._replace(boxes_cxcywh=target.boxes_cxcywh.double()), record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "LOOKED_AT", (32, 64))
        patch.setattr(TrainingStep, "__call__", record)
        if given:
            patch.setattr(step, "make_denoising", given_denoising)
        if double:
            patch.setattr(DetectionDataset, "__getitem__", in_double)
            torch.set_default_dtype(torch.float64)
        try:
            api.train(data, **options, output=folder)
        finally:
            torch.set_default_dtype(torch.float32)
    return figures


if __name__ == "__main__":
    runs, data, folder = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    found = {name: steps_of(data, folder / name, **run) for name, run in runs.items()}
    print(json.dumps(found))
