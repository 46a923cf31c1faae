"""`predict` on many JPEG files, from the files to `detections.json`, against what its engine does at most.

Run `python benchmarks/prediction.py MODEL`. Pictures of 640x480 lie on disk; nothing is drawn. The engine alone sees
the same number of ready tensors in batches of the same size, half of them before and half after, so that a machine
that changes its pace meanwhile does it to both. The reading threads use the same processors as the engine.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from opendetr.benchmarking.benchmark import provenance
from opendetr.inference.detector import Detector
from opendetr.inference.prediction import predict_pictures
from opendetr.inference.results import Shard
from opendetr.inference.sources import expand_sources

WIDTH, HEIGHT, QUALITY, NOISE = 640, 480, 95, 6.0  # with grain a file is as large as one of COCO's
SEED, WARM_UP = 0, 8  # batches; OpenVINO compiles for shapes that keep coming


def write_pictures(folder: Path, count: int) -> None:
    """Enlarged crops of two photographs, all different."""
    rng = np.random.default_rng(SEED)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        height = int(photograph.height * rng.uniform(0.6, 1.0))
        width = min(photograph.width, height * WIDTH // HEIGHT)
        left, top = (int(rng.integers(room + 1)) for room in (photograph.width - width, photograph.height - height))
        crop = photograph.crop((left, top, left + width, top + height)).resize((WIDTH, HEIGHT))
        grained = np.asarray(crop) + rng.normal(0, NOISE, (HEIGHT, WIDTH, 3))
        Image.fromarray(grained.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06}.jpg", quality=QUALITY)


def seconds_of_engine(detector: Detector, images: torch.Tensor, batches: int) -> float:
    begun = time.perf_counter()
    for _ in range(batches):
        detector.engine(images)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="any model that predict takes")
    parser.add_argument("--pictures", type=int, default=1000, help="(default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="(default %(default)s, as of predict)")
    parser.add_argument("--engine", default="auto", help="(default %(default)s)")
    parser.add_argument("--precision", default="fp32", help="(default %(default)s)")
    given = parser.parse_args()
    detector = Detector.load(given.model, engine=given.engine, precision=given.precision)
    image = detector.prepare(Image.new("RGB", (WIDTH, HEIGHT), "gray"))
    images = image.expand(given.batch_size, *image.shape).contiguous()
    with tempfile.TemporaryDirectory() as name:
        pictures, output = Path(name) / "pictures", Path(name) / "found"
        pictures.mkdir()
        write_pictures(pictures, given.pictures)
        size = sum(path.stat().st_size for path in pictures.iterdir())
        half = max(1, given.pictures // given.batch_size // 2)
        seconds_of_engine(detector, images, WARM_UP)
        alone = seconds_of_engine(detector, images, half)
        begun = time.perf_counter()
        predict_pictures(
            detector, expand_sources([str(pictures)], output), output, Shard(), 0.5, given.batch_size, None, drawn=False
        )
        whole = time.perf_counter() - begun
        alone += seconds_of_engine(detector, images, half)
    engine_rate, rate = 2 * half * given.batch_size / alone, given.pictures / whole
    kilobytes = size / given.pictures / 1000
    print(f"\n{given.pictures} JPEGs of {WIDTH}x{HEIGHT}, {kilobytes:.0f} kB each, seen by the model at", end=" ")
    print(
        f"{image.shape[1]}x{image.shape[2]}; batches of {given.batch_size}, {detector.engine.name} {given.precision}\n"
    )
    print("| | pictures/s | of the engine alone |\n|---|---|---|")
    print(f"| engine alone | {engine_rate:.1f} | |")
    print(f"| predict, files to detections.json | {rate:.1f} | {rate / engine_rate:.0%} |")
    print(f"\n{provenance(detector.engine.name, 'opendetr')}")


if __name__ == "__main__":
    main()
