"""The folder of an evaluation."""

import json

import numpy as np
import pytest
from PIL import Image
from test_analysis import random_case

from opendetr.evaluation.analysis import analyse
from opendetr.evaluation.analysis_plots import calibration_plot, confusion_plot, f1_plot, write_evaluation
from opendetr.evaluation.coco import FoundArrays


def test_the_folder_has_the_page_the_numbers_and_every_figure(tmp_path, monkeypatch):
    monkeypatch.setattr("opendetr._matplotlib.DPI", 150)  # in other tests figures are small
    metrics = analyse(*random_case(0))
    path = write_evaluation(metrics, tmp_path / "found", "12 pictures of the split test.")
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "calibration.png", "class-ap.png", "confusion.png", "f1.png", "precision-recall.png", "val.html", "val.json",
    ]  # fmt: skip
    assert json.loads((path.parent / "val.json").read_text()) == json.loads(json.dumps(metrics.to_json()))
    text = path.read_text()
    assert "12 pictures of the split test. AP 0." in text
    assert "F1 over the threshold" in text
    for picture in path.parent.glob("*.png"):
        assert min(Image.open(picture).size) > 300  # 3.4 inches at 150 dots


def test_plots_draw_the_numbers():
    analysis = analyse(*random_case(0)).analysis
    (axes,) = confusion_plot(analysis).axes
    assert [int(text.get_text()) for text in axes.texts] == np.ravel(analysis.confusion).tolist()
    (axes,) = f1_plot(analysis).axes
    tops = [line.get_xydata()[0].tolist() for line in axes.lines if len(line.get_xydata()) == 1]
    best = analysis.overall.best
    assert tops[-1] == pytest.approx([best.threshold, best.f1])
    (axes,) = calibration_plot(analysis).axes
    assert axes.lines[1].get_ydata().tolist() == [one.right for one in analysis.calibration.bins]


def test_nothing_found_is_drawn_too(tmp_path):
    truth, _ = random_case(0)
    nothing = FoundArrays(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    assert write_evaluation(analyse(truth, nothing), tmp_path, "Nothing.").exists()
