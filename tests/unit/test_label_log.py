"""Decisions about labels: what follows from them, undoing, two programs at once, and a program that is killed."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image

from opendetr.data.corrections import Correction, Edit, annotation_ids, corrected
from opendetr.data.door import load_index, split_names
from opendetr.data.label_log import Conflict, LabelLog, writable_folder
from opendetr.data.reviewed_labels import reviewed_labels
from opendetr.data.source import DataSource
from opendetr.errors import UserError
from opendetr.files import write_text

BOX, ELSEWHERE = [10.0, 20.0, 30.0, 40.0], [60.0, 5.0, 20.0, 20.0]


def annotation(number, image_id=1, box=BOX, **more):
    return {"id": number, "image_id": image_id, "category_id": 1, "bbox": box, "area": 1200.5, "iscrowd": 0, **more}


def labels():
    return {
        "info": {"year": 2026, "exact": 0.1},
        "images": [
            {"id": 1, "file_name": "a.png", "width": 100, "height": 80, "licence": 4},
            {"id": 7, "file_name": "b.png", "width": 100, "height": 80},
        ],
        "annotations": [
            annotation(3, segmentation=[[10, 20, 40, 20, 40, 60]], note="kept"),
            annotation(5, 7, ELSEWHERE, score=0.25),
            annotation(9, 7),
        ],
        "categories": [{"id": 1, "name": "cat", "supercategory": "pet"}, {"id": 2, "name": "dog"}],
    }


def log(folder):
    return LabelLog(labels(), "train", folder)


def add(box=ELSEWHERE, image_id=1):
    return {"edit": "add", "image_id": image_id, "category_id": 2, "bbox": box}


DELETE = {"edit": "delete", "image_id": 7, "annotation": 9}
MOVE = {"edit": "move", "image_id": 1, "annotation": 3, "bbox": [11, 21, 30, 40]}
RENAME = {"edit": "class", "image_id": 7, "annotation": 5, "category_id": 2}
KEEP = {"edit": "keep", "image_id": 7, "annotation": 5}


def test_the_corrected_file_is_the_source_but_for_the_decisions(tmp_path):
    review = log(tmp_path)
    for number, one in enumerate((MOVE, RENAME, DELETE, add(), KEEP)):
        assert review.decide(one, version=number).number == number
    review.write_corrected()
    found = json.loads((tmp_path / "train.corrected.json").read_text())
    moved, renamed = annotation(3, box=[11, 21, 30, 40], note="kept") | {"area": 1200.0}, labels()["annotations"][1]
    added = {"id": 13, "image_id": 1, "category_id": 2, "bbox": ELSEWHERE, "area": 400.0, "iscrowd": 0}
    assert found == labels() | {"annotations": [moved, renamed | {"category_id": 2}, added]}


def test_without_decisions_nothing_is_written(tmp_path):
    assert log(tmp_path).write_corrected() == 0
    assert log(tmp_path).corrected_labels() == labels()
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_a_corrected_file_without_its_decisions_is_not_overwritten(tmp_path):
    review = log(tmp_path)
    review.decide(MOVE, 0)
    review.write_corrected()
    review.path.unlink()
    before = review.corrected.read_bytes()
    assert review.write_corrected() == 0
    for refused in (lambda: log(tmp_path), lambda: review.decide(DELETE, 0)):
        with pytest.raises(UserError, match=r"without its decisions, train\.decisions\.jsonl"):
            refused()
    review.path.write_text("")
    with pytest.raises(UserError, match="without its decisions"):
        log(tmp_path)
    assert review.corrected.read_bytes() == before


def test_decisions_say_about_which_labels_they_are(tmp_path):
    review = log(tmp_path)
    review.decide(MOVE, 0)
    review.decide(add(), 1)
    first, second = (json.loads(line) for line in review.path.read_text().splitlines())
    assert first["was"] == {"category_id": 1, "bbox": BOX}
    assert "was" not in second
    changed = labels()
    changed["annotations"][2]["bbox"] = ELSEWHERE
    with pytest.raises(UserError, match="have changed since"):
        LabelLog(changed, "train", tmp_path)
    review.path.write_text(json.dumps({name: value for name, value in first.items() if name != "source"}) + "\n")
    with pytest.raises(UserError, match="have changed since"):
        log(tmp_path)


def test_a_log_that_another_program_began_about_other_labels_is_not_continued(tmp_path):
    changed = labels() | {"info": {}}
    one, other = log(tmp_path), LabelLog(changed, "train", tmp_path)
    one.decide(MOVE, 0)
    with pytest.raises(UserError, match="have changed since"):
        other.decide(DELETE, 1)
    assert one.version == 1


def test_the_corrected_file_is_written_while_others_decide(tmp_path, monkeypatch):
    review, other = log(tmp_path), log(tmp_path)
    review.decide(MOVE, 0)
    assert review.is_behind()

    def write(path, text, *, durable):
        other.decide(DELETE, 1)
        write_text(path, text, durable=durable)

    monkeypatch.setattr("opendetr.data.label_log.write_text", write)
    assert review.write_corrected() == 1
    monkeypatch.undo()
    assert review.write_corrected() == 2
    assert not review.is_behind()
    assert len(json.loads(review.corrected.read_text())["annotations"]) == 2


def test_undoing_goes_back_step_by_step_also_after_a_restart(tmp_path):
    review = log(tmp_path)
    states = [review.corrected_labels()]
    for one in (MOVE, DELETE, add()):
        review.decide(one, review.version)
        states.append(review.corrected_labels())
    for state in reversed(states[:-1]):
        review = log(tmp_path)
        assert review.undo(review.version) is not None
        assert review.corrected_labels() == state
    assert review.undo(review.version) is None
    review.write_corrected()
    assert json.loads(review.corrected.read_text()) == labels()


def test_an_added_object_can_be_moved_and_keeps_its_id_when_others_are_undone(tmp_path):
    review = log(tmp_path)
    review.decide(add(), 0)
    new = review.decide(add([0, 0, 10, 10]), 1).correction.annotation
    review.decide({"edit": "move", "image_id": 1, "annotation": new, "bbox": [1, 1, 10, 10]}, 2)
    (found,) = [one for one in review.corrected_labels()["annotations"] if one["id"] == new]
    assert found["bbox"] == [1, 1, 10, 10]
    later = review.decide(add([50, 50, 10, 10]), 3).correction.annotation
    assert later not in {new, *annotation_ids(labels())}


def test_another_window_does_not_overwrite_a_decision_that_it_has_not_seen(tmp_path):
    one, other = log(tmp_path), log(tmp_path)
    one.decide(MOVE, 0)
    with pytest.raises(Conflict):
        other.decide({**MOVE, "edit": "delete"}, 0)
    other.decide(DELETE, 0)  # of another object
    one.decide(add(), 1)
    with pytest.raises(Conflict):
        other.decide(add([60.0, 6.0, 20.0, 20.0]), 2)  # the same object, labelled twice
    with pytest.raises(Conflict):
        other.undo(2)
    assert [decision.correction.edit for decision in one.decisions] == ["move", "delete", "add"]
    other.decide({**MOVE, "edit": "delete"}, other.version)  # having seen it, one may decide anew


def test_an_undone_decision_is_no_conflict(tmp_path):
    one, other = log(tmp_path), log(tmp_path)
    one.decide(MOVE, 0)
    one.undo(1)
    other.decide({**MOVE, "edit": "delete"}, 0)


def test_a_line_that_a_killed_program_left_spoils_no_other(tmp_path):
    review = log(tmp_path)
    review.decide(MOVE, 0)
    whole = review.path.read_bytes()
    review.decide(DELETE, 1)
    second = review.path.read_bytes()[len(whole) :]
    for length in range(len(second)):
        review.path.write_bytes(whole + second[:length])
        after = log(tmp_path)
        assert [one.correction.edit for one in after.decisions] == ["move"]
        assert after.decide(RENAME, 1).number == 1
        assert [one.correction.edit for one in log(tmp_path).decisions] == ["move", "class"]


def decide_twice(folder, kill_at, said):
    """Decide twice and write the corrected file each time, in a process that is killed before its Nth step on files."""
    steps = 0

    def counting(function):
        def call(*arguments, **options):
            nonlocal steps
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for place, name in [(os, "fsync"), (os, "truncate"), (Path, "open"), (Path, "write_bytes"), (Path, "replace")]:
        setattr(place, name, counting(getattr(place, name)))
    review = log(folder)
    for number in range(2):
        review.decide({"edit": "delete", "image_id": 7, "annotation": (9, 5)[number]}, number)
        os.write(said, b"+")
        review.write_corrected()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_anywhere_all_that_was_decided_is_there(tmp_path):
    """A kill before each step on files: what was said to be decided is in the log, and the next start writes it."""
    ends = set()
    for kill_at in range(1, 100):
        folder, (read, said) = tmp_path / str(kill_at), os.pipe()
        folder.mkdir()
        if (child := os.fork()) == 0:
            decide_twice(folder, kill_at, said)
            os._exit(0)
        os.close(said)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told = len(os.read(read, 10))
        os.close(read)
        after = log(folder)
        assert told <= len(after.decisions) <= told + 1
        after.write_corrected()
        found = after.corrected.exists() and json.loads(after.corrected.read_text())
        kept = [one for one in labels()["annotations"] if one["id"] not in (9, 5)[: len(after.decisions)]]
        assert found == (labels() | {"annotations": kept} if after.decisions else False)
        ends.add((code, told))
        if code == 0:
            break
    assert ends == {(-signal.SIGKILL, 0), (-signal.SIGKILL, 1), (-signal.SIGKILL, 2), (0, 2)}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"edit": "rub out", "image_id": 1}, "rub out"),
        ({"edit": "move", "image_id": 1, "annotation": 3}, "needs a box"),
        ({"edit": "move", "image_id": 1, "annotation": 3, "bbox": [1, 2, 0, 4]}, "above 0"),
        ({"edit": "move", "image_id": 1, "annotation": 3, "bbox": [1, 2, float("nan"), 4]}, "finite"),
        ({"edit": "add", "image_id": 1, "category_id": 2, "bbox": [200, 2, 3, 4]}, "outside its picture"),
        ({"edit": "add", "image_id": 1, "category_id": 77, "bbox": BOX}, "category 77"),
        ({"edit": "delete", "image_id": 7, "annotation": 77}, "annotation 77"),
        ({"edit": "delete", "image_id": 77, "annotation": 9}, "image 77"),
        ({"edit": "delete", "image_id": 1, "annotation": 5}, "image 1 of split 'train' has no annotation 5"),
        ({"edit": "keep", "image_id": 1, "annotation": 5}, "has no annotation 5"),
        ({"edit": "delete", "image_id": [1], "annotation": 9}, "no id"),
    ],
)
def test_what_fits_no_label_is_refused_in_a_sentence(tmp_path, wrong, said):
    with pytest.raises(UserError, match=said):
        log(tmp_path).decide(wrong, 0)
    assert not log(tmp_path).path.exists()


def test_an_added_object_that_was_undone_and_one_that_was_deleted_are_there_no_more(tmp_path):
    review = log(tmp_path)
    new = review.decide(add(), 0).correction.annotation
    review.undo(1)
    with pytest.raises(UserError, match=f"no annotation {new}, or none any more"):
        review.decide({"edit": "move", "image_id": 1, "annotation": new, "bbox": BOX}, 2)
    review.decide(DELETE, 2)
    with pytest.raises(UserError, match="no annotation 9, or none any more"):
        review.decide({**DELETE, "edit": "keep"}, 3)


def test_a_correction_of_another_pictures_annotation_and_one_that_adds_an_id_again_change_nothing():
    annotations = {one["id"]: one for one in labels()["annotations"]}
    wrong = [
        Correction(Edit.DELETE, 1, 5),
        Correction(Edit.MOVE, 7, 3, bbox=tuple(ELSEWHERE)),
        Correction(Edit.ADD, 1, 9, 2, tuple(BOX)),
    ]
    assert corrected(annotations, wrong) == annotations


def test_ids_are_those_that_readers_give_and_each_is_there_once():
    coco = labels()
    coco["annotations"][0]["id"] = "4"
    del coco["annotations"][2]["id"]
    assert annotation_ids(coco) == [4, 5, 3]
    coco["annotations"][0]["id"] = "3"
    with pytest.raises(UserError, match="annotation id 3 is there twice"):
        annotation_ids(coco)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--review DIR"):
        writable_folder(tmp_path / "file" / "below", None)
    assert writable_folder(tmp_path / "file" / "below", tmp_path / "asked") == tmp_path / "asked"


def data_set(root, write):
    (root / "images").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (100, 80)).save(root / "images" / f"{name}.png")
    write(root)
    return root


def as_coco(root):
    (root / "annotations").mkdir()
    (root / "annotations" / "train.json").write_text(json.dumps(labels()))


def as_one_coco_file(root):
    (root / "result.json").write_text(json.dumps(labels()))


def as_yolo(root):
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("0 0.25 0.5 0.3 0.5\n")
    (root / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")


def as_labelme(root):
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[10, 20], [40, 60]]}
    content = {"imagePath": "images/a.png", "shapes": [shape]}
    (root / "a.json").write_text(json.dumps(content))


@pytest.mark.parametrize("write", [as_coco, as_one_coco_file, as_yolo, as_labelme])
def test_a_corrected_split_is_read_by_its_name_and_the_others_stay_as_they_were(tmp_path, write):
    root = data_set(tmp_path / "data", write)
    shutil.copytree(root, tmp_path / "before")
    before = load_index(root, "train")
    source = reviewed_labels(DataSource.of(root), "train")
    review = LabelLog(source.content, source.split, source.folder)
    gone = annotation_ids(source.content)[0]
    image_id = source.content["annotations"][0]["image_id"]
    review.decide({"edit": "delete", "image_id": image_id, "annotation": gone}, 0)
    review.decide(
        {**add([0, 0, 10, 10]), "image_id": image_id, "category_id": source.content["categories"][0]["id"]}, 1
    )
    review.write_corrected()
    after = load_index(root, "train")
    assert split_names(root) == split_names(tmp_path / "before")
    assert (after.objects.boxes_xywh == before.objects.boxes_xywh).all()
    assert [one.sentence for one in after.left_out] == [one.sentence for one in before.left_out]
    corrected = load_index(root, "train.corrected")
    assert list(corrected.paths) == list(before.paths)
    assert corrected.label_map.names == before.label_map.names
    boxes = [tuple(box) for box in corrected.objects.boxes_xywh.tolist()]
    assert len(boxes) == len(before.objects)
    assert (0, 0, 10, 10) in boxes
    for path in (tmp_path / "before").rglob("*"):
        if path.is_file():
            assert (root / path.relative_to(tmp_path / "before")).read_bytes() == path.read_bytes()


def test_annotations_without_ids_are_corrected_by_their_places(tmp_path):
    coco = labels()
    for one in coco["annotations"]:
        del one["id"]
    review = LabelLog(coco, "train", tmp_path)
    review.decide({"edit": "delete", "image_id": 7, "annotation": 3}, 0)
    assert review.corrected_labels()["annotations"] == coco["annotations"][:2]


def test_labels_of_several_sets_are_not_reviewed(tmp_path):
    with pytest.raises(UserError, match="a single --data"):
        reviewed_labels(DataSource.of([tmp_path, tmp_path / "more"]), "train")
