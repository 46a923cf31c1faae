"""`report.html` of a run: whatever the data are like, and whatever goes wrong."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from opendetr.data.door import load_index
from opendetr.data.loader import DetectionDataset
from opendetr.data.transforms import Preprocessing
from opendetr.evaluation.run_page import class_table, distributions, truth_beside_found
from opendetr.evaluation.runner import analyse_detections, metrics_of
from opendetr.structures import Detections
from opendetr.training import run_report
from opendetr.training.run_folder import RunFolder
from opendetr.training.run_report import RunReport

PREPROCESSING = Preprocessing(48, 96, (0.5,) * 3, (0.5,) * 3)


def samples_of(index):
    dataset = DetectionDataset(index, PREPROCESSING.transform())
    return (dataset[number] for number in range(len(index)))


def perfect(index):
    """The truth of every picture, as detections."""
    for position, record in enumerate(index.records):
        boxes, labels = torch.from_numpy(record.boxes_xyxy).float(), torch.from_numpy(record.labels)
        size = (record.height, record.width)
        yield (
            position,
            Detections(boxes, torch.full((len(labels),), 0.9), labels, index.label_map, size, record.image_id),
        )


@pytest.fixture(params=[1, 85])
def splits(request, coco_folder):
    """Train and val, of one class and of more than COCO has."""
    root = coco_folder(splits=("train", "val"), names=[f"kind {number}" for number in range(request.param)])
    return load_index(root, "train"), load_index(root, "val")


def test_the_page_of_a_measured_run(splits, tmp_path):
    train, val = splits
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    report = RunReport(folder, train, val)
    report.begin(samples_of(train), PREPROCESSING)
    page = folder.path / "report.html"
    assert "Training has not begun. Val (4 pictures) was not measured yet." in page.read_text()
    for step in (20, 40):
        folder.log(
            {"kind": "step", "epoch": step / 40, "step": step, "seconds": 1.0, "loss": 3.0, "matched_accuracy": 50.0}
        )
    detections = list(perfect(val))
    metrics = metrics_of(val, detections)
    folder.log({"kind": "val", "epoch": 1.0, "step": 40, "seconds": 2.0, "val_AP": 1.0, "val_AP50": 1.0})
    report.record_evaluation(analyse_detections(val, detections), detections, {"step": 40, "epoch": 1.0})
    report.write(PREPROCESSING)
    text = page.read_text()
    assert "AP 1.000 (95 %: 1.000 to 1.000), AP50 1.000 (95 %: 1.000 to 1.000)" in text
    classes, analysed = text.split("<h2>Detections on held-out pictures</h2>")
    assert classes.count("kind 0</td>") == 1
    assert ("right class" in classes) == (train.label_map.num_classes > 1)  # with one class it is always right
    assert classes.count("<td>kind ") == train.label_map.num_classes
    assert "It has learned: at a score of 0.45 it finds 100% of the objects, and 100% of what it finds" in classes
    assert f"<td>all classes</td><td>{len(val.labels)}</td><td>0.45</td><td>1.00</td>" in analysed
    assert text.count("found (right)") == len(val)
    assert text.count("data:image/jpeg") == len(val) + len(train)
    assert str(tmp_path) not in text
    assert not re.search(r"""(src|href)=.?https?:|url\(.?http""", text)
    again = RunReport(RunFolder(tmp_path / "other"), train, val)
    again.restore(folder.path)  # as a resumed run does
    assert again.metrics.to_json() == report.metrics.to_json()
    assert again.metrics.summary == metrics.summary
    assert {position: len(found) for position, found in again.found.items()} == {
        position: len(found) for position, found in detections
    }
    for position, found in again.found.items():
        torch.testing.assert_close(found.boxes_xyxy, dict(detections)[position].boxes_xyxy)


def test_a_run_without_val_says_so(splits, tmp_path):
    report = RunReport(RunFolder(tmp_path), splits[0], None)
    report.restore(tmp_path / "nothing here")
    report.begin(samples_of(splits[0]), PREPROCESSING)
    text = (tmp_path / "report.html").read_text()
    assert "There is no val split without pictures of training" in text
    assert "Held-out pictures" not in text
    assert "Training pictures as the model sees them" in text


def test_nothing_that_fails_reaches_the_training(coco_folder, tmp_path, monkeypatch, capsys):
    root = coco_folder(splits=("train", "val"))
    train, val = load_index(root, "train"), load_index(root, "val")
    train.records[1].path.write_bytes(b"no picture")
    val.records[0].path.write_bytes(b"no picture")
    report = RunReport(RunFolder(tmp_path), train, val)
    dataset = DetectionDataset(train, PREPROCESSING.transform())
    report.begin(map(dataset.__getitem__, range(len(train))), PREPROCESSING)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("report.html lacks 1 picture (") == 2
    assert [picture.position for picture in report.pictures] == list(range(1, len(val)))  # the others are there
    assert report.augmented.count("<figure") == len(train) - 1
    assert (tmp_path / "report.html").exists()
    (tmp_path / "evaluation.json").write_text('{"metrics": 3}')
    report.restore(tmp_path)
    monkeypatch.setattr(run_report, "write_text", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    report.write(PREPROCESSING)
    said = capsys.readouterr().out
    assert said.count("Warning: report.html is not up to date") == 2
    assert "the disk is full" in said


def test_slow_pictures_make_a_shorter_page(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(run_report, "SECONDS", 0.0)
    report = RunReport(RunFolder(tmp_path), *splits)
    report.begin(samples_of(splits[0]), PREPROCESSING)
    assert len(report.pictures) == 1


def test_weak_detections_are_shown_where_there_are_no_others(splits):
    val = splits[1]
    weak = {where: replace(found, scores=found.scores / 3) for where, found in perfect(val)}
    pictures = [run_report.ShownPicture.of(val, where) for where in weak]
    assert "a score of at least 0.25" in truth_beside_found(pictures, weak, val.label_map)
    assert "a score of at least 0.5" in truth_beside_found(pictures, dict(perfect(val)), val.label_map)


def test_classes_are_counted_and_the_most_frequent_comes_first(coco_folder):
    index = load_index(coco_folder((3, 3, 3)), "train")
    counts = np.bincount(np.concatenate([record.labels for record in index.records]), minlength=3)
    table = class_table({"training": index}, index.label_map, None)
    listed = [
        (name, int(count)) for name, count in re.findall(r"<td>(\w+)</td><td><span[^>]*></span>(\d+)</td>", table)
    ]
    assert sorted(listed) == sorted(zip(index.label_map.names, counts.tolist()))
    assert [count for _, count in listed] == sorted(counts.tolist(), reverse=True)


def test_every_object_is_in_the_histograms(coco_folder):
    index = load_index(coco_folder((1, 2, 0, 3)), "train")
    charts = distributions(index, PREPROCESSING)
    bars = [int(count) for count in re.findall(r"<title>[\d.]+ to [\d.]+: (\d+)</title>", charts)]
    assert sum(bars) == 6 + 6 + 4  # twice the objects, once the pictures
    assert "1 of 4 pictures have none; the fullest has 3." in charts
    assert "No picture has an object" in distributions(load_index(coco_folder((0, 0)), "train"), PREPROCESSING)


def test_the_hardest_pictures_come_first_and_those_that_cannot_be_read_are_said_once(coco_folder, tmp_path, capsys):
    root = coco_folder((2,), splits=("train",)), coco_folder((1, 2, 3, 1, 2), splits=("val",))
    train, val = load_index(root[0], "train"), load_index(root[1], "val")
    val.records[3].path.write_bytes(b"no picture")
    report = RunReport(RunFolder(tmp_path), train, val)
    report.begin(samples_of(train), PREPROCESSING)
    lost = {2: 2, 3: 1, 4: 1}  # objects that are not found, by picture: two of three, one of one, one of two
    detections = [(where, found[lost.get(where, 0) :]) for where, found in perfect(val)]
    for step in (1, 2):
        report.record_evaluation(analyse_detections(val, detections), detections, {"step": step})
        assert [picture.position for picture in report.pictures] == [2, 4, 0, 1]  # 3 is the hardest, and unreadable
    assert capsys.readouterr().out.count("report.html lacks 1 picture") == 1
    report.write(PREPROCESSING)
    text = (tmp_path / "report.html").read_text()
    assert "The 3 hardest held-out pictures, then others: truth beside found" in text
    assert text.index("held-out-2") < text.index("held-out-4") < text.index("held-out-0")
