"""The index of a large data set: time and memory of `load_index` against pycocotools, and memory over epochs.

Run `python benchmarks/index.py`; pycocotools has to be installed (the extra `test`), and the memory of several
processes can be measured on Linux only. The data set is synthetic, in COCO's format, with pictures of 16x16 pixels in a
temporary folder. Every measurement has a process of its own; the two sides take turns. Peaks are of the whole process,
Python and imports included; `kept` is what stays beyond the imports once everything but the index is collected. The
memory over epochs is the proportional set size (PSS) of the training process and its loader processes together, which
counts a page that several of them share once.
"""

import argparse
import gc
import io
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from datetime import date
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image

# torch and opendetr are imported where they are used: every process imports this file, and pycocotools needs neither.

NUM_ANNOTATIONS, NUM_PICTURES, NUM_CLASSES, SIDE = 1_000_000, 120_000, 80, 16
CROWDS, SEED, ROUNDS, EPOCHS, WORKERS, BATCH_SIZE = 0.01, 0, 3, 3, 4, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MB = 1e6


class Loaded(NamedTuple):
    """What one reading took: seconds and bytes."""

    seconds: float
    peak: int  # of the process
    imports: int  # resident before the reading
    kept: int  # resident after it, beyond the imports


class Epochs(NamedTuple):
    """What passing over the pictures took."""

    sizes: list[int]  # PSS of all processes in bytes at the end of every epoch
    processes: int
    seconds: float  # an epoch


def write_data(root: Path, num_annotations: int, num_pictures: int) -> int:
    """A data set whose pictures and annotations come in random order; returns the bytes of its annotation file."""
    rng = np.random.default_rng(SEED)
    (root / "annotations").mkdir()
    (root / "images").mkdir()
    content = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(content, "png")
    for number in range(num_pictures):
        (root / "images" / f"{number:012}.png").write_bytes(content.getvalue())
    source = root / "annotations" / "train.json"
    with source.open("w") as file:
        file.write('{"images": [')
        file.write(", ".join(images(rng, num_pictures)))
        file.write('], "annotations": [')
        file.write(", ".join(annotations(rng, num_annotations, num_pictures)))
        names = (f'{{"id": {number}, "name": "class {number}"}}' for number in range(1, NUM_CLASSES + 1))
        file.write(f'], "categories": [{", ".join(names)}]}}')
    return source.stat().st_size


def images(rng: np.random.Generator, count: int) -> Iterator[str]:
    for number in rng.permutation(count).tolist():
        yield f'{{"id": {number}, "file_name": "{number:012}.png", "width": {SIDE}, "height": {SIDE}}}'


def annotations(rng: np.random.Generator, count: int, num_pictures: int) -> Iterator[str]:
    sides = rng.uniform(1, SIDE / 2, (count, 2)).round(2)
    corners = (rng.random((count, 2)) * (SIDE - sides)).round(2)
    of_picture, classes = rng.integers(num_pictures, size=count), rng.integers(1, NUM_CLASSES + 1, size=count)
    columns = (of_picture, classes, *corners.T, *sides.T, rng.random(count) < CROWDS)
    for number, (picture, category, x, y, w, h, crowd) in enumerate(zip(*(column.tolist() for column in columns))):
        yield (
            f'{{"id": {number + 1}, "image_id": {picture}, "category_id": {category}, "iscrowd": {int(crowd)}, '
            f'"bbox": [{x}, {y}, {w}, {h}], "area": {w * h:.4f}}}'
        )


def read_by_opendetr(root: Path) -> Loaded:
    from opendetr.data.door import load_index

    return measured(lambda: load_index(root, "train"))


def read_by_pycocotools(root: Path) -> Loaded:
    from pycocotools.coco import COCO

    return measured(lambda: COCO(str(root / "annotations" / "train.json")))


def measured(read: Callable[[], object]) -> Loaded:
    gc.collect()
    before = psutil.Process().memory_info().rss
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # pycocotools reports on its index
        start = time.perf_counter()
        index = read()
        seconds = time.perf_counter() - start
    gc.collect()
    kept = psutil.Process().memory_info().rss - before
    assert index is not None
    return Loaded(seconds, own_peak(), before, kept)


def own_peak() -> int:
    """Peak memory of this process in bytes. Linux's `ru_maxrss` would include the peak of the process that began it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_over_epochs(root: Path, epochs: int) -> Epochs:
    """Pass over the pictures by the training loader, which has `WORKERS` processes."""
    from opendetr.config import DataConfig
    from opendetr.data.cache import build_cache
    from opendetr.data.door import load_index
    from opendetr.data.loader import DetectionDataset, epoch_order, training_loader
    from opendetr.data.transforms import Preprocessing, training_transform

    multiprocessing.set_start_method(None, force=True)  # the default, as in a training; this process was spawned
    config = DataConfig(cache="none").resized(SIDE)
    transform = training_transform(config, Preprocessing(SIDE, config.max_size, MEAN, STD))
    dataset = DetectionDataset(load_index(root, "train"), transform, SEED, build_cache(config))
    gc.collect()
    steps = len(dataset) // BATCH_SIZE
    # One epoch more than is looked at, so that the loader processes still read when the last one ends.
    orders = (epoch_order(len(dataset), epoch, SEED, BATCH_SIZE) for epoch in range(epochs + 1))
    sizes, start = [], time.perf_counter()
    for step, _ in enumerate(training_loader(dataset, chain.from_iterable(orders), WORKERS), start=1):
        if step % steps == 0:
            everyone = [psutil.Process(), *psutil.Process().children(recursive=True)]
            sizes.append(sum(process.memory_full_info().pss for process in everyone))
            if len(sizes) == epochs:
                break
    return Epochs(sizes, len(everyone), (time.perf_counter() - start) / epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=int, default=NUM_ANNOTATIONS, help="default %(default)s")
    parser.add_argument("--pictures", type=int, default=NUM_PICTURES, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="readings by each side (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the pictures (default %(default)s)")
    given = parser.parse_args()

    sides = {"opendetr": read_by_opendetr, "pycocotools": read_by_pycocotools}
    readings: dict[str, list[Loaded]] = {name: [] for name in sides}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        size = write_data(Path(folder), given.annotations, given.pictures)
        for _ in range(given.rounds):
            for name, read in sides.items():  # in turn, so that what else the machine does falls on both
                with ProcessPoolExecutor(1, context) as process:
                    readings[name].append(process.submit(read, Path(folder)).result())
        with ProcessPoolExecutor(1, context) as process:
            epochs = process.submit(memory_over_epochs, Path(folder), given.epochs).result()
    report(given, size, {name: Loaded(*map(median, zip(*those))) for name, those in readings.items()}, epochs)


def report(given: argparse.Namespace, size: int, sides: dict[str, Loaded], epochs: Epochs) -> None:
    from opendetr.devices import describe_machine

    print(f"{given.annotations:,} annotations in {given.pictures:,} pictures, a file of {size / MB:.0f} MB;")
    print(f"medians of {given.rounds} readings, seed {SEED}")
    print(f"  {'':12}{'seconds':>9}{'peak MB':>9}{'imports MB':>12}{'kept MB':>9}")
    for name, of in sides.items():
        print(f"  {name:12}{of.seconds:9.2f}{of.peak / MB:9.0f}{of.imports / MB:12.0f}{of.kept / MB:9.0f}")
    ours, theirs = sides.values()
    print(f"  {'ratio':12}{ours.seconds / theirs.seconds:9.2f}{ours.peak / theirs.peak:9.2f}")
    print(
        f"training loader, {WORKERS} workers, --cache none, batches of {BATCH_SIZE}, {epochs.seconds:.0f} s an epoch;"
    )
    print(f"PSS of {epochs.processes} processes together at the end of an epoch")
    for epoch, used in enumerate(epochs.sizes, start=1):
        print(f"  epoch {epoch}{used / MB:9.0f} MB{used / epochs.sizes[0] - 1:+9.2%}")
    print(f"{describe_machine()}, {platform.platform()}, {os.cpu_count()} CPUs")
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pycocotools", "torch"))
    print(f"Python {platform.python_version()}, {versions}, {date.today()}")


if __name__ == "__main__":
    main()
