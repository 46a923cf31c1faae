"""A data set with faults among its labels, a model that says what is true, and a server of both."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from in_process_server import running
from opendetr.boxes import xyxy_to_cxcywh
from opendetr.checkpoints.native import Checkpoint, save_checkpoint
from opendetr.checkpoints.origin import Origin
from opendetr.config import LossConfig, RunConfig
from opendetr.data.source import DataSource
from opendetr.data.transforms import Preprocessing
from opendetr.labels import LabelMap
from opendetr.model.build import build_model
from opendetr.recipes.presets import PRESETS
from opendetr.serving.process import Compute
from opendetr.serving.settings import ModelSettings, ServeSettings
from opendetr.structures import DetrOutput

WIDTH, HEIGHT = 120, 90
HOSTILE = "<img src=x onerror=alert(1)>"
NAMES = ("cat", HOSTILE)
LEFT, RIGHT, LOW = (10, 10, 40, 40), (70, 20, 110, 60), (20, 50, 60, 85)
TRUE = [  # of each picture: label and box, x1, y1, x2, y2
    [(0, LEFT), (1, RIGHT)], [(0, LEFT), (1, RIGHT)], [(0, LEFT), (1, LOW)], [(0, RIGHT)], [(0, LEFT), (1, RIGHT)], [],
    [(0, LEFT), (1, LOW)], [(0, RIGHT), (1, LOW)],
]  # fmt: skip
QUERIES, LAYERS = 6, 3
CERTAIN, SILENT = 0.9, 0.01


def labelled() -> list[list[tuple[int, tuple[int, int, int, int]]]]:
    """The labels: one is missing, one has the wrong class, one is badly placed, and one is of nothing."""
    labels = [list(objects) for objects in TRUE]
    del labels[0][1]
    labels[1][0] = (1, LEFT)
    labels[2][0] = (0, (25, 15, 55, 45))
    labels[3].append((0, LOW))
    return labels


def write_pictures(root: Path) -> Path:
    """The data set in COCO's form, with a split `val`; the second picture's name would run as a script."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    coco: dict[str, Any] = {
        "info": {"year": 2026}, "images": [], "annotations": [],
        "categories": [{"id": 3 + label, "name": name} for label, name in enumerate(NAMES)],
    }  # fmt: skip
    for number, objects in enumerate(labelled()):
        name = f"{number} {HOSTILE.replace('/', '')}.png" if number == 1 else f"{number}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (number, 80, 120)).save(root / "images" / name)
        coco["images"].append({"id": 100 + number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for label, (x1, y1, x2, y2) in objects:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            own = {"id": len(coco["annotations"]) + 1, "image_id": 100 + number, "category_id": 3 + label}
            coco["annotations"].append(own | box | {"note": "kept"})
    (root / "annotations" / "val.json").write_text(json.dumps(coco))
    return root


def true_answers(detector: Any, image: Image.Image) -> DetrOutput:
    """What a model says that knows what is true: the colour of a picture tells its number."""
    objects = TRUE[image.getpixel((0, 0))[0]]
    scores = torch.full((QUERIES, len(NAMES)), SILENT)
    boxes = torch.tensor([0.5, 0.5, 0.05, 0.05]).repeat(QUERIES, 1)
    for query, (label, box) in enumerate(objects):
        scores[query, label] = CERTAIN
        boxes[query] = xyxy_to_cxcywh(torch.tensor(box) / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
    return DetrOutput(scores.logit().expand(LAYERS, 1, -1, -1), boxes.expand(LAYERS, 1, -1, -1))


def write_run(root: Path) -> Path:
    """A run folder with a small model of random weights, two checkpoints and a log."""
    config = replace(
        PRESETS["detr-tiny"], query_source="selected", scoring="focal", output_stride=32, encoder_strides=(16,),
        position_encoding="cell", num_queries=QUERIES, dropout=0.0, precedence=True,
    )  # fmt: skip
    run = replace(RunConfig(), model=config, loss=LossConfig(proposal_repeats=1))
    torch.manual_seed(0)
    model = build_model(config, run.loss, len(NAMES)).eval()
    found = Checkpoint(
        model, run, LabelMap((3, 4), NAMES), Preprocessing(64, 96, (0.5,) * 3, (0.2,) * 3, 32), Origin(), root
    )
    save_checkpoint(root / "best", found)
    for epoch in (1, 2):
        shutil.copytree(root / "best", root / "checkpoints" / f"epoch-000{epoch}")
    (root / "config.toml").write_text(run.to_toml())
    add_lines(root, [{"kind": "epoch", "epoch": 1.0, "step": 10, "seconds": 5.0, "loss": 9.5}])
    return root


def add_lines(run: Path, lines: list[dict[str, Any]]) -> None:
    with (run / "metrics.jsonl").open("a") as log:
        log.writelines(f"{json.dumps(line)}\n" for line in lines)


@dataclass(frozen=True)
class Served:
    """A server, its data set and its run."""

    address: str
    data: Path
    run: Path
    compute: Compute

    def decisions(self) -> list[dict[str, Any]]:
        """The lines of the log of the split val."""
        path = self.data / "annotations" / "val.decisions.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def review_server(folder: Path, review: Path | None = None, port: int = 0) -> Iterator[Served]:
    """A server of the data set and the run in a folder, which are made where they are not there yet."""
    data, run = folder / "data", folder / "run"
    if not data.exists():
        write_pictures(data)
        write_run(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENDETR_CACHE", str(folder / "cache"))
        patch.setattr("opendetr.serving.data_work.output_of", true_answers)
        model = ModelSettings(str(run), DataSource.of(data), device="cpu", engine="torch", threads=1)
        with running(ServeSettings(model, review=review), port) as (address, compute):
            yield Served(address, data, run, compute)
