"""Does a training say what is wrong? Faults are planted in a train split, and in the settings; val is left as it is.

Run `python benchmarks/planted_faults.py --bccd DATA --cards DATA`. Each fault is a training of its own with the recipe
`fast` on 300 digit scenes (on BCCD for `half-unlabelled`), 128 pixels, at most `--minutes`; three healthy trainings
follow, which should say nothing. A row of the table is a training: the symptom that is expected, those that the run's
log names, and whether these are it and no others.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from opendetr.data.digits import SIDE, write_digits
from opendetr.training.run_folder import read_metrics

SCENES, FEW, EPOCHS_OF_FEW = 300, 20, 200
TINY = 4  # by which the scenes shrink whose digits are then about 8 pixels large
Coco = dict[str, Any]


def shuffle_labels(coco: Coco, images: Path) -> None:
    """Every object gets the label of another one."""
    labels = [one["category_id"] for one in coco["annotations"]]
    for one, label in zip(coco["annotations"], np.random.default_rng(0).permutation(labels).tolist(), strict=True):
        one["category_id"] = label


def rotate_ids(coco: Coco, images: Path) -> None:
    """Every object gets the id of the next category, as where two tools count categories differently."""
    ids = [one["id"] for one in coco["categories"]]
    next_of = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    for one in coco["annotations"]:
        one["category_id"] = next_of[one["category_id"]]


def halve_sizes(coco: Coco, images: Path) -> None:
    """Every box keeps its centre, and half of its width and height."""
    for one in coco["annotations"]:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x + width / 4, y + height / 4, width / 2, height / 2]


def halve_coordinates(coco: Coco, images: Path) -> None:
    """Every box is that of a picture half as large."""
    for one in coco["annotations"]:
        one["bbox"] = [value / 2 for value in one["bbox"]]


def blacken(coco: Coco, images: Path) -> None:
    """Every picture is black."""
    for one in coco["images"]:
        Image.new("RGB", (one["width"], one["height"])).save(images / one["file_name"])


def leave_class_out(coco: Coco, images: Path) -> None:
    """No object of the fourth category is labelled."""
    missing = coco["categories"][3]["id"]
    coco["annotations"] = [one for one in coco["annotations"] if one["category_id"] != missing]


def leave_half_out(coco: Coco, images: Path) -> None:
    """Every second object, drawn at random, is not labelled."""
    kept = np.random.default_rng(0).random(len(coco["annotations"])) < 0.5
    coco["annotations"] = [one for one, is_kept in zip(coco["annotations"], kept, strict=True) if is_kept]


def shrink(coco: Coco, images: Path) -> None:
    """Every scene is a quarter as large, somewhere in a dark picture: digits have about 8 pixels."""
    places = np.random.default_rng(0).integers(0, SIDE - SIDE // TINY, (len(coco["images"]), 2))
    left_top = {one["id"]: place for one, place in zip(coco["images"], places.tolist(), strict=True)}
    for one in coco["images"]:
        with Image.open(images / one["file_name"]) as scene:
            small = scene.resize((SIDE // TINY, SIDE // TINY))
        canvas = Image.new("RGB", (SIDE, SIDE), (40, 40, 40))
        canvas.paste(small, tuple(left_top[one["id"]]))
        canvas.save(images / one["file_name"])
    for one in coco["annotations"]:
        left, top = left_top[one["image_id"]]
        x, y, width, height = (value / TINY for value in one["bbox"])
        one["bbox"] = [left + x, top + y, width, height]


def keep_few(coco: Coco, images: Path) -> None:
    """Only the first pictures are there."""
    coco["images"] = coco["images"][:FEW]
    kept = {one["id"] for one in coco["images"]}
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] in kept]


@dataclass(frozen=True)
class Training:
    """A training, and what it should say."""

    name: str
    expected: tuple[str, ...]  # names of symptoms, any of which is right; none for a healthy training
    data: str = "digits"
    plant: Callable[[Coco, Path], None] | None = None
    options: tuple[str, ...] = ()


def rates(lr: float, backbone_lr: float) -> tuple[str, ...]:
    """Options for other learning rates; those of `fast` are 8e-4 and 6e-4."""
    return ("--set", f"train.lr={lr}", "--set", f"train.backbone_lr={backbone_lr}")


AT_128 = ("--image-size", "128")
FAULTS = (
    Training("lr-x1000", ("diverged", "rate-too-high"), options=rates(0.8, 0.6)),
    Training("lr-x0.001", ("rate-too-low",), options=rates(8e-7, 6e-7)),
    Training("labels-shuffled", ("classes-not-learned",), plant=shuffle_labels),
    Training("ids-rotated", ("classes-exchanged",), plant=rotate_ids),
    Training("boxes-halved", ("other-boxes",), plant=halve_sizes),
    Training("coordinates-halved", ("other-boxes",), plant=halve_coordinates),
    Training("black-pictures", ("uniform-pictures",), plant=blacken),
    Training("class-unlabelled", ("class-not-labelled",), plant=leave_class_out),
    Training("half-unlabelled", ("labels-missing",), "bccd", leave_half_out),
    Training("objects-of-8-px", ("objects-too-small",), plant=shrink),
    Training("20-pictures", ("overfitting",), plant=keep_few, options=("--epochs", str(EPOCHS_OF_FEW))),
)  # fmt: skip
HEALTHY = (Training("digits", ()), Training("bccd", (), "bccd"), Training("cards", (), "cards"))


def prepare(training: Training, sources: dict[str, Path], folder: Path) -> Path:
    """The data of a training: a copy with the fault, or the source where it has none."""
    source = sources[training.data]
    if training.plant is None:
        return source
    shutil.copytree(source, folder, dirs_exist_ok=True)
    path = folder / "annotations" / "train.json"
    coco = json.loads(path.read_text())
    training.plant(coco, folder / "images")
    path.write_text(json.dumps(coco))
    return folder


def train(training: Training, data: Path, run: Path, length: tuple[str, ...], rest: list[str]) -> int:
    """Run the training; its output goes to a file beside the run folder. Returns the exit code."""
    length = () if "--epochs" in training.options else length
    size = AT_128 if training.expected else ()
    command = [
        sys.executable, "-m", "opendetr", "train", "--data", str(data), "--output", str(run), "--device", "cpu",
        *length, *size, *training.options, *rest,
    ]  # fmt: skip
    with beside(run, "txt").open("w") as output:
        return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode


def beside(run: Path, kind: str) -> Path:
    """The file of this kind beside a run's folder."""
    return run.parent / f"{run.name}.{kind}"


def symptoms_of(run: Path, code: int) -> list[str]:
    """The names of the symptoms in a run's log; `diverged` for the exit code 1 of a training that ended so."""
    said = [name for line in read_metrics(run) for name in line.get("symptoms", {})]
    return [*(["diverged"] if code == 1 else []), *said]


def main() -> None:
    """Train with every fault and without, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bccd", type=Path, help="BCCD in COCO's form; without it its trainings are left out")
    parser.add_argument("--cards", type=Path, help="a data set of playing cards in COCO's form; likewise")
    parser.add_argument("--only", nargs="*", help="names of trainings; healthy ones are digits, bccd and cards")
    parser.add_argument("--minutes", type=float, default=4.0, help="of a training with a fault")
    parser.add_argument("--healthy-minutes", type=float, default=5.0, help="of one without")
    parser.add_argument("--epochs", type=int, help="instead of minutes: the same training on a machine that is shared")
    parser.add_argument("--keep", type=Path, help="a folder for data and runs; runs that are there are not made again")
    options, rest = parser.parse_known_args()
    folder = Path(options.keep or tempfile.mkdtemp())
    digits = folder / "digits"
    if not digits.is_dir():
        write_digits(digits, SCENES)
    sources = {"digits": digits, "bccd": options.bccd, "cards": options.cards}
    right = 0
    chosen = [
        one for one in (*FAULTS, *HEALTHY)
        if sources[one.data] is not None and (not options.only or one.name in options.only)
    ]  # fmt: skip
    print("| training | expected | said | right |\n|---|---|---|---|", flush=True)
    for one in chosen:
        run = folder / "runs" / one.name
        run.parent.mkdir(exist_ok=True)
        code_file = beside(run, "code")
        if not code_file.exists():
            data = prepare(one, sources, folder / "data" / one.name)
            minutes = options.minutes if one.expected else options.healthy_minutes
            length = ("--epochs", f"{options.epochs}") if options.epochs else ("--minutes", f"{minutes:g}")
            code_file.write_text(str(train(one, data, run, length, rest)))
        said = symptoms_of(run, int(code_file.read_text()))
        is_right = bool(said) and set(said) <= set(one.expected) if one.expected else not said
        right += is_right
        print(
            f"| {one.name} | {' or '.join(one.expected) or 'nothing'} | {', '.join(said) or 'nothing'} | {is_right} |",
            flush=True,
        )
    print(f"\n{right} of {len(chosen)} right.")


if __name__ == "__main__":
    main()
