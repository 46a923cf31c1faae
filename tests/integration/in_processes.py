"""Tiny trainings in one of several processes, as a program: `in_processes.py WORK ARGUMENTS` prints what `WORK` found.

WORK is a function of this file, ARGUMENTS are JSON. The fixture `together` runs it in two processes.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from opendetr import api
from opendetr.data.loader import DetectionDataset
from opendetr.errors import UserError
from opendetr.model.denoising import make_denoising
from opendetr.structures import Denoising, Targets
from opendetr.training import loop, speed, step, validation
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


def steps(
    data: str, folder: str, options: Mapping[str, Any], *, double: bool = False, given: bool = False
) -> list[dict[str, float]]:
    """The figures of every step; with `double` everything is computed in float64, with `given` no query is drawn."""
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


def train(data: str, folder: str, options: Mapping[str, Any], signal_at: str = "") -> dict[str, Any]:
    """What a process saw of a training; the second one gets SIGTERM in its first evaluation, or in the flip trial."""
    evaluated, tried = [], []
    detect, try_flips, work_of_first = validation.detect_split, loop.try_flips, loop.stoppable_work_of_first

    def end(where):
        if where == signal_at and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    def detect_split(*arguments, **named):
        for position, found in detect(*arguments, **named):
            end("evaluation")
            evaluated.append(position)
            yield position, found

    def flips(*arguments, **named):
        tried.append(try_flips(*arguments, **named))
        return tried[-1]

    def work(*arguments):
        end("flips")
        return work_of_first(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "LOOKED_AT", (32, 64))
        patch.setattr(validation, "detect_split", detect_split)
        patch.setattr(loop, "try_flips", flips)
        patch.setattr(loop, "stoppable_work_of_first", work)
        try:
            api.train(data, **options, output=folder)
        except UserError as error:
            return {"error": str(error), "is_said": not error.is_said_elsewhere}
    return {"evaluated": evaluated, "tried": len(tried), "decided": len(list(filter(None, tried)))}


def several(**runs: list[Any]) -> dict[str, Any]:
    """The answers of several of these functions; each takes seconds to begin alone."""
    return {name: globals()[work](**arguments) for name, (work, arguments) in runs.items()}


if __name__ == "__main__":
    print("found:" + json.dumps(several(**json.loads(sys.argv[1]))))
