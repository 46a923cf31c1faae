"""COCO metrics of a whole val split: `evaluate_detections`, which `val` uses, against pycocotools, on the same entries.

Run `python benchmarks/evaluation.py`; pycocotools has to be installed (the extra `test`). Both sides begin with the
content of an annotation file and a list of COCO results in memory and end with the 12 numbers, which must be equal;
ours also gives AP per class, pycocotools does not.
"""

import argparse
import copy
import gc
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from datetime import date
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from opendetr.devices import describe_machine
from opendetr.evaluation.coco import SUMMARY_NAMES, evaluate_detections

NUM_PICTURES, NUM_DETECTIONS, NUM_CLASSES, OBJECTS_PER_PICTURE = 5000, 100, 80, 7.3
WIDTH, HEIGHT = 640, 480
SMALLEST, LARGEST = 8, 360  # square root of a box's area in pixels
CROWDS = 0.02  # of the true objects are crowd regions
FOUND, RIGHT_CLASS, JITTER = 0.85, 0.9, 0.06  # of a found object's box, jittered by that much of its sides
SEED, ROUNDS, TOLERANCE = 0, 2, 1e-6

Entries = list[dict[str, Any]]


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes (x, y, width, height) within the picture, small ones as often as large ones."""
    side, stretch = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), count)), np.exp(rng.normal(0, 0.3, count))
    width, height = np.minimum(side * stretch, WIDTH), np.minimum(side / stretch, HEIGHT)
    corner = rng.uniform(size=(2, count)) * [WIDTH - width, HEIGHT - height]
    return np.stack([*corner, width, height], 1)


def jittered(rng: np.random.Generator, boxes: np.ndarray, jitter: float) -> np.ndarray:
    sides = boxes[:, 2:]
    corners = boxes[:, :2] + rng.normal(0, jitter, sides.shape) * sides
    return np.concatenate([corners, sides * np.exp(rng.normal(0, jitter, sides.shape))], 1)


def random_truth(rng: np.random.Generator) -> dict[str, Any]:
    annotations: Entries = []
    for image_id in range(1, NUM_PICTURES + 1):
        for box in random_boxes(rng, rng.poisson(OBJECTS_PER_PICTURE)):
            crowd = rng.random() < CROWDS
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": int(rng.integers(NUM_CLASSES)) + 1,
                    "bbox": box.tolist(), "area": float(box[2] * box[3] * rng.uniform(0.4, 1)), "iscrowd": int(crowd),
                }
            )  # fmt: skip
    images = [{"id": number, "width": WIDTH, "height": HEIGHT} for number in range(1, NUM_PICTURES + 1)]
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, NUM_CLASSES + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_results(rng: np.random.Generator, truth: dict[str, Any]) -> Entries:
    """As a DETR's: most objects found once with a high score, second looks at them, and many weak guesses."""
    objects: dict[int, Entries] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    results: Entries = []
    for image_id, here in objects.items():
        true_boxes = np.array([item["bbox"] for item in here]).reshape(-1, 4)
        true_classes = np.array([item["category_id"] for item in here], dtype=int)
        found = np.flatnonzero(rng.random(len(here)) < FOUND)
        again = rng.integers(len(here), size=(NUM_DETECTIONS - len(found)) // 2 if len(here) else 0)
        guesses = NUM_DETECTIONS - len(found) - len(again)
        boxes = [jittered(rng, true_boxes[found], JITTER), jittered(rng, true_boxes[again], 3 * JITTER)]
        classes = np.concatenate([true_classes[found], true_classes[again], np.zeros(guesses, dtype=int)])
        drawn = (classes == 0) | (rng.random(NUM_DETECTIONS) > RIGHT_CLASS)
        classes[drawn] = rng.integers(NUM_CLASSES, size=drawn.sum()) + 1
        scores = np.concatenate([rng.beta(4, 2, len(found)), rng.beta(1, 6, NUM_DETECTIONS - len(found))])
        everything = np.concatenate([*boxes, random_boxes(rng, guesses)])
        results += [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for category_id, box, score in zip(classes.tolist(), everything.tolist(), scores.tolist())
        ]
    return results


def by_opendetr(truth: dict[str, Any], results: Entries) -> Sequence[float]:
    summary = evaluate_detections(truth, results).summary
    return [summary[name] for name in SUMMARY_NAMES]


def by_pycocotools(truth: dict[str, Any], results: Entries) -> Sequence[float]:
    ground_truth = COCO()
    ground_truth.dataset = truth
    ground_truth.createIndex()
    evaluator = COCOeval(ground_truth, ground_truth.loadRes(results), iouType="bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator.stats.tolist()


def seconds(
    evaluate: Callable[..., Sequence[float]], truth: dict[str, Any], results: Entries
) -> tuple[float, Sequence[float]]:
    truth, results = copy.deepcopy(truth), [dict(entry) for entry in results]  # pycocotools writes into both
    gc.collect()  # what the other side left behind
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        start = time.perf_counter()
        numbers = evaluate(truth, results)
        return time.perf_counter() - start, numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="evaluations by each side (default %(default)s)")
    rounds = parser.parse_args().rounds

    rng = np.random.default_rng(SEED)
    truth = random_truth(rng)
    results = random_results(rng, truth)
    sides = {"opendetr": by_opendetr, "pycocotools": by_pycocotools}
    times: dict[str, list[float]] = {name: [] for name in sides}
    numbers: dict[str, Sequence[float]] = {}
    for _ in range(rounds):
        for name, evaluate in sides.items():  # in turn, so that what else the machine does falls on both
            taken, numbers[name] = seconds(evaluate, truth, results)
            times[name].append(taken)

    difference = max(abs(ours - theirs) for ours, theirs in zip(*numbers.values(), strict=True))
    assert difference <= TOLERANCE, numbers
    assert 0.2 < numbers["opendetr"][0] < 0.6, f"AP {numbers['opendetr'][0]:.3f} is no detector's"

    ours, theirs = median(times["opendetr"]), median(times["pycocotools"])
    objects, crowds = len(truth["annotations"]), sum(annotation["iscrowd"] for annotation in truth["annotations"])
    print(f"COCO metrics of {NUM_PICTURES} pictures with {NUM_DETECTIONS} detections each, {NUM_CLASSES} classes,")
    print(f"{objects} true objects, {crowds} of them crowd regions; medians of {rounds} rounds, seed {SEED}")
    print(f"  opendetr    {ours:7.2f} s\n  pycocotools {theirs:7.2f} s\n  ratio       {theirs / ours:7.1f}")
    print("  " + "  ".join(f"{name} {value:.3f}" for name, value in zip(SUMMARY_NAMES, numbers["opendetr"])))
    print(f"  all 12 numbers of both are equal within {difference:.0e} (at most {TOLERANCE:.0e} is allowed)")
    print(f"{describe_machine()}, {platform.platform()}, {os.cpu_count()} CPUs")
    names = ("numpy", "hotcoco", "pycocotools")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"Python {platform.python_version()}, {versions}, {date.today()}")


if __name__ == "__main__":
    main()
