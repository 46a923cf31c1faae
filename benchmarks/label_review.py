"""Does the queue of a label review find wrong labels? Faults are planted in a train split, and a model learns from it.

Run `python benchmarks/label_review.py --bccd DATA`. In a copy of the split train, 40 labels are removed, moved or get
another class, as many each; the recipe `fast` learns from that copy for `--minutes`; the queue of the same split is
made with its best weights. The table says how many of the first entries are planted faults. Of the others, pictures are
written in `others-NUMBER.png`, to judge by eye which of them are true faults of the data set: the label as it is in
red, what is proposed in green. Planting and training depend on `--seed`; tune on other seeds than those that are
reported. It needs the extra `demo`. Exit code 1 says that fewer than 30 of the first 60 entries of the digits are
planted faults.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from opendetr.boxes import cxcywh_to_xyxy
from opendetr.data.corrections import iou_xywh
from opendetr.data.digits import write_digits
from opendetr.data.door import load_index
from opendetr.data.index import USED, DatasetIndex
from opendetr.explanation.label_faults import label_evidence, output_of
from opendetr.explanation.mistakes import crowds_of, target_of
from opendetr.explanation.suspects import LabelEvidence, Suspect, rank_suspects
from opendetr.images import read_image
from opendetr.inference.detector import Detector

FAULTS, SCENES, SAME_PLACE = 40, 1000, 0.5
FIRST, WANTED = 60, 30  # of the first entries on digits, at least so many are planted
KINDS = ("removed", "shifted", "wrong class")
SHIFT, SHIFTED_IOU = (0.25, 0.6), (0.2, 0.6)  # of the box's sides; of the box before and after
TILE, COLUMNS, ROWS = 300, 4, 3  # of a picture of entries
Coco = dict[str, Any]


@dataclass(frozen=True)
class Planted:
    """A fault, and how the label was before."""

    kind: str
    annotation: int
    image_id: int
    bbox: list[float]

    def is_found_by(self, entry: "Entry") -> bool:
        """Whether an entry of the queue is about it: about the same object, or about the place where it was."""
        if entry.image_id != self.image_id:
            return False
        if entry.annotation is not None:
            return entry.annotation == self.annotation
        return self.kind != "wrong class" and iou_xywh(entry.bbox, self.bbox) >= SAME_PLACE


@dataclass(frozen=True)
class Entry:
    """An entry of the queue, with the ids of its file."""

    suspect: Suspect
    image_id: int
    annotation: int | None
    bbox: list[float]


def plant(coco: Coco, seed: int) -> list[Planted]:
    """Change 40 labels of a COCO file, at most one fault each."""
    rng = np.random.default_rng(seed)
    sizes = {one["id"]: (one["width"], one["height"]) for one in coco["images"]}
    classes = [one["id"] for one in coco["categories"]]
    planted: list[Planted] = []
    for number in rng.permutation(len(coco["annotations"])).tolist():
        if len(planted) == FAULTS:
            break
        kind, one = KINDS[len(planted) % len(KINDS)], coco["annotations"][number]
        before = list(one["bbox"])
        if kind == "wrong class":
            one["category_id"] = int(rng.choice([other for other in classes if other != one["category_id"]]))
        elif kind == "shifted":
            moved = shifted(before, sizes[one["image_id"]], rng)
            if moved is None:
                continue
            one["bbox"] = moved
        planted.append(Planted(kind, one["id"], one["image_id"], before))
    removed = {fault.annotation for fault in planted if fault.kind == "removed"}
    coco["annotations"] = [one for one in coco["annotations"] if one["id"] not in removed]
    return planted


def shifted(bbox: Sequence[float], size: tuple[int, int], rng: np.random.Generator) -> list[float] | None:
    """A box moved within its picture, so that it is wrong but still about the object; None where there is no room."""
    x, y, width, height = bbox
    for _ in range(100):
        angle, far = rng.uniform(0, 2 * math.pi), rng.uniform(*SHIFT)
        left, top = x + far * width * math.cos(angle), y + far * height * math.sin(angle)
        moved = [round(left, 1), round(top, 1), width, height]
        inside = 0 <= moved[0] <= size[0] - width and 0 <= moved[1] <= size[1] - height
        if inside and SHIFTED_IOU[0] <= iou_xywh(moved, bbox) <= SHIFTED_IOU[1]:
            return moved
    return None


def faulty_copy(source: Path, folder: Path, seed: int) -> list[Planted]:
    """A copy of a data set in COCO's form with faults in its split train; the pictures are links."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").symlink_to((source / "images").resolve())
    planted: list[Planted] = []
    for name in ("train", "val"):
        coco = json.loads((source / "annotations" / f"{name}.json").read_text())
        planted = plant(coco, seed) if name == "train" else planted
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(coco))
    return planted


def queue_of(run: Path, data: Path) -> tuple[list[Entry], DatasetIndex]:
    """The queue of the split train, by the best weights of a run."""
    detector = Detector.load(run, engine="torch")
    index = load_index(data, "train").under(detector.description.label_map)
    ids = index.objects.ids[index.objects.reasons == USED]
    entries = []
    for suspect in rank_suspects(evidence(detector, index)):
        record, number = index.records[suspect.picture], suspect.evidence.number
        x1, y1, x2, y2 = proposed_box(suspect, record.width, record.height)
        own = None if number is None else int(ids[index.starts[suspect.picture] + number])
        entries.append(Entry(suspect, int(record.image_id), own, [x1, y1, x2 - x1, y2 - y1]))
    return entries, index


def evidence(detector: Detector, index: DatasetIndex) -> Iterator[tuple[int, list[LabelEvidence]]]:
    """Position and evidence of every picture, as the survey of a server has them."""
    scoring, white_level = detector.description.scoring, detector.description.preprocessing.white_level
    for position, record in enumerate(index.records):
        output = output_of(detector, read_image(record.path, white_level=white_level))
        yield position, label_evidence(output, target_of(record), scoring, crowds_of(index, position))


def proposed_box(suspect: Suspect, width: int, height: int) -> list[float]:
    """The box of the evidence in pixels, x1, y1, x2, y2."""
    import torch

    box = cxcywh_to_xyxy(torch.tensor(suspect.evidence.box_cxcywh))
    found: list[float] = (box * torch.tensor([width, height, width, height])).tolist()
    return found


def found_by(entries: Sequence[Entry], planted: Sequence[Planted]) -> int:
    """How many of the planted faults some entries are about."""
    return sum(any(fault.is_found_by(entry) for entry in entries) for fault in planted)


def judge(name: str, entries: Sequence[Entry], planted: Sequence[Planted], tops: Sequence[int]) -> set[int]:
    """Print how many of the first entries are planted; returns the places of those that are."""
    found = [next((n for n, fault in enumerate(planted) if fault.is_found_by(entry)), None) for entry in entries]
    print(f"\n{name}: {len(entries)} entries, {len(planted)} faults planted")
    print("| first entries | planted | " + " | ".join(KINDS) + " | entries by kind |\n|---|---|---|---|---|---|")
    for top in tops:
        hits = {one for one in found[:top] if one is not None}
        kinds = Counter(planted[one].kind for one in hits)
        by_kind = Counter(str(entry.suspect.fault) for entry in entries[:top])
        words = ", ".join(f"{count} {kind}" for kind, count in by_kind.most_common())
        print(f"| {top} | {len(hits)} | " + " | ".join(str(kinds[kind]) for kind in KINDS) + f" | {words} |")
    return {place for place, one in enumerate(found) if one is not None}


def draw_others(entries: Sequence[Entry], index: DatasetIndex, places: Sequence[int], folder: Path) -> None:
    """Pictures of entries: the label as it is in red, what is proposed in green, all other labels in white."""
    for first in range(0, len(places), COLUMNS * ROWS):
        sheet = Image.new("RGB", (COLUMNS * TILE, ROWS * (TILE + 30)), "white")
        for cell, place in enumerate(places[first : first + COLUMNS * ROWS]):
            left, top = cell % COLUMNS * TILE, cell // COLUMNS * (TILE + 30)
            sheet.paste(tile(entries[place].suspect, index), (left, top + 30))
            fault, evidence = entries[place].suspect.fault, entries[place].suspect.evidence
            names, given = index.label_map.names, evidence.given_label
            said = "" if given is None else f"{names[given]} -> "
            text = f"{place + 1}. {fault} {entries[place].suspect.suspicion:.2f}\n{said}{names[evidence.label]}"
            ImageDraw.Draw(sheet).text((left + 4, top + 2), text, fill="black")
        sheet.save(folder / f"others-{first // (COLUMNS * ROWS) + 1}.png")


def tile(suspect: Suspect, index: DatasetIndex) -> Image.Image:
    """The surroundings of an entry."""
    record, own = index.records[suspect.picture], suspect.evidence.number
    proposed = proposed_box(suspect, record.width, record.height)
    boxes = [*record.boxes_xyxy.tolist(), proposed]
    about = boxes[-1] if own is None else boxes[own]
    centre = [(about[0] + about[2]) / 2, (about[1] + about[3]) / 2]
    side = max(1.6 * max(about[2] - about[0], about[3] - about[1]), min(record.width, record.height) / 3)
    scale, corner = TILE / side, [centre[0] - side / 2, centre[1] - side / 2]
    image = read_image(record.path)
    crop = image.transform(
        (TILE, TILE), Image.Transform.AFFINE, (1 / scale, 0, corner[0], 0, 1 / scale, corner[1]),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    draw = ImageDraw.Draw(crop)
    for number, box in enumerate(boxes):
        colour = "lime" if number == len(boxes) - 1 else "red" if number == own else "white"
        place = [(box[0] - corner[0]) * scale, (box[1] - corner[1]) * scale, (box[2] - corner[0]) * scale]
        draw.rectangle([*place, (box[3] - corner[1]) * scale], outline=colour, width=1 if colour == "white" else 3)
    return crop


def main() -> int:
    """Plant, train, make the queue and count; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bccd", type=Path, help="BCCD in COCO's form; without it it is left out")
    parser.add_argument("--only", choices=("digits", "bccd"), help="one of the two")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of a training, on a machine that does nothing else"
    )
    parser.add_argument("--epochs", type=int, help="instead of minutes: the same work on a machine that is shared")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, faults and training")
    parser.add_argument("--output", type=Path, help="a folder for data, runs and pictures; runs there are used again")
    options, rest = parser.parse_known_args()
    folder = options.output or Path(tempfile.mkdtemp())
    length = ["--epochs", f"{options.epochs}"] if options.epochs else ["--minutes", f"{options.minutes:g}"]
    code = 0
    for name in ("digits", "bccd"):
        source = folder / "scenes" if name == "digits" else options.bccd
        if source is None or options.only not in (None, name):
            continue
        if name == "digits" and not source.is_dir():
            write_digits(source, SCENES, options.seed)
        data, run, notes = folder / name, folder / f"run-{name}", folder / f"{name}-planted.json"
        if not data.is_dir():
            notes.write_text(json.dumps([vars(one) for one in faulty_copy(source, data, options.seed)]))
        if not (run / "best").is_dir():
            command = [sys.executable, "-m", "opendetr", "train", "--data", str(data), "--output", str(run)]
            settings = ["--seed", str(options.seed), "--device", "cpu", *length, *rest]
            with (folder / f"run-{name}.txt").open("w") as output:
                subprocess.run([*command, *settings], stdout=output, stderr=subprocess.STDOUT, check=True)
        entries, index = queue_of(run, data)
        planted = [Planted(**one) for one in json.loads(notes.read_text())]
        found = judge(name, entries, planted, (40, FIRST, 100))
        if name == "digits" and found_by(entries[:FIRST], planted) < WANTED:
            print(f"PROBLEM: fewer than {WANTED} of the first {FIRST} entries are planted faults")
            code = 1
        others = [place for place in range(min(100, len(entries))) if place not in found]
        pictures = folder / f"{name}-others"
        pictures.mkdir(exist_ok=True)
        draw_others(entries, index, others, pictures)
        print(f"{len(others)} of the first 100 are not planted: {pictures}")
    return code


if __name__ == "__main__":
    sys.exit(main())
