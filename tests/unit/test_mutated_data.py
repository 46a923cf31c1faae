"""Files of data sets with random faults: one sentence, or an index in which every entry is used or left out."""

import copy
import json
import math
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from foreign_data import copy_pictures, csv_lines, write_labelme, write_voc, write_yolo

from opendetr.data.check import left_out_in_words
from opendetr.data.door import load_index
from opendetr.errors import UserError

ODD = (
    *b" nan NaN -1 0 1e999 -0.0 null true [] {} \" ' < > & &amp; ]]> <!-- .. / \\ &x; 0.5 1e308 *a &a #".split(b" "),
    b"1_000", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b",", b";", b" ", b"\xe9", "猫".encode(),
    b"a" * 300, b"9" * 400, b"9" * 5000, b"[" * 3000, b"<a>" * 3000, b"!!python/object:os.system",
    b"18446744073709551616",
)  # fmt: skip
TOKEN = re.compile(rb"[^\s<>,:\[\]{}\"=]+")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A file's content with one to four faults."""
    for _ in range(draw.randint(1, 4)):
        kind = draw.randrange(7)
        at, end = sorted(draw.randint(0, len(content)) for _ in range(2))
        tokens = list(TOKEN.finditer(content))
        lines = content.splitlines(keepends=True)
        if kind == 0:
            content = content[:at] + draw.choice(ODD) + content[at:]
        elif kind == 1:
            content = content[:at] + content[min(end, at + 40) :]
        elif kind == 2 and draw.random() < 0.2:
            content = content[:at]
        elif kind == 3 and content:
            content = content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        elif kind == 4 and lines:
            lines.insert(draw.randint(0, len(lines)), draw.choice(lines))
            content = b"".join(lines)
        elif tokens:
            token = draw.choice(tokens)
            with_ = draw.choice([*ODD, draw.choice(tokens)[0]])
            content = content[: token.start()] + with_ + content[token.end() :]
    return content


ODD_VALUES = (
    None, True, False, "", "0", "nan", "7.0", "x", "..", "\0", 0, -1, 7, 2.5, 1e308, 1e19, 2**63, 2**64 + 1, 10**400,
    [], [[]], {}, [1, 2], [1, 2, 3, 4], [0, 0, 1e200, 1e200], [1e308, 0, 1e308, 1], [math.nan] * 4, {"id": 1},
    "a" * 5000,
)  # fmt: skip


def mutated_json(content: bytes, draw: random.Random) -> bytes:
    """A JSON file with one to four other values in it, or entries that are gone or doubled."""
    whole = json.loads(content)
    for _ in range(draw.randint(1, 4)):
        at = whole
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(at[key], dict | list) and at[key] and draw.random() < 0.9:
                at = at[key]
                continue
            kind = draw.randrange(6)
            if kind == 0:
                del at[key]
            elif kind == 1 and isinstance(at, list):
                at.insert(0, copy.deepcopy(at[key]))
            else:
                at[key] = copy.deepcopy(draw.choice(ODD_VALUES))
            break
    return json.dumps(whole).encode()


def coco(source: Path, root: Path) -> None:
    shutil.copytree(source, root)


def yolo(source: Path, root: Path) -> None:
    copy_pictures(source, root / "images")
    write_yolo(source, root / "labels")
    (root / "data.yaml").write_text("path: .\ntrain: images\nnc: 3\nnames:\n  0: circle\n  1: square\n  2: star\n")


def voc(source: Path, root: Path) -> None:
    copy_pictures(source, root / "JPEGImages")
    write_voc(source, root / "Annotations")


def table(source: Path, root: Path) -> None:
    copy_pictures(source, root)
    lines = csv_lines(
        source, lambda image, name, box: ",".join(map(str, [image["file_name"], *box, name])),
        lambda image: f"{image['file_name']},,,,,",
    )  # fmt: skip
    (root / "train.csv").write_text("\n".join(["image,x,y,width,height,label", *lines]))


def labelme(source: Path, root: Path) -> None:
    copy_pictures(source, root)
    write_labelme(source, root)


BLANK = b'\xef\xbb\xbf \t\x00\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0,;"'


def num_lines(path: Path) -> int:
    """Lines that hold more than what some encoding reads as space."""
    return sum(bool(line.strip(BLANK)) for line in re.split(rb"\r\n|\r|\n", path.read_bytes()))


def num_objects(path: Path) -> int:
    """The objects of a file of one picture, read by other means than ours; 0 where it cannot be read."""
    try:
        if path.suffix == ".xml":
            root = ElementTree.parse(path).getroot()
            return len(root.findall("object")) if root.tag == "annotation" else 0
        shapes = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))["shapes"]
        return len(shapes) if isinstance(shapes, list) else 0
    except (ElementTree.ParseError, ValueError, KeyError, TypeError, RecursionError, LookupError):
        return 0


def entries(root: Path, write: Callable) -> tuple[int, int]:
    """How many pictures and objects the files of a data set have at least."""
    if write is coco:
        text = (root / "annotations/train.json").read_bytes().removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
        content = json.loads(text)  # a text that no one reads, such as a licence, may be no UTF-8
        return len(content["images"]), len(content["annotations"])
    if write is table:  # a line may be an object, or a picture without any
        return 0, num_lines(root / "train.csv") - 1
    if write is yolo:
        return 4, sum(map(num_lines, (root / "labels").iterdir()))
    files = list((root / "Annotations").iterdir()) if write is voc else list(root.glob("*.json"))
    return len(files), sum(map(num_objects, files))


def outcome(root: Path, write: Callable) -> str:
    """`index` or `sentence`; fails where an entry is lost."""
    try:
        index = load_index(root, "train")
    except UserError as error:
        return f"sentence {error}"[:8]
    left_out = [one.kind for one in index.left_out]
    assert left_out_in_words(index) is not None
    assert len(list(index.records)) == len(index)
    assert np.isfinite(index.boxes_xyxy).all()
    assert (index.boxes_xyxy[:, 2:] > index.boxes_xyxy[:, :2]).all()
    assert (index.boxes_xyxy <= np.tile(np.repeat(index.sizes, index.counts, axis=0), 2)).all()
    pictures, objects = len(index) + left_out.count("picture"), len(index.objects) + left_out.count("object")
    least_pictures, least_objects = entries(root, write)
    assert pictures >= least_pictures
    assert objects + (pictures if write is table else 0) >= least_objects
    return "index"


def try_all(source: Path, folder: Path, write: Callable, number: int) -> dict[str, int]:
    """Mutate the files of a data set one after the other; how often each outcome was seen."""
    pristine, outcomes = folder / "pristine", {"index": 0, "sentence": 0}
    write(source, pristine)
    own = [path for path in sorted(pristine.rglob("*")) if path.is_file() and path.suffix != ".png"]
    draw = random.Random(write.__name__)
    root = folder / "mutated"
    shutil.copytree(pristine, root)
    for _ in range(number):
        path = draw.choice(own)
        changed = root / path.relative_to(pristine)
        change = mutated_json if path.suffix == ".json" and draw.random() < 0.8 else mutated
        changed.write_bytes(change(path.read_bytes(), draw))
        outcomes[outcome(root, write)] += 1
        shutil.copy(path, changed)
    return outcomes


WRITERS = [coco, yolo, voc, table, labelme]


@pytest.mark.parametrize("write", WRITERS)
def test_mutated_files(coco_folder, tmp_path, write):
    outcomes = try_all(coco_folder((1, 2, 0, 3)), tmp_path, write, 20 if write is voc else 40)
    assert outcomes["index"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("write", WRITERS)
def test_many_mutated_files(coco_folder, tmp_path, write):
    outcomes = try_all(coco_folder((1, 2, 0, 3)), tmp_path, write, 2000)
    print(write.__name__, outcomes)
    assert sum(outcomes.values()) == 2000
