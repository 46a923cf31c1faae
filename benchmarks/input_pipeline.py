"""Pictures per second of the input of training and evaluation: ours against the official code, on the same files.

Run `python benchmarks/input_pipeline.py`; tests/parity/official.py says where the official code has to be, and the
extra `test` brings scikit-learn (the photographs) and pycocotools (which the official data set reads annotations with).

Each side reads, decodes, transforms and batches every file once per round, in its own DataLoader without worker
processes. Sizes, crops and flips are drawn by each side for itself from the same distribution; the table has the mean
size of the pictures that came out. The official transforms are PIL's and use one thread whatever `--threads` says.
"""

import argparse
import importlib
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))  # official.py loads the official code
import official

from opendetr.config import DataConfig
from opendetr.data.cache import build_cache
from opendetr.data.door import load_index
from opendetr.data.index import DatasetIndex
from opendetr.data.loader import DetectionDataset, training_loader
from opendetr.data.transforms import Preprocessing, training_transform
from opendetr.devices import describe_machine
from opendetr.recipes.recipe import load_recipe

NUM_PICTURES, WIDTH, HEIGHT, OBJECTS_PER_PICTURE, BATCH_SIZE = 64, 640, 480, 7, 2
QUALITY, NOISE = 95, 6.0  # of the JPEGs, and grey levels of grain: with both, a file is as large as one of COCO's
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FAST = {  # what the recipe `fast` chooses at the start of a run, as it might for photographs like these
    "data.image_size": 320, "data.max_size": 533, "data.zoom_probability": 0.6, "data.zoom_in": 0.5,
    "data.zoom_out": 1.0, "data.horizontal_flip": 0.5, "data.vertical_flip": 0.0,
}  # fmt: skip
CACHES = ("none", "ram", "disk")
SEED, WARM_UP_ROUNDS, ROUNDS = 0, 1, 7
LEVELS = 1.5  # by which the two evaluation transforms may differ anywhere, of 255

Read = Callable[[int], Iterable[Tensor]]  # the images [B, 3, H, W] of every batch of a round


@dataclass
class Row:
    """One side of a comparison, or ours alone; `peer` is the row to divide by."""

    name: str
    read: Read
    peer: "Row | None" = None
    rates: list[float] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)

    def measure(self, turn: int) -> None:
        """Read every picture once, timed."""
        start = time.perf_counter()
        pixels = sum(images.shape[0] * images.shape[2] * images.shape[3] for images in self.read(turn))
        taken = time.perf_counter() - start
        if turn >= WARM_UP_ROUNDS:
            self.rates.append(NUM_PICTURES / taken)
            self.pixels.append(pixels // NUM_PICTURES)


def write_pictures(root: Path) -> int:
    """A data set in COCO's layout: crops of two photographs, enlarged, grained, compressed. Returns its bytes."""
    rng = np.random.default_rng(SEED)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    coco: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    for number in range(1, NUM_PICTURES + 1):
        photograph = photographs[number % len(photographs)]
        height = int(photograph.height * rng.uniform(0.6, 1.0))
        width = min(photograph.width, height * WIDTH // HEIGHT)
        left, top = (int(rng.integers(room + 1)) for room in (photograph.width - width, photograph.height - height))
        crop = photograph.crop((left, top, left + width, top + height)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        grained = np.asarray(crop) + rng.normal(0, NOISE, (HEIGHT, WIDTH, 3))
        name = f"{number:012}.jpg"
        Image.fromarray(grained.clip(0, 255).astype(np.uint8)).save(root / "train2017" / name, quality=QUALITY)
        coco["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for _ in range(OBJECTS_PER_PICTURE):
            w, h = rng.uniform(20, 200, 2)
            x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
            entry = {"id": len(coco["annotations"]) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            coco["annotations"].append({**entry, "bbox": [x, y, w, h], "area": w * h})
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(coco))
    return sum(path.stat().st_size for path in (root / "train2017").iterdir())


def load_official_datasets() -> Any:
    """The module `datasets.coco` of the official code; nothing of it stays in `sys.path`."""
    sys.modules["util.misc"] = official.load().misc  # it has been told which torchvision it runs on
    sys.path.insert(0, str(official.folder()))
    try:
        return importlib.import_module("datasets.coco")
    finally:
        sys.path.remove(str(official.folder()))


def official_dataset(root: Path, kind: str) -> Any:
    coco = load_official_datasets()
    annotations, transforms = root / "annotations" / "instances_train2017.json", coco.make_coco_transforms(kind)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # pycocotools reports on its index
        return coco.CocoDetection(root / "train2017", annotations, transforms=transforms, return_masks=False)


def batches(turn: int) -> list[list[int]]:
    """Positions of a round, the same on both sides."""
    order = np.random.default_rng((SEED, turn)).permutation(NUM_PICTURES).tolist()
    return [order[start : start + BATCH_SIZE] for start in range(0, NUM_PICTURES, BATCH_SIZE)]


def read_by_official(dataset: Any) -> Read:
    def read(turn: int) -> Iterable[Tensor]:
        random.seed(SEED + turn)
        torch.manual_seed(SEED + turn)
        loader = DataLoader(dataset, batch_sampler=batches(turn), collate_fn=official.load().misc.collate_fn)
        return (samples.tensors for samples, _ in loader)

    return read


def read_by_opendetr(dataset: DetectionDataset) -> Read:
    def read(turn: int) -> Iterable[Tensor]:
        keys = [[turn * NUM_PICTURES + position for position in batch] for batch in batches(turn)]
        return (batch.images for batch, _ in training_loader(dataset, keys, workers=0))

    return read


def training_dataset(index: DatasetIndex, config: DataConfig) -> DetectionDataset:
    preprocessing = Preprocessing(config.image_size, config.max_size, MEAN, STD, config.multiple_of)
    return DetectionDataset(index, training_transform(config, preprocessing), SEED, build_cache(config))


def largest_difference(ours: DetectionDataset, theirs: Any) -> float:
    """Of the evaluation transforms, in grey levels of 255; shapes, boxes and classes must be equal."""
    largest = 0.0
    for position in range(4):
        (image, target, _), (expected, truth) = ours[position], theirs[position]
        torch.testing.assert_close(target.boxes_cxcywh, truth["boxes"], rtol=0, atol=1e-5)
        assert target.labels.tolist() == [0] * len(truth["labels"])  # the only category, as an index
        assert image.shape == expected.shape
        largest = max(largest, float(((image - expected) * torch.tensor(STD)[:, None, None]).abs().max()) * 255)
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of each row (default %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch; a loader's worker process has 1")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["OPENDETR_CACHE"] = str(root / "cache")  # its files are read again at once, from the system's memory
        size = write_pictures(root)
        index = load_index(root, "train")
        paper, fast = load_recipe("paper").data, load_recipe("fast").with_values(FAST, "this benchmark").data
        evaluation = Preprocessing(paper.image_size, paper.max_size, MEAN, STD)
        upright, official_val = DetectionDataset(index, evaluation.transform()), official_dataset(root, "val")
        difference = largest_difference(upright, official_val)
        assert difference <= LEVELS, difference

        training = Row("official code", read_by_official(official_dataset(root, "train")))
        validation = Row("official code", read_by_official(official_val))
        by_cache = {kind: training_dataset(index, replace(paper, cache=kind)) for kind in CACHES}
        tables = {
            f"training, recipe paper (shorter side {min(paper.train_sizes)} to {max(paper.train_sizes)})": [
                training,
                *(Row(f"opendetr, --cache {kind}", read_by_opendetr(by_cache[kind]), training) for kind in CACHES),
            ],
            f"evaluation (shorter side {paper.image_size})": [
                validation,
                Row("opendetr", read_by_opendetr(upright), validation),
            ],
            f"training, recipe fast (shorter side {fast.image_size}), which has no peer": [
                Row(f"opendetr, --cache {kind}", read_by_opendetr(training_dataset(index, replace(fast, cache=kind))))
                for kind in CACHES
            ],
        }
        for turn in range(WARM_UP_ROUNDS + options.rounds):  # the first one also fills what is kept
            for rows in tables.values():
                for row in rows:  # in turn, so that what else the machine does falls on all
                    row.measure(turn)

    print(
        f"{NUM_PICTURES} JPEGs of {WIDTH}x{HEIGHT}, {size / NUM_PICTURES / 1000:.0f} kB each, from file to batches of"
    )
    print(f"{BATCH_SIZE}, no worker processes; medians of {options.rounds} rounds, seed {SEED}")
    for title, rows in tables.items():
        print(f"{title}\n{'':38}pictures/s   ratio   megapixels out")
        for row in rows:
            ratio = f"{median(row.rates) / median(row.peer.rates):8.2f}" if row.peer else " " * 8
            megapixels = sum(row.pixels) / len(row.pixels) / 1e6
            print(f"  {row.name:36}{median(row.rates):10.1f}{ratio}{megapixels:17.3f}")
    print(f"evaluation: shapes and boxes of both are equal, pixels differ by at most {difference:.2f} of 255")
    print(f"{describe_machine()}, {platform.platform()}, {os.cpu_count()} CPUs")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__},")
    print(f"pillow {PIL.__version__}, {date.today()}")


if __name__ == "__main__":
    main()
