"""What `predict` writes on request; tests/integration/test_predict.py runs it as a whole."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from opendetr.data.door import load_index
from opendetr.errors import UserError
from opendetr.inference.label_files import LabelFiles, Listed, Saving, folder_name
from opendetr.inference.results import StoredEntries, write_entries
from opendetr.labels import LabelMap
from opendetr.structures import Detections

LABELS = LabelMap((None, 7, 90), ("N/A", "cat", "dog / puppy"))
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8))
# Reaches over the left and lower edges; inside; outside of the picture.
BOXES = torch.tensor([[-5.0, 10.0, 10.0, 25.0], [20.0, 5.0, 30.0, 15.0], [50.0, 2.0, 60.0, 8.0]])
FOUND = Detections(BOXES, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([2, 1, 1]), LABELS, (20, 40), 5, "b.png")


def files(folder, *names: str) -> LabelFiles:
    return LabelFiles(folder, Saving(**dict.fromkeys(names, True)), LABELS)


def test_yolo_labels_are_shares_of_the_picture_clipped_and_counted_without_gaps(tmp_path):
    txt = files(tmp_path, "txt")
    txt.write("b", IMAGE, FOUND)
    txt.write("empty", IMAGE, FOUND[[]])
    assert (tmp_path / "labels/b.txt").read_text().splitlines() == [
        "1 0.125000 0.750000 0.250000 0.500000", "0 0.625000 0.500000 0.250000 0.500000",
    ]  # fmt: skip
    assert (tmp_path / "labels/empty.txt").read_text() == ""
    assert txt.finish([], []) == [tmp_path / "labels"]
    assert (tmp_path / "classes.txt").read_text() == "cat\ndog / puppy\n"


def test_the_table_has_clipped_boxes(tmp_path):
    listed = [Listed(5, "b.png", (20, 40))]
    assert files(tmp_path, "csv").finish(FOUND.to_coco(), listed) == [tmp_path / "detections.csv"]
    with (tmp_path / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "file_name": "b.png", "image_id": "5", "category_id": "90", "name": "dog / puppy", "score": "0.9000",
        "x1": "0.00", "y1": "10.00", "x2": "10.00", "y2": "20.00",
    }  # fmt: skip
    assert [row["name"] for row in rows] == ["dog / puppy", "cat"]


def test_the_data_set_is_read_back(tmp_path):
    original = tmp_path / "b.png"
    IMAGE.save(original)
    coco = files(tmp_path, "coco")
    coco.write("b", IMAGE, FOUND, original)
    coco.write("frame-000006", IMAGE, FOUND[[]])  # of a video: no file, and nothing found
    entries = tmp_path / "detections.json"
    write_entries(entries, FOUND.to_coco())
    listed = [Listed(5, "b.png", (20, 40)), Listed(6, "frame-000006.jpg", (20, 40))]
    assert coco.finish(StoredEntries(entries), listed) == [tmp_path / "coco"]
    index = load_index(tmp_path / "coco", "train")
    assert [(record.image_id, record.path.name, len(record.labels)) for record in index.records] == [
        (5, "b.png", 2), (6, "frame-000006.jpg", 0),
    ]  # fmt: skip
    assert index.records[0].boxes_xyxy.tolist() == [[0, 10, 10, 20], [20, 5, 30, 15]]
    assert [index.label_map.names[label] for label in index.records[0].labels] == ["dog / puppy", "cat"]
    assert index.left_out == ()
    assert index.records[0].path.read_bytes() == original.read_bytes()
    assert Image.open(index.records[1].path).size == (40, 20)
    assert [a["score"] for a in json.loads(index.source.read_text())["annotations"]] == pytest.approx([0.9, 0.8])


def test_crops_lie_in_a_folder_per_class(tmp_path):
    crops = files(tmp_path, "crops")
    crops.require_new()
    crops.write("b", IMAGE, FOUND)
    found = {path.relative_to(tmp_path / "crops").as_posix(): Image.open(path).size for path in tmp_path.rglob("*.jpg")}
    assert found == {"dog - puppy/b-01.jpg": (10, 10), "cat/b-02.jpg": (10, 10)}
    with pytest.raises(UserError, match=r"crops holds crops of earlier work: remove it, or choose another --output"):
        crops.require_new()
    labels = files(tmp_path, "txt")
    labels.require_new()
    labels.write("b", IMAGE, FOUND)
    with pytest.raises(UserError, match="labels holds labels of earlier work"):
        labels.require_new()


def test_nothing_is_written_that_was_not_asked_for(tmp_path):
    files(tmp_path).write("b", IMAGE, FOUND)
    assert files(tmp_path).finish([], []) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "folder"), [("a/b", "a-b"), ("..", "-"), ("con: x?", "con- x-"), ("猫", "猫")])
def test_any_class_name_makes_a_folder_inside(name, folder):
    assert folder_name(name) == folder


def test_stored_results_can_be_read_again_and_again(tmp_path):
    for entries in ([], [{"a": 1}], [{"a": 1}, {"b": "],["}]):
        write_entries(tmp_path / "r.json", entries)
        stored = StoredEntries(tmp_path / "r.json")
        assert list(stored) == list(stored) == entries == json.loads((tmp_path / "r.json").read_text())
